"""Every setting of a training run, in one frozen dataclass that the command line is made from."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from task_losses.architecture import DISTANCES, MOST_SCALES, Architecture
from task_losses.texts import shown
from training.objectives import OBJECTIVES, Objective
from training.recipes import RECIPES

BUILTIN_TASKS = tuple(RECIPES)
KERNELS = ("auto", "triton", "native", "reference", "autograd")

# Where a run is computed and how often it is saved changes nothing of what it computes.
INDIFFERENT = ("checkpoint_every", "device", "threads", "kernels")

# What a run did before there were settings for it: files of older versions do not name these.
BEFORE = {"objective": "wgan-gp", "spectral_norm": False, "image_exponent": 2.0}


def setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Settings of phase 1: one image, one task, a pyramid of discriminators.

    The defaults are for distortions of one's own; :mod:`training.recipes` says what each task changes of them.
    """

    task: str = setting("jpeg", "sr, denoise, jpeg, or a name of your own together with --distortion")
    image: str = setting("skimage:chelsea", "the training image: a file, or skimage:NAME for one of scikit-image's")
    image_licence: str = setting("", "licence of your image, recorded in the weights")
    seed: int = setting(0, "seed of the initial weights and of every random draw")

    scales: int = setting(8, "number of pyramid levels, and of discriminators")
    ratio: float = setting(0.75, "size of a level relative to the next finer one")
    longest_side: int = setting(200, "longest side of the finest level, in pixels")
    channels: tuple[int, ...] = setting((16,), "width of the discriminators: one for all scales, or one per scale")
    taps: tuple[int, ...] = setting((0, 4), "layers whose outputs the loss compares; 0 is the image itself, once")
    distance: str = setting("squared", f"how it compares them: by {' or '.join(DISTANCES)} differences")
    image_exponent: float = setting(2.0, "how it compares the image itself: by |difference|^exponent, from 1 to 2")
    image_share: float = setting(0.6, "share of the image itself in the loss, where 0 is among the taps")

    generator: bool = setting(False, "the paper's adversary; without it the distorted level itself is the fake")
    upscale: bool = setting(False, "distort the upscaled coarser level, as the paper does; without, the level itself")
    wiener: int = setting(5, "side of the linear filter that restores the distorted level first; 0 for none")
    steps: int = setting(200, "steps per scale")
    critic_updates: int = setting(1, "updates of the discriminator per step")
    generator_updates: int = setting(1, "updates of the generator per step")
    lr: float = setting(5e-4, "Adam's learning rate")
    betas: tuple[float, float] = setting((0.5, 0.999), "Adam's decay rates")
    lr_decay_at: float = setting(0.8, "fraction of a scale's steps after which the learning rate falls")
    lr_decay: float = setting(0.1, "factor by which it falls")
    objective: str = setting("hinge", f"of the adversaries: {' or '.join(OBJECTIVES)}")
    penalty_weight: float = setting(0.1, "wgan-gp: weight of the gradient penalty")
    spectral_norm: bool = setting(True, "hinge: divide each convolution's weights by their spectral norm")
    reconstruction_weight: float = setting(10.0, "weight of the generator's mean squared error, images in [-1, 1]")
    shared_norm: bool = setting(True, "judge real and fake in one batch; without, each normalised by itself")
    input_range: tuple[float, float] = setting((0.0, 1.0), "range in which the networks see the images")
    inherit: bool = setting(True, "start each scale from the networks of the coarser one where widths match")

    distortion: str | None = setting(None, "your own distortion, as module:function")
    noise_sigma: tuple[float, float] = setting((5.0, 50.0), "denoise: range of the noise, in grey levels of 255")
    jpeg_quality: tuple[int, int] = setting((5, 40), "jpeg: range of the codec's quality")

    checkpoint_every: int = setting(50, "steps between checkpoints")
    device: str = setting("auto", "cpu, cuda, or auto: cuda where there is one")
    threads: int = setting(0, "threads on the CPU; 0 for as many as this process may use")
    kernels: str = setting("auto", f"what computes the critic's step: {', '.join(KERNELS)}; the result is the same")

    def __post_init__(self) -> None:
        problems = [
            (not self.task.isidentifier(), f"task must be a plain name, got {self.task!r}"),
            (
                self.task not in BUILTIN_TASKS and self.distortion is None,
                f"task {self.task!r} is not built in ({', '.join(BUILTIN_TASKS)}); "
                "name your own with --distortion module:function",
            ),
            (
                self.task == "sr" and not self.upscale and self.distortion is None,
                "without --upscale the task sr has no distortion to learn from",
            ),
            (
                self.wiener != 0 and (self.wiener < 0 or self.wiener % 2 == 0),
                f"wiener must be an odd number of pixels, or 0 for no filter, got {self.wiener}",
            ),
            (not 0 < self.image_share < 1, f"image-share must lie between 0 and 1, got {self.image_share}"),
            (not 1 <= self.scales <= MOST_SCALES, f"scales must be 1 to {MOST_SCALES}, got {self.scales}"),
            (self.steps < 1, f"steps must be at least 1, got {self.steps}"),
            (self.critic_updates < 1, f"critic-updates must be at least 1, got {self.critic_updates}"),
            (self.generator_updates < 1, f"generator-updates must be at least 1, got {self.generator_updates}"),
            (self.checkpoint_every < 1, f"checkpoint-every must be at least 1, got {self.checkpoint_every}"),
            (self.threads < 0, f"threads must be at least 1, or 0 for as many as possible, got {self.threads}"),
            (self.kernels not in KERNELS, f"kernels must be one of {', '.join(KERNELS)}, got {self.kernels!r}"),
            (self.lr <= 0, f"lr must be positive, got {self.lr}"),
            (
                len(self.channels) not in (1, self.scales),
                f"channels must be one number or one per scale ({self.scales}), got {self.channels}",
            ),
            (
                not self.input_range[0] < self.input_range[1],
                f"input-range must be low < high, got {self.input_range}",
            ),
            (
                not 0 <= self.noise_sigma[0] <= self.noise_sigma[1],
                f"noise-sigma must be 0 <= low <= high, got {self.noise_sigma}",
            ),
            (
                not 1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 95,
                f"jpeg-quality must be 1 <= low <= high <= 95, got {self.jpeg_quality}",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(message)
        _ = self.architecture, self.critic_objective  # raise for impossible ones

    @property
    def architecture(self) -> Architecture:
        channels = self.channels * self.scales if len(self.channels) == 1 else self.channels
        return Architecture(
            channels=channels,
            ratio=self.ratio,
            taps=self.taps,
            distance=self.distance,
            image_exponent=self.image_exponent,
        )

    @property
    def critic_objective(self) -> Objective:
        return Objective(self.objective, self.penalty_weight, self.spectral_norm, self.shared_norm)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Config:
        """The inverse of ``asdict``, also after a trip through JSON, which turns tuples into lists.

        A setting that the content does not know had, when it was written, the value in ``BEFORE``.

        Raises:
            ValueError: a setting that is not known, of another type, or impossible.
        """
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        hints = get_type_hints(cls)
        for name, value in settings.items():
            if name not in hints:
                raise ValueError(
                    f"the setting {shown(name)} is not known here: a newer version wrote it, or nobody did"
                )
            if not _is_a(value, hints[name]):
                raise ValueError(f"{name} must be of the type {hints[name]}, got {shown(value)}")
        return cls(**{**BEFORE, **settings})


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value has the type that a setting is declared with. NaN and infinities are no numbers."""
    kinds = get_args(hint)
    if get_origin(hint) is tuple and isinstance(value, tuple):
        kinds = (kinds[0],) * len(value) if kinds[-1] is ... else kinds
        return len(kinds) == len(value) and all(map(_is_a, value, kinds))
    if isinstance(hint, UnionType):
        return any(_is_a(value, kind) for kind in kinds)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """One flag for each setting, or for those named; ``None`` stands for "not given"."""
    hints = get_type_hints(Config)
    for entry in fields(Config):
        if names is not None and entry.name not in names:
            continue
        assert entry.default is not MISSING
        flag = "--" + entry.name.replace("_", "-")
        text = f"{entry.metadata['help']} [{_shown(entry.default)}]".replace("%", "%%")
        if isinstance(entry.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif isinstance(entry.default, tuple):
            count = "+" if hints[entry.name] == tuple[int, ...] else len(entry.default)
            parser.add_argument(flag, type=type(entry.default[0]), nargs=count, default=None, help=text)
        else:
            kind = str if entry.default is None else type(entry.default)
            parser.add_argument(flag, type=kind, default=None, help=text)


def given_settings(arguments: argparse.Namespace, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings that the command line names, of all or of ``names``."""
    values = {name: getattr(arguments, name) for name in names or [entry.name for entry in fields(Config)]}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
