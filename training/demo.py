"""Trains small networks with L1, MSE, random features and this project's loss, and shows what each restores.

    python -m training.demo                  # super-resolution by 4; minutes on a CPU; writes demo.png
    python -m training.demo --task denoise   # or jpeg

Three photographs of scikit-image, in all orders of their colour channels, are trained on, and a fourth is restored. All
networks start from one L1 training and see the same patches in the same order; only the loss differs.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from tqdm import tqdm

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import_module("training")  # before torch: it says how torch's threads wait

from task_losses.heat_map import blended
from task_losses.losses import LOSSES
from task_losses.pyramid import resize
from training.bench.study.cells import restore
from training.bench.study.conditions import FIRST_LEVELS
from training.bench.study.data import TASKS, Picture, degrade, training_batches
from training.bench.study.metrics import METRICS, load_metrics, measure
from training.bench.study.peers import Sources, find_peer
from training.bench.study.restoration import train
from training.bench.study.restorers import make_restorer
from training.bench.study.texture import kept_texture, textured_place
from training.images import open_image, picture, resize_clipped

TRAINING = ("skimage:chelsea", "skimage:coffee", "skimage:rocket")
TEST = "skimage:astronaut"
SIDE, ZOOM = 72, 4  # of the square that is shown, and how much it is enlarged
AMPLIFIED = 4  # the differences that are shown
COLUMNS, GAP, LINE = 4, 6, 19  # of the picture; the last two in pixels
# A plain stack is enough at a sixteenth of the pixels; the other sees noise and blocks at half resolution.
NETWORKS: dict[str, dict[str, Any]] = {
    "sr": {"width": 32, "depth": 6, "kind": "plain"},
    "denoise": {"width": 32, "depth": 6},
    "jpeg": {"width": 32, "depth": 6},
}
INPUTS = {"sr": "bicubic", "denoise": "noisy, sigma 25", "jpeg": "JPEG, quality 10"}
# Below these a training was too short to show anything: dB that L1 must gain over the input, and grey levels of 255
# by which L1's and our image must differ on average.
LEAST_GAIN, LEAST_DIFFERENCE = 0.2, 0.5


@dataclass(frozen=True)
class Restored:
    """One column of the picture and one line of the table: an image (1, 3, H, W) in [0, 1] and its scores."""

    image: Tensor
    scores: Mapping[str, float]


def training_pictures() -> list[Picture]:
    """Three photographs alone would teach the network their colours, and their sizes."""
    originals = [open_image(name)[0] for name in TRAINING]
    originals += [resize_clipped(x, (x.shape[2] * 3 // 5, x.shape[3] * 3 // 5)) for x in originals]
    return [Picture("", x[:, list(order)]) for x in originals for order in permutations(range(3))]


def trained(
    network: nn.Module, loss: str, task: str, pictures: Sequence[Picture], steps: int, lr: float, seed: int
) -> nn.Module:
    """A copy of a network after some steps with a loss of the benchmark, by its name there."""
    network = copy.deepcopy(network)
    batches = training_batches(task, pictures, patch=96, batch=4, steps=steps, seed=seed)
    bar = tqdm(batches, total=steps, desc=f"{loss}, {steps} steps", disable=None)
    for _ in train(network, find_peer(loss, task, Sources()).build(0), bar, steps, lr):
        pass
    return network


def test_pair(task: str) -> tuple[Tensor, Tensor]:
    """The degraded and the original test photograph."""
    reference = open_image(TEST)[0]
    draws = torch.Generator().manual_seed(zlib.crc32(TEST.encode()))
    return degrade(task, reference, FIRST_LEVELS[task][0], draws), reference


def columns(task: str, steps: int, dial: Sequence[float]) -> tuple[dict[str, Restored], Tensor]:
    """Input, and what each network makes of it, by name; and the reference."""
    pictures = training_pictures()
    degraded, reference = test_pair(task)
    loss = LOSSES[task].__name__
    settings = {f"{loss}, texture {value:g}": f"ours~{value:g}" for value in dial}
    peers = {"L1": "l1", "MSE": "mse", f"random, texture {dial[-1]:g}": f"random~{dial[-1]:g}", **settings}
    network = make_restorer(task, **NETWORKS[task], seed=0)
    start = trained(network, "l1", task, pictures, 4 * steps, lr=1e-3, seed=0)
    size = (reference.shape[-2], reference.shape[-1])
    images = {INPUTS[task]: resize(degraded, size)}
    for name, peer in peers.items():
        images[name] = restore(trained(start, peer, task, pictures, steps, lr=3e-4, seed=1), degraded)
    scores = load_metrics(("psnr", "ssim", "stlpips" if find_spec("stlpips_pytorch") else "gmsd"))
    found = {}
    for name, image in images.items():
        shown = image.clamp(0, 1)
        found[name] = Restored(shown, {**measure(shown, reference, scores), "texture": kept_texture(shown, reference)})
    return found, reference


def table(found: Mapping[str, Restored]) -> str:
    """The figures, one line for each image."""
    names = [name for name in next(iter(found.values())).scores if name != "texture"]
    arrows = [f"{METRICS[name].title} {'up' if METRICS[name].higher_is_better else 'down'}" for name in names]
    width = max(map(len, found)) + 2
    lines = [" " * width + "".join(f"{title:>15}" for title in [*arrows, "texture kept"])]
    for label, entry in found.items():
        figures = [f"{entry.scores[name]:.{METRICS[name].digits}f}" for name in names]
        lines.append(f"{label:{width}}" + "".join(f"{x:>15}" for x in [*figures, f"{entry.scores['texture']:.0%}"]))
    return "\n".join(lines)


def what_to_look_at(found: Mapping[str, Restored], place: tuple[int, int]) -> str:
    """What the picture shows, in words that follow from the figures; and warnings where it can show nothing."""
    names = list(found)
    given, plain, ours = found[names[0]], found["L1"], found[names[-1]]
    price = plain.scores["psnr"] - ours.scores["psnr"]
    lines = [
        f"The picture shows {SIDE} x {SIDE} pixels at row {place[0]}, column {place[1]}: the original's place of most "
        "texture.",
        f"Compare L1 with {names[-1]}: is fine texture nearer to the original, and did dots or a grid come in?",
        f"{names[-1]} keeps {ours.scores['texture']:.0%} of the original's texture, L1 {plain.scores['texture']:.0%}, "
        f"for {price:.2f} dB of PSNR.",
    ]
    gain = plain.scores["psnr"] - given.scores["psnr"]
    if not gain >= LEAST_GAIN:
        lines.append(f"Too short: L1's network is {gain:+.2f} dB from its input. Use more --steps.")
    difference = 255 * (plain.image - ours.image).abs().mean().item()
    if not difference >= LEAST_DIFFERENCE:
        lines.append(f"Too short: L1's image and ours differ by {difference:.2f} grey levels of 255. Use more --steps.")
    return "\n".join(lines)


def sheet(found: Mapping[str, Restored], reference: Tensor, task: str, place: tuple[int, int]) -> Image.Image:
    """The square, enlarged, in every image and in the original; under them differences, and the loss's distances."""
    *_, ours = found
    original, square = _square(reference, place), {name: _square(each.image, place) for name, each in found.items()}
    loss = LOSSES[task](pretrained=True)
    with torch.no_grad():
        maps = {name: _square(loss.distance_map(found[name].image, reference), place)[0, 0] for name in ("L1", ours)}
    top = max(values.quantile(0.99).item() for values in maps.values())  # one scale for both
    grey = original[0].mean(dim=0).numpy()
    panels = {name: picture(image) for name, image in square.items()} | {"original": picture(original)}
    panels[f"{ours} - L1, {AMPLIFIED} times"] = picture(0.5 + AMPLIFIED * (square[ours] - square["L1"]))
    for name in ("L1", ours):
        panels[f"{name} - original, {AMPLIFIED} times"] = picture(0.5 + AMPLIFIED * (square[name] - original))
    for name, values in maps.items():
        panels[f"distance_map, {name}"] = Image.fromarray(blended(values.numpy() / max(top, 1e-12), grey))
    side, height = SIDE * ZOOM, SIDE * ZOOM + LINE + GAP
    whole = Image.new("RGB", (COLUMNS * (side + GAP) - GAP, -(-len(panels) // COLUMNS) * height), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=14)
    for index, (name, image) in enumerate(panels.items()):
        x, y = index % COLUMNS * (side + GAP), index // COLUMNS * height
        draw.text((x + 2, y), name, fill="black", font=font)
        whole.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y + LINE))
    return whole


def _square(image: Tensor, place: tuple[int, int]) -> Tensor:
    return image[..., place[0] : place[0] + SIDE, place[1] : place[1] + SIDE]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=TASKS, default="sr", help="what is restored: super-resolution by 4, noise, JPEG [sr]")
    add("--steps", type=int, default=350, help="steps with each loss; before them, four times as many with L1 [350]")
    add("--texture", type=float, nargs=2, default=[0.5, 2.0], help="two settings of the dial, more is sharper [0.5 2]")
    add("--out", type=Path, default=Path("demo.png"), help="the picture that is written [demo.png]")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be 1 or more, got {options.steps}")
    begun = time.monotonic()
    found, reference = columns(options.task, options.steps, options.texture)
    place = textured_place(reference, (SIDE, SIDE))
    print(table(found))
    print(what_to_look_at(found, place))
    sheet(found, reference, options.task, place).save(options.out, optimize=True)
    print(f"picture: {options.out}; {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
