"""Restores real JPEG images with a small network, trained with the JPEG loss and, for comparison, with L1.

    python -m training.demo                 # a minute or two on a CPU; writes demo.png

Trained on three photographs of scikit-image, in all orders of their colour channels, and tested on a fourth; all are
compressed by a real codec. Both networks start from the same short L1 training and see the same patches in the same
order; only the loss differs.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from tqdm import tqdm

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import_module("training")  # before torch: it says how torch's threads wait

from task_losses import JPEGLoss
from training.bench.study.restorers import make_restorer
from training.builtin.codecs import jpeg
from training.images import open_image, picture, resize_clipped

TRAINING = ("skimage:chelsea", "skimage:coffee", "skimage:rocket")
TEST = "skimage:astronaut"
CROP = (slice(0, 200), slice(140, 340))  # of the test image, for the picture: the face

Loss = Callable[[Tensor, Tensor], Tensor]


def training_pairs(quality: int) -> list[tuple[Tensor, Tensor]]:
    """(compressed, original) images. Three photographs alone would teach the network their colours."""
    originals = [open_image(name)[0] for name in TRAINING]
    originals += [resize_clipped(x, (x.shape[2] * 3 // 5, x.shape[3] * 3 // 5)) for x in originals]
    recoloured = [x[:, list(order)] for x in originals for order in permutations(range(3))]
    return [(jpeg(x, quality), x) for x in recoloured]


def patches(pairs: list[tuple[Tensor, Tensor]], count: int, side: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crops of (compressed, original) images: two tensors (count, 3, side, side)."""
    chosen = []
    for _ in range(count):
        pair = pairs[int(torch.randint(len(pairs), (), generator=draws))]
        height, width = pair[0].shape[-2:]
        # On the codec's 8-pixel grid, so that blocks lie where the network will find them.
        top = 8 * int(torch.randint((height - side) // 8, (), generator=draws))
        left = 8 * int(torch.randint((width - side) // 8, (), generator=draws))
        chosen.append(torch.cat([image[..., top : top + side, left : left + side] for image in pair]))
    compressed, original = torch.stack(chosen, dim=1)
    return compressed, original


def train(
    network: nn.Module, loss: Loss, pairs: list[tuple[Tensor, Tensor]], steps: int, max_lr: float, name: str
) -> None:
    draws = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=steps)
    for _ in tqdm(range(steps), desc=name, disable=None):
        compressed, original = patches(pairs, count=4, side=96, draws=draws)
        optimizer.zero_grad()
        loss(network(compressed), original).backward()
        optimizer.step()
        schedule.step()


def scores(image: Tensor, reference: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM of (1, 3, H, W) images in [0, 1]."""
    image = image.clamp(0, 1)
    psnr = -10 * F.mse_loss(image, reference).log10().item()
    pixels = [x[0].permute(1, 2, 0).numpy() for x in (image, reference)]
    ssim = structural_similarity(*pixels, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5)
    return psnr, float(ssim)


def comparison(images: dict[str, Tensor]) -> Image.Image:
    """The crops side by side, twice enlarged, with their names."""
    crops = [picture(image[..., CROP[0], CROP[1]]) for image in images.values()]
    crops = [crop.resize((2 * crop.width, 2 * crop.height), Image.Resampling.NEAREST) for crop in crops]
    sheet = Image.new("RGB", (sum(crop.width for crop in crops), crops[0].height + 20), "white")
    left = 0
    for name, crop in zip(images, crops, strict=True):
        sheet.paste(crop, (left, 20))
        ImageDraw.Draw(sheet).text((left + 4, 4), name, fill="black")
        left += crop.width
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.demo", description=__doc__)
    parser.add_argument("--quality", type=int, default=10, help="of the JPEG images, 1 to 95 [10]")
    parser.add_argument(
        "--steps", type=int, default=200, help="steps with each loss; before them, thrice as many with L1 [200]"
    )
    parser.add_argument("--texture", type=float, default=1.0, help="the dial of JPEGLoss: more is sharper [1]")
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="the comparison picture [demo.png]")
    arguments = parser.parse_args()
    start = time.time()
    pairs = training_pairs(arguments.quality)
    reference = open_image(TEST)[0]
    compressed = jpeg(reference, arguments.quality)

    network = make_restorer("jpeg", width=32, depth=8, seed=0)
    train(network, F.l1_loss, pairs, 3 * arguments.steps, 1e-3, "first, both with L1")
    twin = copy.deepcopy(network)
    train(network, JPEGLoss(pretrained=True, texture=arguments.texture), pairs, arguments.steps, 2e-4, "then with JPEGLoss")
    train(twin, F.l1_loss, pairs, arguments.steps, 2e-4, "its twin with L1")

    with torch.no_grad():
        images = {
            f"JPEG, quality {arguments.quality}": compressed,
            "trained with L1": twin(compressed),
            "trained with JPEGLoss": network(compressed),
            "original": reference,
        }
    print(f"{'':22} {'PSNR':>8} {'SSIM':>7}")
    for name, image in list(images.items())[:-1]:
        psnr, ssim = scores(image, reference)
        print(f"{name:22} {psnr:5.2f} dB {ssim:7.4f}")
    comparison(images).save(arguments.out)
    print(f"picture: {arguments.out}; {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
