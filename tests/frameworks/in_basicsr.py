"""Two steps of BasicSR's own training on two small images, by the page's lines. Run by test_frameworks.py.

python in_basicsr.py dropped|imported       in an empty folder, with BasicSR importable
"""

import importlib
import json
import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml
from page import block
from PIL import Image
from steps import Steps

OPTIONS = """
name: two_steps
model_type: SRModel
scale: 4
num_gpu: 0
manual_seed: 0
datasets:
  train:
    name: noise
    type: PairedImageDataset
    dataroot_gt: gt
    dataroot_lq: lq
    io_backend: {type: disk}
    gt_size: 96
    use_hflip: false
    use_rot: false
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 4
network_g: {type: MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, upscale: 4}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 0.001}
  scheduler: {type: MultiStepLR, milestones: [100], gamma: 0.5}
  total_iter: 2
  warmup_iter: -1
logger: {print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false, wandb: {project: ~}}
dist_params: {backend: gloo, port: 29500}
"""


def main(how: str) -> None:
    for folder, size in (("gt", 96), ("lq", 24)):
        Path(folder).mkdir()
        for index in range(2):
            pixels = numpy.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(f"{folder}/{index}.png")
    options = yaml.safe_load(OPTIONS)
    options["train"] |= yaml.safe_load(block("BasicSR", "yaml"))["train"]
    Path("options.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    lines = block("BasicSR", "python")
    if how == "dropped":  # in BasicSR's folder of losses already
        lines = lines.replace("import task_losses.integrations.basicsr\n", "")
    Path("train.py").write_text(lines, encoding="utf-8")
    sys.argv = ["train.py", "-opt", "options.yml"]
    with Steps() as steps:
        runpy.run_path("train.py", run_name="__main__")

    import basicsr
    from basicsr.losses import build_loss
    from basicsr.utils.registry import LOSS_REGISTRY, Registry

    import task_losses.integrations.basicsr as ours
    from task_losses import SRLoss
    from task_losses.integrations.slots import WeightedSlot, register

    importlib.reload(ours)  # registers again
    others = Registry("loss")
    others.register(torch.nn.L1Loss)
    try:
        register(others, WeightedSlot, lambda kind: "L1Loss", ours.__name__)
        clash = ""
    except ValueError as error:
        clash = str(error)

    pred, target = torch.rand(2, 2, 3, 64, 64).unbind()
    built = build_loss(options["train"]["perceptual_opt"])
    value, style = built(pred, target)
    sums: dict[str, Any] = {"loss_weight": 0.5, "reduction": "sum"}
    pixel = build_loss({"type": "SRLoss", **sums})
    done = {
        "steps": steps.count,
        "version": basicsr.__version__,
        "file": basicsr.__file__,
        "saved": sorted(path.name for path in Path("experiments").rglob("*.pth")),
        "style": style,
        "truthy": bool(built),
        "perceptual": [value.item(), 0.5 * SRLoss()(pred, target).item()],
        "pixel": [
            pixel(pred, target, weight=None).item(),
            SRLoss(**sums)(pred, target).item(),
        ],
        "state": len(built.state_dict()),
        "names": sorted(name for name, kind in LOSS_REGISTRY if kind.__module__ == ours.__name__),
        "clash": clash,
        "pickles": type(pickle.loads(pickle.dumps(built))).__name__,
    }
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
