"""What is judged: a loss, and the distortion that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from task_losses import TaskLoss, WeightsNotFound
from training.bench.study.ours import recipe_of
from training.builtin import BUILTIN
from training.config import Config
from training.distortions import make_distortion, own_source
from training.run_folder import RunFolder


@dataclass(frozen=True)
class Subject:
    """A loss to judge.

    Attributes:
        config: what it was trained with, or the user's own word on the distortion.
        distortion: what tells the distortion and its strengths from others.
        folder: where results go, unless told otherwise.
    """

    loss: TaskLoss
    config: Config
    distortion: str
    folder: Path

    @property
    def task(self) -> str:
        return str(self.loss.weights_info["task"])


def open_subject(path: Path, given: Mapping[str, Any], trust: bool) -> Subject:
    """Reads a finished run, a weight file or a folder of one.

    Shell commands and modules that a weight file names are the word of whoever wrote the file. They run only where the
    user names the distortion, trusts the file, or judges a run, which continues and is exported by the same word.

    Args:
        given: settings of the distortion in the place of the file's: ``distortion``, strengths, ...
        trust: run what the file names.

    Raises:
        ValueError: the file does not say what it was trained with, its distortion may not be run, or cannot be.
        WeightsError: there is no such file, or it is damaged.
    """
    run = RunFolder(path) if path.is_dir() and RunFolder(path).begun else None
    try:
        loss = TaskLoss(path)
    except WeightsNotFound as error:
        if run is None:
            raise
        raise ValueError(
            f"the run in {path} has no weights yet: `python -m training.export {path}` makes them"
        ) from error
    if not isinstance(loss.weights_info.get("config"), dict):
        raise ValueError(f"{path} does not say what it was trained with, so its distortion is not known")
    config = replace(recipe_of(loss), **given)
    strange = [name for name in config.distortions if name not in BUILTIN]
    if strange and run is None and not trust and "distortion" not in given:
        raise ValueError(
            f"{path} names a distortion that is code: {', '.join(map(repr, strange))}. If you know who wrote the file, "
            "--trust runs it; --distortion names one of yours"
        )
    make_distortion(config)  # so that what is lacking shows now
    own = own_source(config)
    settings = {name: value for name, value in sorted(config.used.items()) if name in _of_distortion(config)}
    folder = path / "judge" if path.is_dir() else path.with_suffix(".judge")
    return Subject(loss, config, f"{settings} {own.sha256 if own else None}", folder)


def _of_distortion(config: Config) -> set[str]:
    strengths = {s.setting for name in config.distortions if name in BUILTIN for s in BUILTIN[name].strengths}
    return {"task", "distortion", "distortion_weights", "upscale", *strengths}
