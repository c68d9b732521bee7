"""The built-in distortions: each does what its name says, within its range, and is one entry of the registry."""

from __future__ import annotations

import math
import os
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from training import train
from training.builtin import BUILTIN, Builtin, Strength, blur, noise
from training.config import STRENGTHS, Config, task_of
from training.distortions import make_distortion
from training.images import open_image, resize_clipped

LACKING = {name: builtin.lacking() for name, builtin in BUILTIN.items()}
CODECS = ("jpeg", "webp", "avif", "h264", "h265")
# Of the strongest end of a range: some are stronger the larger their number is, some the smaller.
FALLING = ("jpeg_quality", "webp_quality", "avif_quality", "sensor_photons")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def here(name: str) -> None:
    if LACKING[name]:
        pytest.skip(f"this machine lacks {LACKING[name]}")


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    return resize_clipped(open_image("skimage:astronaut")[0], (63, 81))  # odd sides


def distorted(name: str, image: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    return make_distortion(Config(task=name, upscale=name == "sr", **settings))(image, draws(seed))


@pytest.mark.parametrize("name", [name for name in BUILTIN if name != "sr"])
class TestEach:
    def test_it_changes_the_image_and_nothing_else_of_it(self, name: str, photograph: Tensor) -> None:
        here(name)
        before = photograph.clone()
        result = distorted(name, photograph)
        assert (result.shape, result.dtype) == (photograph.shape, photograph.dtype)
        assert torch.equal(photograph, before)
        assert torch.isfinite(result).all()
        assert 1 / 255 < (result - photograph).square().mean().sqrt() < 0.25
        assert (result - photograph).mean(dim=(0, 2, 3)).abs().max() < 0.03, "brightness and colours stay"

    def test_one_seed_means_one_distortion_and_another_another(self, name: str, photograph: Tensor) -> None:
        here(name)
        assert torch.equal(distorted(name, photograph, 3), distorted(name, photograph, 3))
        assert not torch.equal(distorted(name, photograph, 3), distorted(name, photograph, 4))

    def test_it_stays_where_it_was(self, name: str, photograph: Tensor) -> None:
        here(name)
        result = distorted(name, photograph)
        errors = {
            (x, y): (result.roll((x, y), (-1, -2)) - photograph)[..., 4:-4, 4:-4].square().mean().item()
            for x in (-1, 0, 1)
            for y in (-1, 0, 1)
        }
        assert min(errors, key=lambda shift: errors[shift]) == (0, 0)

    def test_each_strength_makes_it_stronger(self, name: str, photograph: Tensor) -> None:
        here(name)
        for strength in BUILTIN[name].strengths:
            if strength.setting == "grain_size":
                continue  # as strong, of larger grains
            low, high = strength.default
            errors = [
                (distorted(name, photograph, 0, **{strength.setting: (end, end)}) - photograph).square().mean()
                for end in ((high, low) if strength.setting in FALLING else (low, high))
            ]
            assert errors[0] < errors[1], strength.setting

    def test_small_levels_of_the_pyramid_go_through_it(self, name: str) -> None:
        here(name)
        assert distorted(name, torch.full((1, 3, 9, 7), 0.5)).shape == (1, 3, 9, 7)


def test_codecs_differ(photograph: Tensor) -> None:
    results = [distorted(name, photograph) for name in CODECS if not LACKING[name]]
    assert len(results) >= 3
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_sensor_noise_has_the_variance_of_poisson_and_gauss() -> None:
    for level in (0.0, 0.2, 0.9):
        result = noise.sensor_noise(torch.full((1, 3, 200, 200), level), 50, 3, draws())
        assert result.mean().item() == pytest.approx(level, abs=2e-3)
        assert result.var().item() == pytest.approx(level / 50 + (3 / 50) ** 2, rel=0.03)


def test_grain_is_grey_soft_and_strongest_in_the_middle() -> None:
    def grain(level: float, size: float) -> Tensor:
        return noise.film_grain(torch.full((1, 3, 200, 200), level), 0.1, size, draws()) - level

    middle = grain(0.5, 1.5)
    torch.testing.assert_close(middle[:, 0], middle[:, 2])
    assert middle.std().item() == pytest.approx(0.1, rel=0.05)
    assert grain(0.1, 1.5).std() < 0.7 * middle.std()
    assert grain(1.0, 1.5).abs().max() == 0

    def neighbours(x: Tensor) -> float:
        return (x[..., 1:] * x[..., :-1]).mean().item() / x.square().mean().item()

    assert neighbours(middle) == pytest.approx(math.exp(-1 / (4 * 1.5**2)), abs=0.02)
    assert abs(neighbours(grain(0.5, 0.1))) < 0.02


@pytest.mark.parametrize(
    "kernel", [blur.line(7.5, 0.6), blur.line(1, 0), blur.line(0, 0), blur.disc(2.7), blur.disc(0.1)]
)
def test_kernels_keep_the_light_and_its_place(kernel: Tensor) -> None:
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel.min() >= 0
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    assert kernel.shape[0] % 2 == 1


def test_motion_is_as_long_as_it_says_and_in_its_direction() -> None:
    along = torch.arange(-20.0, 21)
    for angle in (0.0, math.pi / 2, 0.7):
        kernel = blur.line(21, angle)
        side = kernel.shape[0] // 2
        place = along[20 - side : 21 + side]
        x, y = (kernel.sum(dim) * place.square() for dim in (0, 1))
        assert x.sum().item() == pytest.approx(math.cos(angle) ** 2 * 21**2 / 12, abs=0.6)
        assert y.sum().item() == pytest.approx(math.sin(angle) ** 2 * 21**2 / 12, abs=0.6)


def test_defocus_is_a_disc() -> None:
    kernel = blur.disc(5)
    side = kernel.shape[0] // 2
    y, x = torch.meshgrid(*[torch.arange(-side, side + 1)] * 2, indexing="ij")
    distance = (x.square() + y.square()).sqrt()
    inside, outside = kernel[distance < 3.8], kernel[distance > 6.2]
    assert outside.max() == 0
    assert inside.min() > 0.9 * inside.max()
    assert inside.mean().item() == pytest.approx(1 / (math.pi * 25), rel=0.05)


def test_a_logarithmic_strength_is_as_often_below_its_middle_as_above() -> None:
    strength = Strength("x", (1.0, 100.0), (1, 100), "", logarithmic=True)
    source = draws()
    found = torch.tensor([strength.draw(1, 100, source) for _ in range(400)])
    assert found.min() >= 1
    assert found.max() <= 100
    assert (found < 10).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_what_is_missing_is_said_before_any_work(photograph: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.builtin import codecs

    codecs.lacking_in_ffmpeg.cache_clear()
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ValueError, match="the distortion h264 needs ffmpeg"):
        make_distortion(Config(task="h264"))
    codecs.lacking_in_ffmpeg.cache_clear()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_what_ffmpeg_says_is_told() -> None:
    from training.builtin import codecs

    with pytest.raises(ValueError, match="ffmpeg failed with code"):
        codecs._ffmpeg(b"", "-i", "pipe:0", "-f", "no-such-format", "pipe:1")


def test_one_entry_makes_a_task_and_its_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that ``--help`` says of the built-in ones comes from the registry."""
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, builtin in BUILTIN.items():
        assert f"({', '.join(BUILTIN)})" in said
        for strength in builtin.strengths:
            default = " ".join(map(str, strength.default))
            assert f"--{strength.setting.replace('_', '-')} N N {name}: {strength.text} [{default}]" in said
    monkeypatch.setitem(BUILTIN, "dark", Builtin("", (), lambda image, generator: image / 2))
    assert torch.equal(
        make_distortion(Config(task="dark"))(torch.ones(1, 3, 4, 4), draws()), torch.ones(1, 3, 4, 4) / 2
    )


def test_defaults_lie_within_the_limits_and_names_are_used_once() -> None:
    assert all(s.limits[0] <= s.default[0] <= s.default[1] <= s.limits[1] for s, _ in STRENGTHS.values())
    assert len(STRENGTHS) == sum(len(builtin.strengths) for builtin in BUILTIN.values())


def test_the_name_of_a_built_in_one_is_enough() -> None:
    assert task_of({"distortion": "webp"}) == "webp"
    assert task_of({"distortion": "webp", "task": "mine"}) == "mine"
    assert task_of({}) == "jpeg"


def test_several_are_drawn_by_their_weights(photograph: Tensor) -> None:
    config = Config(task="both", distortion=("jpeg", "defocus"), distortion_weights=(3, 1))
    alone = [make_distortion(Config(task=name)) for name in ("jpeg", "defocus")]
    distort, source = make_distortion(config), draws()
    level = photograph[..., :16, :16]
    found = []
    for _ in range(200):
        result = distort(level, source)
        found.append(bool(torch.equal(result, result.mul(255).round() / 255)))  # a codec gives 8 bits
    assert 0.65 < sum(found) / len(found) < 0.85
    assert not torch.equal(alone[0](level, draws()), alone[1](level, draws()))


def test_settings_of_others_do_not_travel_in_the_weights() -> None:
    used = Config(task="webp").used
    assert used["webp_quality"] == (5, 60)
    assert not {"jpeg_quality", "noise_sigma", "grain_size", "device"} & used.keys()
    assert Config.from_dict(used) == Config(task="webp")
