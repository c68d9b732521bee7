"""Data of docs/explore: how losses react to distortions, and where they pull an image.

    python -m training.bench.report.explore STUDY --out docs/explore [--width 32 ...]

STUDY is a folder of training.bench.study.quality with the networks of its L1 cells. The page's third part, the dial,
shows what training.bench.report.gallery wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.losses import LOSSES
from training.bench.report.crops import restored_by
from training.bench.report.gallery import PHOTOGRAPHS, PLAIN, SIZE, Photograph, cropped, under_each_other
from training.bench.report.pages import TITLES
from training.bench.report.rows import read_rows
from training.bench.study.cells import write_json
from training.bench.study.conditions import Conditions, add_condition_flags, conditions_of
from training.bench.study.data import Picture, test_pair
from training.bench.study.peers import Sources, find_peer
from training.bench.study.restoration import Loss, loss_and_gradient
from training.bench.study.texture import textured_place
from training.builtin.codecs import jpeg
from training.builtin.noise import gaussian_noise
from training.images import picture, resize_clipped

SHOWN = ("palace",)  # photographs that are distorted
PULLED = "palace"  # the one that losses pull at
SQUARE, ACROSS = 16, 9  # pixels of a square that is swapped, and squares along each side
TITLES_OF_MEASURES = {
    "sr": "SRLoss",
    "denoise": "DenoiseLoss",
    "jpeg": "JPEGLoss",
    "l1": "L1",
    "ssim": "1 - SSIM",
}


def measures() -> dict[str, Loss]:
    """The losses, by name: (restored, reference), both (1, 3, H, W) -> scalar.

    Raises:
        ImportError: pytorch-msssim is missing.
    """
    ours: dict[str, Loss] = {task: kind(pretrained=True) for task, kind in LOSSES.items()}
    return ours | {name: find_peer(name, "sr", Sources()).build(0) for name in ("l1", "ssim")}


def _noise(image: Tensor, sigma: float) -> Tensor:
    return gaussian_noise(image, sigma / 255, torch.Generator().manual_seed(0))


def _reduced(image: Tensor, factor: float) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    return resize_clipped(resize_clipped(image, (round(size[0] / factor), round(size[1] / factor))), size)


# Title, what a strength is called, strengths from weak to strong, and the distortion of an image (1, 3, H, W).
DISTORTIONS: dict[str, tuple[str, str, Sequence[float], Callable[[Tensor, float], Tensor]]] = {
    "jpeg": ("JPEG", "quality {:g}", (90, 75, 60, 45, 30, 20, 15, 10, 5), lambda x, q: jpeg(x, round(q))),
    "noise": ("noise", "sigma {:g} of 255", (2, 5, 8, 12, 16, 20, 25, 35, 50), _noise),
    "reduced": ("reduced and enlarged", "by {:g}", (1.2, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8), _reduced),
    "brighter": ("brighter", "by {:g} of 255", (1, 2, 3, 5, 7, 10, 13, 17, 22), lambda x, by: x + by / 255),
}


@torch.no_grad()
def reactions(image: Tensor, reference: Tensor, losses: Mapping[str, Loss]) -> dict[str, Any]:
    """What each loss says of an image, and how many times what it says of white noise with the same mean square."""
    square = F.mse_loss(image, reference)
    draws = torch.Generator().manual_seed(1)
    noise = torch.randn(reference.shape, generator=draws)
    noisy = reference + noise * (square / noise.square().mean()).sqrt()
    values = {name: float(loss(image, reference)) for name, loss in losses.items()}
    beside = {name: value / float(losses[name](noisy, reference)) for name, value in values.items()}
    return {
        "psnr": round(float(-10 * square.log10()), 2),
        "values": {name: _digits(value) for name, value in values.items()},
        "times": {name: round(value, 3) for name, value in beside.items()},
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def strengths(photograph: Photograph, losses: Mapping[str, Loss], out: Path) -> dict[str, Any]:
    """Writes a sheet of distorted crops, one under the other, the original last."""
    place = textured_place(photograph.image, SIZE)
    reference = cropped(photograph.image, place, SIZE)
    shown: list[Tensor] = []
    distortions = []
    for name, (title, label, steps, distort) in DISTORTIONS.items():
        stops = []
        for step in steps:
            image = distort(reference, step)
            stops.append({"label": label.format(step), "index": len(shown), **reactions(image, reference, losses)})
            shown.append(image)
        distortions.append({"key": name, "title": title, "stops": stops})
    sheet = under_each_other([picture(image) for image in (*shown, reference)])
    sheet.save(out / f"{photograph.name}.webp", lossless=True, quality=100)
    return {
        "photograph": photograph.name,
        "words": photograph.words,
        "licence": photograph.licence,
        "sheet": f"{photograph.name}.webp",
        "distortions": distortions,
    }


def pulls(task: str, restored: Tensor, reference: Tensor, losses: Mapping[str, Loss], out: Path) -> dict[str, Any]:
    """Where each loss pulls an image, written as a sheet: the image, the reference, and a picture for each loss.

    The picture of a loss is its gradient, downhill: grey where it leaves a pixel as it is, brighter where it wants more
    of a colour, darker where it wants less; its 99th percentile reaches the ends of the scale.

    Returns:
        with ``shares``: loss -> row by row of squares, by what part of itself the loss falls where one square of the
        image becomes the reference's.
    """
    shown = [restored, reference]
    shares = {}
    for name, loss in losses.items():
        whole, gradient, _ = loss_and_gradient(loss, restored, reference)
        top = gradient.abs().flatten().quantile(0.99)
        shown.append(0.5 - 0.5 * gradient / top)
        shares[name] = [
            [round(1 - swapped / whole, 4) for swapped in row] for row in _swapped(restored, reference, loss)
        ]
    name = f"pull-{task}.webp"
    under_each_other([picture(image) for image in shown]).save(out / name, lossless=True, quality=100)
    titles = [
        "what L1's network restored",
        "reference",
        *(f"where {TITLES_OF_MEASURES[name]} pulls" for name in losses),
    ]
    return {"key": task, "title": TITLES[task], "sheet": name, "titles": titles, "shares": shares}


@torch.no_grad()
def _swapped(restored: Tensor, reference: Tensor, loss: Loss) -> Iterator[list[float]]:
    """The loss with one square after the other taken from the reference, row by row."""
    for top in range(0, ACROSS * SQUARE, SQUARE):
        row = []
        for left in range(0, ACROSS * SQUARE, SQUARE):
            mixed = restored.clone()
            square = (..., slice(top, top + SQUARE), slice(left, left + SQUARE))
            mixed[square] = reference[square]
            row.append(float(loss(mixed, reference)))
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.explore",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="folder of a study, with its networks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    losses = measures()
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    content = {
        "size": SIZE,
        "square": SQUARE,
        "across": ACROSS,
        "measures": [{"key": name, "title": TITLES_OF_MEASURES[name]} for name in losses],
        "strengths": [strengths(photographs[name], losses, options.out) for name in SHOWN],
        "pulls": list(_pulls(photographs[PULLED], options.study, conditions_of(options), losses, options.out)),
        "pulled": photographs[PULLED].words,
    }
    write_json(content, options.out / "explore.json")
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {total / 1e6:.1f} MB")
    return 0


def _pulls(
    photograph: Photograph, study: Path, conditions: Conditions, losses: Mapping[str, Loss], out: Path
) -> Iterator[dict[str, Any]]:
    side = (ACROSS * SQUARE, ACROSS * SQUARE)
    for task, rows in read_rows(study, conditions).items():
        if PLAIN not in rows:
            print(f"{task}: the study has no cell of {PLAIN}", file=sys.stderr)
            continue
        level = conditions.levels[task][0]
        degraded, reference = test_pair(task, Picture(photograph.name, photograph.image), crop=0, level=level)
        place = textured_place(reference, side)
        restored = restored_by(rows[PLAIN], task, degraded)
        yield pulls(task, cropped(restored, place, side), cropped(reference, place, side), losses, out)


if __name__ == "__main__":
    sys.exit(main())
