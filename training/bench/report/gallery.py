"""The gallery: what a study's networks make of photographs that none of them was trained on, for docs/gallery.

    python -m training.bench.report.gallery STUDY --out docs/gallery [--only sr] [--width 32 ...]

STUDY is a folder of training.bench.study.quality, with the networks beside their cells; rows that it lacks are named
and left out. For each task and photograph it writes a sheet of crops, one under the other, without loss, and one of the
loss's distance maps; for each task one more sheet of the crop where the loss does worst. ``gallery.json`` holds places,
scores of the pixels around the crops and ``remarks.json``'s words; the table in ``index.md`` says it without a script.
Run again, it makes what is missing, or what other networks made.

Photographs are scikit-image's and scikit-learn's (pip install scikit-learn); their licences are in ``PHOTOGRAPHS``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from task_losses.heat_map import blended
from task_losses.losses import LOSSES
from task_losses.pyramid import resize
from training.bench.markdown import table
from training.bench.report.crops import restored_by
from training.bench.report.pages import TITLES, splice
from training.bench.report.rows import Rows, read_rows
from training.bench.study.cells import write_json
from training.bench.study.conditions import Conditions, add_condition_flags, conditions_of
from training.bench.study.data import TASKS, Picture, test_pair
from training.bench.study.metrics import METRICS, load_metrics, measure
from training.bench.study.texture import STEP, kept_texture, textured_place
from training.images import open_image, picture

SIZE = (112, 144)  # height and width of a crop in pixels
MEASURED = 256  # side in pixels of the square around it that is measured
PREVIEW = 240  # width in pixels of the whole photograph
ROWS = {
    "l1": "L1",
    "mse": "MSE",
    "msssim-l1": "MS-SSIM + L1",
    "vgg": "VGG stand-in",
    "random~1": "random features, texture 1",
    "ours~0": "ours, texture 0",
    "ours~0.5": "ours, texture 0.5",
    "ours~1": "ours, texture 1",
    "ours~2": "ours, texture 2",
}
INPUTS = {"sr": "input, enlarged", "denoise": "input", "jpeg": "input"}
PLAIN, OURS = "l1", "ours~1"  # the worst case is where the second loses most against the first
TEXTURE = "texture"  # the share of the reference's local contrast, beside the metrics
IN_WORDS = ("psnr", "stlpips", TEXTURE)  # the figures of the page's table

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Photograph:
    """Attributes: source: ``PACKAGE:FILE``; words: what it shows, for those who do not see it."""

    name: str
    source: str
    licence: str
    words: str

    @property
    def image(self) -> Tensor:
        """(1, 3, H, W) in [0, 1].

        Raises:
            ImportError: the package that holds it is missing.
        """
        package, _, file = self.source.partition(":")
        return open_image(str(_folder(package) / file), self.licence)[0]


@cache
def _folder(package: str) -> Path:
    places = {"scikit-image": ("skimage", "data"), "scikit-learn": ("sklearn", "datasets/images")}
    module, folder = places[package]
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ImportError(f"photographs of the gallery are in {package}: pip install {package}")
    return Path(found.origin).parent / folder


# The weights' own training image, scikit-image's chelsea, is not among them.
PHOTOGRAPHS = (
    Photograph(
        "astronaut",
        "scikit-image:astronaut.png",
        "public domain, photograph by NASA",
        "an astronaut in an orange suit before a flag and a model of the space shuttle",
    ),
    Photograph(
        "coffee",
        "scikit-image:coffee.png",
        "CC0 1.0, photograph by Rachel Michetti",
        "a cup of coffee with a spoon on a wooden table",
    ),
    Photograph(
        "rocket",
        "scikit-image:rocket.jpg",
        "CC0 1.0, photograph by SpaceX",
        "a rocket on its launch pad at dusk, between lightning towers",
    ),
    Photograph(
        "grass",
        "scikit-image:grass.png",
        "CC0 1.0, photograph by CC0Textures",
        "grass from above, in grey",
    ),
    Photograph(
        "palace",
        "scikit-learn:china.jpg",
        "CC BY 2.0, photograph by Daniel Buechele, cropped and degraded here",
        "a palace with tiled roofs and a painted front",
    ),
    Photograph(
        "flower",
        "scikit-learn:flower.jpg",
        "CC BY 2.0, photograph by vultilion, cropped and degraded here",
        "an orange dahlia before dark leaves",
    ),
)


@dataclass(frozen=True)
class Subject:
    """A photograph as the networks of one task restore it: images (1, 3, H, W) in [0, 1] by row, and the reference."""

    photograph: Photograph
    images: Mapping[str, Tensor]
    reference: Tensor
    networks: Mapping[str, str]  # by row, the name of the result file


def subject(photograph: Photograph, task: str, rows: Rows, conditions: Conditions) -> Subject:
    """Restores the whole photograph with the network of each row's lowest seed."""
    whole = Picture(photograph.name, photograph.image)
    degraded, reference = test_pair(task, whole, crop=0, level=conditions.levels[task][0])
    images = {"input": resize(degraded, (reference.shape[-2], reference.shape[-1])).clamp(0, 1)}
    images |= {label: restored_by(rows[label], task, degraded) for label in ROWS if label in rows}
    return Subject(photograph, images, reference, networks_of(rows))


def networks_of(rows: Rows) -> dict[str, str]:
    """Row -> name of the result file, which ends in a hash of all that made the network."""
    return {label: rows[label].files[min(rows[label].seeds)].stem for label in ROWS if label in rows}


def worst_place(subject: Subject) -> tuple[float, tuple[int, int]]:
    """Where our image is farther from the reference than L1's: by how much in the crop's mean square, and the place."""
    errors = [(subject.images[label] - subject.reference).square().mean(dim=1, keepdim=True) for label in (OURS, PLAIN)]
    lost = F.avg_pool2d(errors[0] - errors[1], SIZE, stride=STEP)[0, 0]
    row, column = divmod(int(lost.argmax()), lost.shape[1])
    return float(lost[row, column]), (row * STEP, column * STEP)


def write_sheets(subject: Subject, task: str, place: tuple[int, int], out: Path, name: str) -> dict[str, str]:
    """Crops one under the other, the reference last; and the maps of the task's loss, in the same order without it."""
    crops = [cropped(image, place) for image in (*subject.images.values(), subject.reference)]
    under_each_other([picture(crop) for crop in crops]).save(out / f"{name}.webp", lossless=True, quality=100, method=6)
    loss = LOSSES[task](pretrained=True)
    with torch.no_grad():
        maps = [cropped(loss.distance_map(x, subject.reference), place)[0, 0] for x in subject.images.values()]
    # One scale for the restored images, so that they can be compared; the input may go beyond it.
    top = max(values.quantile(0.99).item() for values in maps[1:] or maps)
    grey = crops[-1][0].mean(dim=0).numpy()
    coloured = [Image.fromarray(blended(values.numpy() / max(top, 1e-12), grey)) for values in maps]
    under_each_other(coloured).save(out / f"{name}-map.webp", quality=85)
    return {"sheet": f"{name}.webp", "maps": f"{name}-map.webp"}


def cropped(image: Tensor, place: tuple[int, int], size: tuple[int, int] = SIZE) -> Tensor:
    (top, left), (height, width) = place, size
    return image[..., top : top + height, left : left + width]


def under_each_other(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size as one."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, len(pictures) * height))
    for index, image in enumerate(pictures):
        sheet.paste(image, (0, index * height))
    return sheet


def entries(task: str, rows: Rows, conditions: Conditions, out: Path, known: Entries) -> Iterator[dict[str, Any]]:
    """Writes the pictures of a task; yields what the page has to know of each, the worst case last.

    Args:
        known: entries of before; what the same networks made is not made again.
    """
    before = {entry["sheet"]: entry for entry in known}
    made_of: dict[str, Any] = {"networks": networks_of(rows), "loss": LOSSES[task](pretrained=True).weights_sha256}
    made_of["metrics"] = list(conditions.metrics)

    def entry(photograph: Photograph, name: str, place: tuple[int, int] | None) -> dict[str, Any]:
        """The place is that of most texture where none is given."""
        old = before.get(f"{name}.webp")
        if old is not None and old["made_of"] == made_of and (place is None or old["place"] == list(place)):
            return dict(old)
        shown = subject(photograph, task, rows, conditions)
        at = place or textured_place(shown.reference, SIZE)
        made: dict[str, Any] = {"photograph": photograph.name, "place": list(at), "made_of": made_of}
        made["images"] = _images(shown, task, conditions.metrics, at, old or {})
        if {PLAIN, OURS} <= shown.images.keys():
            lost, worst = worst_place(shown)
            made["worst"] = {"lost": lost, "place": worst}
        return made | write_sheets(shown, task, at, out, name)

    found = []
    for photograph in PHOTOGRAPHS:
        found.append({**entry(photograph, f"{task}-{photograph.name}", None), "case": "texture"})
        yield found[-1]
    candidates = [each for each in found if "worst" in each]
    if candidates:
        worst = max(candidates, key=lambda each: float(each["worst"]["lost"]))
        (photograph,) = (each for each in PHOTOGRAPHS if each.name == worst["photograph"])
        yield {**entry(photograph, f"{task}-worst", worst["worst"]["place"]), "case": "worst"}


def _images(
    shown: Subject, task: str, metrics: Sequence[str], place: tuple[int, int], before: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Each image's name and its scores around the crop; what was measured of the same network there is taken over."""
    scores = load_metrics(metrics)
    networks = before.get("made_of", {}).get("networks", {})
    known = {
        image["row"]: image["scores"]
        for image in before.get("images", [])
        if before["place"] == list(place)
        and image["scores"].keys() == {*scores, TEXTURE}
        and (image["row"] not in ROWS or networks.get(image["row"]) == shown.networks[image["row"]])
    }
    reference = around(shown.reference, place)
    images = []
    for row, image in shown.images.items():
        if row not in known:
            part = around(image, place)
            found = {**measure(part, reference, scores), TEXTURE: kept_texture(part, reference)}
            known[row] = {name: round(value, 4) for name, value in found.items()}
        images.append({"row": row, "title": ROWS.get(row, INPUTS[task]), "scores": known[row]})
    return images


def around(image: Tensor, place: tuple[int, int]) -> Tensor:
    """The square of MEASURED pixels with a crop in its middle, or as near to it as the picture's borders let it be."""
    corner = []
    for start, length, whole in zip(place, SIZE, image.shape[-2:], strict=True):
        corner.append(max(0, min(start - (MEASURED - length) // 2, whole - MEASURED)))
    return cropped(image, (corner[0], corner[1]), (MEASURED, MEASURED))


def previews(out: Path) -> list[dict[str, Any]]:
    """Writes the whole photographs in small; what the page has to know of them."""
    found = []
    for photograph in PHOTOGRAPHS:
        height, width = photograph.image.shape[-2:]
        small = picture(photograph.image).resize((PREVIEW, round(PREVIEW * height / width)), Image.Resampling.LANCZOS)
        small.save(out / f"{photograph.name}.webp", quality=80)
        found.append({**asdict(photograph), "size": (height, width), "preview": f"{photograph.name}.webp"})
    return found


def in_words(content: Mapping[str, Any]) -> str:
    """The table of the page: what is to be seen in each picture, for those without a script or without eyes."""
    lines = []
    for task in content["tasks"]:
        for entry in task["entries"]:
            by_row = {image["row"]: image["scores"] for image in entry["images"]}
            figures = [
                " / ".join(_shown(name, by_row[row][name]) for name in IN_WORDS if name in by_row[row])
                for row in (PLAIN, OURS)
                if row in by_row
            ]
            case = f"[{entry['photograph']}{', worst case' if entry['case'] == 'worst' else ''}]({entry['sheet']})"
            lines.append([task["title"], case, *figures, entry["remark"]])
    return table(["task", "photograph", "L1", "ours, texture 1", "what is to be seen"], lines)


def _shown(name: str, value: float) -> str:
    return f"{value:.0%}" if name == TEXTURE else f"{value:.{min(3, METRICS[name].digits)}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.report.gallery",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="folder of a study, with its networks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks that are made anew")
    add_condition_flags(parser)
    options = parser.parse_args(arguments)
    conditions, out = conditions_of(options), options.out
    rows_of_tasks = read_rows(options.study, conditions)
    out.mkdir(parents=True, exist_ok=True)
    data, remarks = out / "gallery.json", out / "remarks.json"
    words: dict[str, str] = json.loads(remarks.read_text(encoding="utf-8")) if remarks.is_file() else {}
    tasks = {task["key"]: task for task in json.loads(data.read_text())["tasks"]} if data.is_file() else {}
    content: dict[str, Any] = {"size": SIZE, "metrics": _metrics(conditions), "photographs": previews(out)}
    for task in options.only:
        if task not in rows_of_tasks:
            print(f"{task}: the study has no cells of it", file=sys.stderr)
            continue
        rows = rows_of_tasks[task]
        for label in ROWS:
            if label not in rows:
                print(f"{task}: {label} is left out: the study has no such row", file=sys.stderr)
        known = tasks.get(task, {}).get("entries", [])
        made: list[dict[str, Any]] = []
        for entry in entries(task, rows, conditions, out, known):
            made.append(entry)
            # What is not made anew yet stays as it was, so that an interrupted run goes on where it ended.
            there = {each["sheet"] for each in made}
            both = [*made, *(each for each in known if each["sheet"] not in there)]
            tasks[task] = {"key": task, "title": TITLES[task], "loss": LOSSES[task].__name__, "entries": both}
            write_json({**content, "tasks": list(tasks.values())}, data)
    content["tasks"] = [tasks[task] for task in TASKS if task in tasks]
    for task in content["tasks"]:
        for entry in task["entries"]:
            name = entry["sheet"].removesuffix(".webp")
            entry["remark"] = words.get(name, "")
            if not entry["remark"]:
                print(f"{remarks}: no words about {name}", file=sys.stderr)
    write_json(content, data)
    page = out / "index.md"
    if page.is_file():
        page.write_text(splice(page.read_text(encoding="utf-8"), {"gallery": in_words(content)}), encoding="utf-8")
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {total / 1e6:.1f} MB")
    return 0


def _metrics(conditions: Conditions) -> list[dict[str, Any]]:
    return [
        {"key": name, "title": metric.title, "higher": metric.higher_is_better, "digits": metric.digits}
        for name, metric in METRICS.items()
        if name in conditions.metrics
    ]


if __name__ == "__main__":
    sys.exit(main())
