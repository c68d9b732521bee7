"""Crops side by side: what the networks of a study make of photographs that none of them was trained on.

    python -m training.bench.report.crops RESULTS --images docs/images [--ours LABEL]

One picture per task, ``crops-TASK.png``: the input, the results of the networks that the study left beside its cells,
and the reference, each with PSNR and, where the package is here, ST-LPIPS of the whole photograph. Under each, what
differs from the first row's result, four times as strong. The photographs are scikit-image's, free to use
(training/images.py says under what terms); the weights' own training image is not among them. A rule chooses the
square: where the first row's network, L1's, leaves least of the reference's texture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.pyramid import resize
from task_losses.terms import BLOCK, strength
from training.bench.report.rows import Row, Rows, candidates, read_rows
from training.bench.study.cells import restore
from training.bench.study.conditions import Conditions, add_condition_flags, conditions_of
from training.bench.study.data import TASKS, Picture, test_pair
from training.bench.study.metrics import METRICS, Score, load_metrics, measure
from training.bench.study.restoration import read_network
from training.images import open_image, picture

LABELS = ("l1", "mse", "msssim-l1", "vgg", "random~1")  # between the input and ours
PHOTOGRAPHS = ("astronaut", "coffee", "rocket")
SIDE = 108  # pixels
AMPLIFIED = 4
MAGNIFICATION, COLUMNS, GAP, LINE = 2, 4, 6, 15  # pixels, but for the columns
TEXT_COLOUR = "#808890"  # on white and on black


@dataclass(frozen=True)
class Example:
    """A photograph and the square of it that is shown: its top left corner."""

    photograph: str
    top: int
    left: int

    def square(self, image: Tensor) -> Tensor:
        return image[..., self.top : self.top + SIDE, self.left : self.left + SIDE]


def least_texture(row: Row, task: str, level: int) -> Example:
    """The square in which a row's network leaves least of the reference's texture: of all, by what is lacking there."""
    found: list[tuple[float, Example]] = []
    for name in PHOTOGRAPHS:
        photograph = f"skimage:{name}"
        degraded, reference = test_pair(task, Picture(photograph, open_image(photograph)[0]), crop=0, level=level)
        lacking = (strength(reference)[0] - strength(restored_by(row, task, degraded))[0]).clamp_min(0).mean(dim=1)
        squares = F.avg_pool2d(lacking, SIDE // BLOCK - 1, stride=1)[0]
        place = int(squares.argmax())
        top, left = (BLOCK * steps for steps in divmod(place, squares.shape[1]))
        found.append((squares.flatten()[place].item(), Example(photograph, top, left)))
    return max(found, key=lambda entry: entry[0])[1]


@dataclass(frozen=True)
class Panel:
    """One image of a picture; ``captions``: lines under it."""

    captions: Sequence[str]
    image: Tensor


def panels(
    example: Example, task: str, rows: Rows, labels: Sequence[str], ours: str, conditions: Conditions
) -> list[Panel]:
    """Input, a restored image for each row that there is, reference: (1, 3, SIDE, SIDE).

    Networks are those of the lowest seed, and the photograph is degraded by the first of the task's test levels.

    Raises:
        FileNotFoundError: a row's network does not lie beside its result file.
    """
    whole = Picture(example.photograph, open_image(example.photograph)[0])
    degraded, reference = test_pair(task, whole, crop=0, level=conditions.levels[task][0])
    scores = load_metrics(("psnr", "stlpips"))
    enlarged = resize(degraded, (reference.shape[-2], reference.shape[-1])).clamp(0, 1)
    made = [Panel(["input", _scored(enlarged, reference, scores)], example.square(enlarged))]
    for label in (*labels, ours):
        if label not in rows:
            print(f"{task}: {label} is left out: the study has no such row", file=sys.stderr)
            continue
        restored = restored_by(rows[label], task, degraded)
        name = f"ours{label.removeprefix(rows[label].loss)}" if label == ours else label
        made.append(Panel([name, _scored(restored, reference, scores)], example.square(restored)))
    return [*made, Panel(["reference", ""], example.square(reference))]


def restored_by(row: Row, task: str, degraded: Tensor) -> Tensor:
    """What the network that was fine-tuned in a row's lowest seed makes of an image: (1, 3, H, W)."""
    path = row.files[min(row.seeds)].with_suffix(".safetensors")
    if not path.is_file():
        raise FileNotFoundError(
            f"the network of {row.label!r} must lie beside its result file as {path.name!r}: copy the whole "
            "folder, or delete the result file and run the cell anew"
        )
    network = read_network(path, task, row.results[0]["config"]["recipe"])
    return restore(network, degraded).clamp(0, 1)


def _scored(restored: Tensor, reference: Tensor, scores: dict[str, Score]) -> str:
    found = measure(restored, reference, scores)
    digits = {"psnr": 2, "stlpips": 3}
    return "  ".join(f"{METRICS[name].title} {value:.{digits[name]}f}" for name, value in found.items())


def side_by_side(shown: Sequence[Panel]) -> Image.Image:
    """Each panel magnified without smoothing, its captions, and what differs from the second; transparent between."""
    side = SIDE * MAGNIFICATION
    lines = max(len(panel.captions) for panel in shown)
    width, height = side + GAP, 2 * side + lines * LINE + GAP
    columns = min(COLUMNS, len(shown))
    sheet = Image.new("RGBA", (columns * width - GAP, -(-len(shown) // columns) * height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for index, panel in enumerate(shown):
        x, y = index % columns * width, index // columns * height
        differing = 0.5 + AMPLIFIED * (panel.image - shown[1].image)
        for image, top in ((panel.image, y), (differing, y + side + lines * LINE)):
            sheet.paste(picture(image).resize((side, side), Image.Resampling.NEAREST), (x, top))
        for number, caption in enumerate(panel.captions):
            draw.text((x, y + side + number * LINE), caption, fill=TEXT_COLOUR, font=font)
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.crops", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("results", type=Path, help="folder of a study, of training.bench.study.quality --out")
    add("--images", type=Path, required=True, help="where to write the pictures")
    add("--ours", nargs="+", default=["ours"], help="row of this project's loss, or TASK=LABEL for each task [ours]")
    add("--labels", nargs="+", default=list(LABELS), help=f"rows between the input and ours [{' '.join(LABELS)}]")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    conditions, ours = conditions_of(options), candidates(options.ours)
    rows_of_tasks = read_rows(options.results, conditions)
    options.images.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        if task in rows_of_tasks and task in ours:
            rows = rows_of_tasks[task]
            first = next((rows[label] for label in options.labels if label in rows), None)
            if first is None:
                print(f"{task} is left out: the study has none of {', '.join(options.labels)}", file=sys.stderr)
                continue
            example = least_texture(first, task, conditions.levels[task][0])
            shown = panels(example, task, rows, options.labels, ours[task], conditions)
            path = options.images / f"crops-{task}.png"
            side_by_side(shown).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {example}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
