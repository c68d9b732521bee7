"""A task's released recipe with something changed, and the loss that it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import task_losses
from task_losses.files import write_file
from task_losses.losses import LOSSES, RESOLUTIONS
from task_losses.weights import manifest_entry
from training import export
from training.bench.ablation.averaged import AveragedScale
from training.bench.study.forms import reweighted
from training.bench.study.ours import recipe_of
from training.bench.study.restoration import short_hash
from training.config import INDIFFERENT, Config
from training.lock import alone
from training.run_folder import RunFolder
from training.scale import Scale
from training.train import Run, train_runs


@dataclass(frozen=True)
class Altered:
    """Settings, and what no setting says.

    Attributes:
        average: decay of the critics' moving average, see :mod:`training.bench.ablation.averaged`; 0 for none.
        anew: do not take the released file, whose recipe this may be, but train.
        scale_growth, equal_scales, tap_weights: see :func:`training.bench.study.forms.reweighted`.
        unit_features: see :class:`training.bench.study.forms.UnitFeatures`.
        resolution: what each discriminator sees, see :class:`task_losses.TaskLoss`.
    """

    config: Config
    average: float = 0.0
    anew: bool = False
    scale_growth: float = 1.0
    equal_scales: bool = False
    tap_weights: tuple[float, ...] = ()
    unit_features: bool = False
    resolution: str = "pyramid"

    def __post_init__(self) -> None:
        above = [tap for tap in self.config.taps if tap > 0]
        problems = [
            (not 0 <= self.average < 1, f"average must lie in [0, 1), got {self.average}"),
            (
                len(self.tap_weights) not in (0, len(above)),
                f"tap weights are for the features' taps {above}, got {self.tap_weights}",
            ),
            (self.resolution not in RESOLUTIONS, f"resolution must be one of {RESOLUTIONS}, got {self.resolution!r}"),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(message)

    @classmethod
    def of(cls, recipe: Config, changes: Mapping[str, Any]) -> Altered:
        """A recipe with changed values of settings, or of this class.

        Raises:
            ValueError: they do not fit together.
        """
        own = {name: changes[name] for name in changes if name in {entry.name for entry in fields(cls)}}
        others = {name: value for name, value in changes.items() if name not in own}
        return cls(Config.from_dict({**asdict(recipe), **others}), **own)


def released(task: str) -> Config:
    """The recipe of the released weights."""
    return recipe_of(LOSSES[task]())


def loss_of(altered: Altered, runs: Path) -> str:
    """The loss, by a name that :func:`training.bench.study.peers.find_peer` knows; trained and exported if need be.

    Args:
        runs: folder for trainings and weight files.
    """
    path = weights_of(altered, runs)
    kind = "unit" if altered.unit_features else "file"
    return f"{kind}:{path}" if altered.resolution == "pyramid" else f"{kind}:{path}@{altered.resolution}"


def weights_of(altered: Altered, runs: Path) -> Path:
    """Its weight file: the released one where its critics and form are those."""
    config = altered.config
    if config == released(config.task) and not altered.average and not altered.anew:
        filename: str = manifest_entry(config.task)["filename"]
        path = Path(task_losses.__file__).parent / "weights" / filename
    else:
        path = _trained(config, altered.average, runs)
    weighing = {name: getattr(altered, name) for name in ("scale_growth", "equal_scales", "tap_weights")}
    if weighing == {name: getattr(Altered, name) for name in weighing}:
        return path
    data = reweighted(path.read_bytes(), **weighing)
    result = runs / f"{config.task}-reweighted-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    runs.mkdir(parents=True, exist_ok=True)
    write_file(result, data)
    return result


def _trained(config: Config, average: float, runs: Path) -> Path:
    settings = {name: value for name, value in asdict(config).items() if name not in INDIFFERENT}
    form = {name: settings.pop(name) for name in export.FORM}
    method = {"average": average} if average else {}
    folder = RunFolder(runs / f"{config.task}-{short_hash({**settings, **method})}")
    path = folder.path / f"{short_hash(form)}.safetensors"
    runs.mkdir(parents=True, exist_ok=True)
    with alone(folder.path.with_suffix(".lock"), wait=True):  # two questions may need one training
        if not path.is_file():
            checkpoint = folder.load_checkpoint() if folder.checkpoint_path.exists() else None
            run = Run(config, folder, checkpoint)
            run.open()
            train_runs([run], partial(AveragedScale, decay=average) if average else Scale)
            export.export(folder, form=form).replace(path)
    return path
