"""The distortions do what their names say."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from training.builtin import BUILTIN
from training.builtin.codecs import jpeg
from training.builtin.noise import gaussian_noise
from training.config import Config
from training.distortions import make_distortion
from training.recipes import settings


@pytest.fixture
def image():
    return torch.rand(1, 3, 40, 33, generator=torch.Generator().manual_seed(1))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_noise_has_its_sigma():
    noise = gaussian_noise(torch.zeros(1, 3, 300, 300), 25 / 255, draws())
    assert noise.std().item() == pytest.approx(25 / 255, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)


def test_jpeg_is_the_codec(image):
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=12)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(jpeg(image, 12), expected)


def test_jpeg_treats_a_batch_image_by_image(image):
    batch = torch.cat([image, image.flip(-1)])
    torch.testing.assert_close(jpeg(batch, 30)[1:], jpeg(image.flip(-1), 30))


def test_sr_is_left_to_the_pyramid(image):
    assert make_distortion(Config(task="sr", upscale=True))(image, draws()) is image


def test_noise_strength_covers_its_range(image):
    distort = make_distortion(Config(task="denoise", noise_sigma=(5, 50)))
    random = draws()
    sigmas = [255 * (distort(image, random) - image).std().item() for _ in range(200)]
    assert min(sigmas) < 8
    assert max(sigmas) > 47
    assert np.mean(sigmas) == pytest.approx(27.5, abs=3)


def test_jpeg_quality_stays_in_its_range(image, monkeypatch):
    seen = []
    monkeypatch.setitem(
        BUILTIN, "jpeg", BUILTIN["jpeg"]._replace(apply=lambda image, quality, generator: seen.append(quality) or image)
    )
    distort = make_distortion(Config(task="jpeg", jpeg_quality=(10, 12)))
    random = draws()
    for _ in range(60):
        distort(image, random)
    assert set(seen) == {10, 11, 12}


def test_one_seed_means_one_distortion(image):
    for task in ("denoise", "jpeg"):
        distort = make_distortion(Config(**settings(task, {"task": task})))
        assert torch.equal(distort(image, draws(3)), distort(image, draws(3)))
        assert not torch.equal(distort(image, draws(3)), distort(image, draws(4)))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_distortions.py").write_text(
        "import torch\n"
        "def darker(image, generator): return image * 0.5\n"
        "def smaller(image, generator): return image[..., 1:]\n"
        "def broken(image, generator): return image / 0\n"
    )
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own_module")
def test_own_function(image):
    distort = make_distortion(Config(task="night", distortion="own_distortions:darker"))
    torch.testing.assert_close(distort(image, draws()), image * 0.5)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [("smaller", r"must return a floating point tensor of shape \(1, 3, 40, 33\)"), ("broken", "not finite")],
)
def test_own_function_is_checked(image, name, message):
    distort = make_distortion(Config(task="night", distortion=f"own_distortions:{name}"))
    with pytest.raises(ValueError, match=message):
        distort(image, draws())


@pytest.mark.parametrize("name", ["no_such_module:f", "math:no_such_function"])
def test_unknown_function_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"cannot import the distortion {name!r}")):
        make_distortion(Config(task="night", distortion=name))
