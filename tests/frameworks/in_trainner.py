"""Two steps of traiNNer-redux's own model by the page's options. Run by test_frameworks.py.

python in_trainner.py WEIGHT scales|whole       in a folder for what it writes, with traiNNer importable
"""

import json
import sys
from pathlib import Path

import torch
import yaml
from page import block
from steps import Steps

OPTIONS = """
name: two_steps
scale: 4
num_gpu: 0
use_amp: false
manual_seed: 1
datasets:
  train:
    name: noise
    type: pairedimagedataset
    dataroot_gt: [gt]
    dataroot_lq: [lq]
    lq_size: 24
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    accum_iter: 1
network_g: {type: compact, num_feat: 4, num_conv: 1}
path: {strict_load_g: true}
train:
  ema_decay: 0.9
  optim_g: {type: AdamW, lr: 0.001}
  scheduler: {type: MultiStepLR, milestones: [100], gamma: 0.5}
  total_iter: 2
  warmup_iter: -1
logger: {print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false}
"""


def main(weight: float, per_scale: bool) -> None:
    options = yaml.safe_load(OPTIONS)
    options["train"] |= yaml.safe_load(block("traiNNer-redux", "yaml"))["train"]
    options["train"]["losses"][-1] |= {"loss_weight": weight, "per_scale": per_scale}
    Path("options.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    sys.argv = ["train.py", "-opt", "options.yml"]

    from traiNNer.models import build_model
    from traiNNer.utils.config import Config
    from traiNNer.utils.registry import LOSS_REGISTRY

    from task_losses import SRLoss

    opt, _ = Config.load_config_from_file(".", is_train=True)
    model = build_model(opt)
    rows = []
    with Steps() as steps:
        for step in (1, 2):
            model.feed_data({"lq": torch.rand(2, 3, 24, 24), "gt": torch.rand(2, 3, 96, 96)})
            model.log_dict, model.loss_samples = {}, 0
            model.optimize_parameters(step, 0, True)
            target = model.gt
            if weight < 0:
                target = torch.nn.functional.interpolate(model.lq, scale_factor=4, mode="bicubic", antialias=True)
                target = target.clamp(0, 1)
            expected = {"l_g_sr": SRLoss()(model.output.detach(), target)}
            if per_scale:
                shares = SRLoss().per_scale(model.output.detach(), target)
                expected = {f"l_g_sr_scale{scale}": share.mean() for scale, share in shares.items()}
            logged = {name: float(value) / 2 for name, value in model.log_dict.items()}  # it logs sums over two images
            rows.append({"logged": logged, "expected": {name: abs(weight) * v.item() for name, v in expected.items()}})
    names = sorted(name for name, kind in LOSS_REGISTRY if kind.__module__.startswith("task_losses"))
    print(json.dumps({"steps": steps.count, "rows": rows, "names": names}))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2] == "scales")
