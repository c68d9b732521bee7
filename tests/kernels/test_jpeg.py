"""JPEG on the device is the real codec's, value for value."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from training.kernels.jpeg import dct_matrix, jpeg, quantisation_tables


def pillow(image, quality):
    """(N, 3, H, W) multiples of 1 / 255 through the codec, chroma at full resolution; and the tables in its files."""
    results, tables = [], []
    for picture in (image * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
        decoded = Image.open(file)
        tables.append(decoded.quantization)
        results.append(np.array(decoded))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2) / 255, tables


def photograph(height, width, top=60, left=100):
    picture = torch.from_numpy(skimage.data.chelsea()[top : top + height, left : left + width].copy())
    return picture.permute(2, 0, 1)[None] / 255


def noise(height, width):
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(0)) / 255


def ties(height, width):
    """Colours whose chroma lies half way between two integers."""
    odd = torch.randint(0, 64, (1, 1, height, width), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return torch.cat([0 * odd, odd * (odd < 64), odd], 1) / 255


def levels(image):
    return (image * 255).round().int().cpu()


QUALITIES = [1, 10, 30, 50, 75, 90, 95, 100]
SIZES = [(1, 1), (8, 8), (7, 17), (25, 34), (61, 83), (250, 250)]


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("picture", [photograph, noise, ties])
def test_the_reference_is_the_codec(picture, size, quality):
    image = picture(*size)
    assert torch.equal(levels(jpeg(image, quality, impl="reference")), levels(pillow(image, quality)[0]))


@pytest.mark.parametrize(
    ("picture", "size", "quality"),
    [
        (photograph, (61, 83), 10),
        (photograph, (61, 83), 50),
        (photograph, (61, 83), 90),
        (photograph, (1, 1), 30),
        (photograph, (25, 34), 75),
        (noise, (24, 200), 20),
        (noise, (17, 8), 100),
        (noise, (9, 65), 1),
        (ties, (16, 24), 100),
    ],
)
def test_the_kernel_is_the_codec(picture, size, quality, device):
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    image = picture(*size)
    result = jpeg(image.to(device), quality, impl="triton")
    assert torch.equal(levels(result), levels(pillow(image, quality)[0]))
    assert torch.equal(result.cpu(), jpeg(image, quality, impl="reference"))


@pytest.mark.slow
@pytest.mark.parametrize("quality", range(10, 91, 10))
def test_the_kernel_is_the_codec_on_a_large_picture(quality, device):
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    image = photograph(250, 250, 0, 0)
    assert torch.equal(levels(jpeg(image.to(device), quality, impl="triton")), levels(pillow(image, quality)[0]))


def test_each_image_has_its_quality(device):
    images = torch.cat([photograph(20, 24), photograph(20, 24, 100), photograph(20, 24, 20, 250)])
    result = jpeg(images.to(device), torch.tensor([5, 40, 95], device=device))
    for i, quality in enumerate((5, 40, 95)):
        assert torch.equal(levels(result[i : i + 1]), levels(pillow(images[i : i + 1], quality)[0]))


@pytest.mark.parametrize("quality", QUALITIES)
def test_tables_are_those_in_the_codecs_files(quality):
    tables = quantisation_tables(torch.tensor([quality]))[0]
    in_file = pillow(photograph(8, 8), quality)[1][0]
    assert [table.flatten().tolist() for table in tables] == [list(in_file[0]), list(in_file[1])]


def test_the_matrix_is_the_dct():
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    cosines = torch.cos(torch.pi * (2 * n + 1) * k / 16) * torch.where(k == 0, 1, 2**0.5)
    assert (torch.tensor(dct_matrix()) / 2**13 - cosines).abs().max() < 2**-12


def test_values_are_clipped_and_rounded(device):
    image = torch.full((1, 3, 8, 8), 0.5, device=device)
    image[:, :, :4] = 7.0
    image[:, :, 4:, 4:] = -3.0
    clipped = (image.clamp(0, 1) * 255 + 0.5).floor() / 255
    assert torch.equal(jpeg(image, 90), jpeg(clipped, 90))
    result = jpeg(image, 90)
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(dtype, device):
    image = photograph(16, 24).to(device, dtype)
    result = jpeg(image, 50)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), jpeg(image.float(), 50).to(dtype).float())


def test_refuses_what_it_cannot_do():
    image = photograph(8, 8)
    with pytest.raises(ValueError, match=r"image is \(3, 8, 8\) torch.float32: expected \(N, 3, H, W\)"):
        jpeg(image[0], 50)
    with pytest.raises(ValueError, match="quality is 0: expected 1 to 100"):
        jpeg(image, 0)
    with pytest.raises(ValueError, match=r"expected integers \(1,\), one per image"):
        jpeg(image, torch.tensor([50, 60]))
    with pytest.raises(ValueError, match=r"impl is 'triton', image is on cpu.*use impl='auto'"):
        jpeg(image, 50, impl="triton")
    with pytest.raises(ValueError, match="impl is 'cuda': expected auto, triton or reference"):
        jpeg(image, 50, impl="cuda")
