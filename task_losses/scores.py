"""Pictures compared with their references: one pair, or two folders."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from task_losses.heat_map import check_map_path, write_heat_map
from task_losses.losses import TaskLoss
from task_losses.pictures import PictureError, pictures_in, read_picture

LARGE = 1_000_000  # pixels; smaller pictures take no time worth telling


class Pair(NamedTuple):
    """A picture and its reference; its map is written to ``map``."""

    name: str
    reference: Path
    image: Path
    map: Path | None


class Score(NamedTuple):
    """The distance of a pair.

    Attributes:
        loss: what the loss returns for it.
        per_scale: each scale's share.
        size: height and width.
    """

    name: str
    loss: float
    per_scale: dict[int, float]
    size: tuple[int, int]


class Result(NamedTuple):
    """Of two folders: scores, worst first, and why pairs that could not be compared have none."""

    scores: list[Score]
    failed: dict[str, str]

    @property
    def mean(self) -> float:
        return sum(score.loss for score in self.scores) / len(self.scores)


def pairs_of(references: Path, images: Path, maps: Path | None) -> tuple[list[Pair], list[str]]:
    """The pictures of two folders that have one name, without suffix, and the names that only one folder has.

    Args:
        maps: a folder for maps, which is made.

    Raises:
        PictureError: no name is in both folders, or a folder has a name twice.
    """
    ours, theirs = _by_name(references), _by_name(images)
    common = [name for name in ours if name in theirs]
    if not common:
        raise PictureError(
            f"no picture in {str(images)!r} has the name of one in {str(references)!r}: pictures are paired by name, "
            f"without suffix, for instance {next(iter(theirs))!r} and {next(iter(ours))!r}"
        )
    if maps is not None:
        try:
            maps.mkdir(exist_ok=True)
        except OSError as error:
            raise PictureError(
                f"cannot make the folder {str(maps)!r}: {error.strerror}; maps of two folders go into a folder"
            ) from error
    paths = [None if maps is None else maps / f"{name}.png" for name in common]
    pairs = [Pair(name, ours[name], theirs[name], path) for name, path in zip(common, paths, strict=True)]
    return pairs, sorted(ours.keys() ^ theirs.keys())


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures_in(folder):
        if path.stem in found:
            raise PictureError(f"{found[path.stem]} and {path.name} have one name: pictures are paired by it; move one")
        found[path.stem] = path
    return found


def compare_all(loss: TaskLoss, pairs: Sequence[Pair]) -> Result:
    """Scores of many pairs. One that cannot be read or compared costs its own score, not those of the others."""
    scores, failed = [], {}
    for number, pair in enumerate(pairs, start=1):
        try:
            scores.append(compare(loss, pair, f"{number} of {len(pairs)}, {pair.name}"))
        except ValueError as error:
            failed[pair.name] = str(error)
    return Result(sorted(scores, key=lambda score: -score.loss), failed)


def compare(loss: TaskLoss, pair: Pair, shown: str) -> Score:
    """The score of a pair, and its map.

    Args:
        shown: before the percentage that a terminal shows of large pictures.

    Raises:
        PictureError: a picture cannot be read, the two differ in size, or the map cannot be written.
        ValueError: they are too small.
    """
    if pair.map is not None:
        check_map_path(pair.map)
    reference, image = read_picture(pair.reference), read_picture(pair.image)
    if reference.shape != image.shape:
        raise PictureError(
            f"the pictures differ in size: {pair.reference} has {_size(reference)} pixels, {pair.image} "
            f"{_size(image)}; crop or resize one of them"
        )
    height, width = reference.shape[2:]
    with torch.no_grad(), _progress(loss, height * width, shown, passes=1 if pair.map is None else 2):
        shares = {scale: share.item() for scale, share in loss.per_scale(image, reference).items()}
        if pair.map is not None:
            write_heat_map(loss.distance_map(image, reference), reference, pair.map)
    return Score(pair.name, sum(shares.values()), shares, (height, width))


def write_csv(path: Path, scores: Sequence[Score], scales: Sequence[int]) -> None:
    """One row a picture: its name, its loss, and each scale's share, empty for a scale that took no part.

    Raises:
        PictureError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(["name", "loss", *(f"scale {scale}" for scale in scales)])
            for score in scores:
                shares = [repr(score.per_scale[scale]) if scale in score.per_scale else "" for scale in scales]
                rows.writerow([score.name, repr(score.loss), *shares])
    except OSError as error:
        raise PictureError(f"cannot write {path}: {error.strerror}; use a writable place") from error


@contextmanager
def _progress(loss: TaskLoss, pixels: int, shown: str, passes: int) -> Iterator[None]:
    """On a terminal and for large pictures, a line that says how much is done and vanishes at the end."""
    if pixels < LARGE or not sys.stderr.isatty():
        yield
        return
    ratio = loss.architecture.ratio if loss.resolution == "pyramid" else 1.0
    areas = [pixels * ratio ** (2 * down) for down in range(len(loss.discriminators))]
    total, done = 2 * passes * sum(areas), 0.0  # each discriminator sees both pictures

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...], outputs: list[Tensor]) -> None:
        nonlocal done
        done += inputs[0].shape[2] * inputs[0].shape[3]
        sys.stderr.write(f"\r\x1b[K{shown}: {min(99, round(100 * done / total))} %")
        sys.stderr.flush()

    hooks = [part.register_forward_hook(count) for part in loss.discriminators]
    try:
        sys.stderr.write(f"\r\x1b[K{shown}: 0 %")
        yield
    finally:
        for hook in hooks:
            hook.remove()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _size(picture: Tensor) -> str:
    height, width = picture.shape[2:]
    return f"{width} x {height}"
