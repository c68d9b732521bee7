"""Two steps of KAIR's own model, with the page's two lines in it. Run by test_frameworks.py.

python in_kair.py        in a copy of KAIR's folders models and utils, which it edits
"""

import json
import sys
from pathlib import Path

import torch
from page import block
from steps import Steps

sys.path.insert(0, ".")
BEFORE = "        else:\n            raise NotImplementedError('Loss type"
OPTIONS = {
    "task": "two_steps",
    "model": "plain",
    "gpu_ids": None,
    "dist": False,
    "is_train": True,
    "scale": 4,
    "path": {"models": "saved", "pretrained_netG": None, "pretrained_netE": None, "pretrained_optimizerG": None},
    "netG": {
        "net_type": "msrresnet0", "in_nc": 3, "out_nc": 3, "nc": 4, "nb": 1, "act_mode": "R", "scale": 4,
        "upsample_mode": "pixelshuffle", "init_type": "orthogonal", "init_bn_type": "uniform", "init_gain": 0.2,
    },
    "train": {
        "E_decay": 0, "G_optimizer_type": "adam", "G_optimizer_lr": 1e-3, "G_optimizer_betas": [0.9, 0.999],
        "G_optimizer_wd": 0, "G_optimizer_clipgrad": None, "G_optimizer_reuse": False,
        "G_scheduler_type": "MultiStepLR", "G_scheduler_milestones": [100], "G_scheduler_gamma": 0.5,
        "G_regularizer_orthstep": None, "G_regularizer_clipstep": None, "G_param_strict": True,
        "checkpoint_save": 1000,
    },
}  # fmt: skip


def main() -> None:
    file = Path("models/model_plain.py")
    source = file.read_text(encoding="utf-8").replace("\r\n", "\n")
    assert source.count(BEFORE) == 1
    file.write_text(source.replace(BEFORE, block("KAIR", "python") + BEFORE), encoding="utf-8")
    options = OPTIONS | {"train": {**OPTIONS["train"], **json.loads(block("KAIR", "json"))["train"]}}  # type: ignore[dict-item]

    from models.select_model import define_Model

    from task_losses import SRLoss

    model = define_Model(options)
    model.init_train()
    rows = []
    with Steps() as steps:
        for step in (1, 2):
            model.feed_data({"L": torch.rand(2, 3, 24, 24), "H": torch.rand(2, 3, 96, 96)})
            model.optimize_parameters(step)
            rows.append([model.log_dict["G_loss"], SRLoss()(model.E.detach(), model.H).item()])
    print(json.dumps({"steps": steps.count, "rows": rows}))


if __name__ == "__main__":
    main()
