"""Settings are checked where they enter: from the command line, from files, from code."""

import json
import math

import pytest
import torch

from training import train
from training.config import STRENGTHS, Config
from training.scale import Scale

BAD = [
    ("lr", math.nan), ("lr", math.inf), ("lr", 0.0), ("lr", "fast"), ("lr", None), ("lr", True),
    ("betas", (2.0, 3.0)), ("betas", (0.5, 1.0)), ("betas", (-0.1, 0.9)), ("betas", (0.5,)), ("betas", 0.5),
    ("betas", (0.5, math.nan)), ("longest_side", 0), ("longest_side", 10), ("longest_side", 100.0), ("scales", 0),
    ("scales", -1), ("ratio", 1.0), ("ratio", math.nan), ("channels", ()), ("channels", (0,)), ("channels", (16.7,)),
    ("channels", ("16",)), ("channels", 16), ("taps", (9,)), ("taps", ("4",)), ("distance", "cubed"),
    ("image_exponent", 3.0), ("image_share", math.nan), ("texture_taps", (0,)), ("texture_taps", (9,)),
    ("texture_skips", -1), ("texture_skips", 9), ("texture_pull", -1.0), ("texture_pull", math.inf),
    ("periods", (1,)), ("periods", (3.5,)),
    ("periodic_weight", -1.0), ("periodic_weight", math.nan), ("wiener", 4), ("wiener", 5.0), ("steps", "6"),
    ("steps", 0), ("lr", 10**400), ("betas", (0.5, -(10**400))), ("scales", 33), ("scales", 10**12),
    ("seed", 2**60), ("seed", 0.5), ("seed", None), ("device", "gpu"), ("device", ""), ("device", "meta"),
    ("device", "cuda:x"), ("device", None), ("lr_decay_at", 1.5), ("lr_decay_at", math.nan), ("lr_decay", 0.0),
    ("lr_decay", math.inf), ("penalty_weight", -1.0), ("penalty_weight", math.nan), ("reconstruction_weight", -1.0),
    ("input_range", (1.0, 0.0)), ("input_range", (0.0, math.inf)), ("noise_sigma", (5.0, math.nan)),
    ("jpeg_quality", (5, 200)), ("upscale", "yes"), ("upscale", 1), ("task", "a b"), ("task", 3), ("image", None),
    ("distortion", 3), ("distortion", ("jpeg", 3)), ("distortion", "wepb"), ("distortion_weights", (1.0, 1.0)),
    ("distortion_weights", (0.0,)), ("distortion_weights", (math.nan,)), ("command_seconds", 0.0),
    ("threads", -1), ("kernels", "fast"), ("objective", "mse"), ("checkpoint_every", 0),
]  # fmt: skip
BAD += [(name, strength.default[::-1]) for name, (strength, _) in STRENGTHS.items()]  # the highest first


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda x: str(x)[:40])
def test_a_value_that_cannot_be_is_named(name, value):
    with pytest.raises(ValueError, match=name.replace("_", "[-_]")):
        Config(**{name: value})


def test_every_setting_has_a_value_here_that_is_refused():
    free = {"image_licence", "generator", "spectral_norm", "shared_norm", "inherit", "critic_updates"}
    free |= {"generator_updates", "image"}  # checked as their kind is
    assert {name for name, _ in BAD} | free >= set(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    "flags",
    [["--lr", "nan"], ["--betas", "2", "3"], ["--longest-side", "0"], ["--device", "gpu"], ["--ratio", "inf"]],
    ids=" ".join,
)
def test_the_command_line_says_so_in_a_line(tmp_path, capsys, flags):
    assert train.main(["--task", "denoise", "--out", str(tmp_path / "new"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flags[0][2:]} must ")
    assert not (tmp_path / "new").exists()


def test_a_device_that_is_not_here_is_named(tmp_path, capsys):
    name = "cuda:99" if torch.cuda.is_available() else "xpu:99"
    assert train.main(["--task", "denoise", "--out", str(tmp_path / "new"), "--device", name]) == 2
    assert f"error: --device {name} cannot be used here" in capsys.readouterr().err


def test_whole_numbers_are_numbers_and_the_settings_survive_json():
    config = Config(lr=1, betas=(0, 0.9), seed=-5, longest_side=11, channels=(4, 8), scales=2)
    assert Config.from_dict(json.loads(config.to_json())) == config
    Scale(config, 1, torch.device("cpu"))


def test_settings_of_a_newer_version_are_named():
    with pytest.raises(ValueError, match="there are no settings colour, taste: a newer version"):
        Config.from_dict({"taste": 1, "colour": "blue"})
