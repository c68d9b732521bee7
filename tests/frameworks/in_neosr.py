"""Two steps of neosr's own model by the page's options, on the CPU. Run by test_frameworks.py.

python in_neosr.py       in a folder for what it writes, with neosr importable
"""

import json
import sys
from pathlib import Path

import torch
from page import block
from steps import Steps

OPTIONS = """
name = "two_steps"
model_type = "image"
scale = 4
num_gpu = 0
use_amp = false
manual_seed = 1

[datasets.train]
type = "paired"
dataroot_gt = "gt"
dataroot_lq = "lq"
patch_size = 24
batch_size = 2

[path]
experiments_root = "experiments"

[network_g]
type = "compact"
num_feat = 4
num_conv = 1

[logger]
total_iter = 2
save_checkpoint_freq = 2
use_tb_logger = false

[train]
ema = 0.9

[train.optim_g]
type = "adamw"
lr = 1e-3
"""


def main() -> None:
    Path("options.toml").write_text(OPTIONS + "\n" + block("neosr", "toml"), encoding="utf-8")
    sys.argv = ["train.py", "-opt", "options.toml"]  # which neosr reads as soon as it is imported

    from neosr.models.image import image
    from neosr.utils.options import parse_options
    from neosr.utils.registry import LOSS_REGISTRY

    from task_losses import SRLoss

    class OnTheCPU(image):  # type: ignore[misc, unused-ignore]
        """neosr names CUDA in its constructor; all else is its own."""

        device = property(lambda self: torch.device("cpu"), lambda self, value: None)

    options, _ = parse_options(".", is_train=True)
    model = OnTheCPU(options)
    rows = []
    with Steps() as steps:
        for step in (1, 2):
            model.feed_data({"lq": torch.rand(2, 3, 24, 24), "gt": torch.rand(2, 3, 96, 96)})
            model.optimize_parameters(step)
            expected = 0.5 * SRLoss()(model.output.detach(), model.gt).item()
            rows.append([float(model.log_dict["l_g_percep"]), expected])
    names = sorted(name for name, kind in LOSS_REGISTRY if kind.__module__.startswith("task_losses"))
    print(json.dumps({"steps": steps.count, "rows": rows, "names": names, "truthy": bool(model.cri_perceptual)}))


if __name__ == "__main__":
    main()
