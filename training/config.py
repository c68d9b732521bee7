"""Every setting of a training run, in one frozen dataclass that the command line is made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, make_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import torch

from task_losses.architecture import DISTANCES, MOST_SCALES, Architecture
from task_losses.texts import printable, shown
from training.builtin import BUILTIN
from training.objectives import OBJECTIVES, Objective

KERNELS = ("auto", "triton", "native", "reference", "autograd")

# Where a run is computed and how often it is saved changes nothing of what it computes.
INDIFFERENT = ("checkpoint_every", "device", "threads", "kernels", "command_seconds")

# What a run did before there were settings for it: files of older versions do not name these.
BEFORE = {
    "objective": "wgan-gp",
    "spectral_norm": False,
    "image_exponent": 2.0,
    "texture_taps": (),
    "texture_skips": 0,
    "periods": (),
}


def setting(default: Any, text: str, section: str | None = None, choices: Sequence[str] | None = None) -> Any:
    """A field of :class:`Config`.

    Args:
        text: for ``--help``.
        section: of ``--help``, which begins with this setting.
        choices: what it may be; the class checks that too, as settings also come from files.
    """
    return field(default=default, metadata={"help": text, "section": section, "choices": choices})


STRENGTHS = {strength.setting: (strength, name) for name, builtin in BUILTIN.items() for strength in builtin.strengths}
if TYPE_CHECKING:

    @dataclass(frozen=True)
    class _Strengths:
        """Those that other modules name; there is one for each strength of a built-in distortion."""

        noise_sigma: tuple[float, float] = (5.0, 50.0)
        jpeg_quality: tuple[int, int] = (5, 40)

else:
    _Strengths = make_dataclass(
        "_Strengths",
        [
            (
                strength.setting,
                tuple[(type(strength.default[0]),) * 2],
                setting(
                    strength.default,
                    f"{name}: {strength.text}",
                    "strengths of the built-in distortions, lowest and highest; drawn anew at every step",
                ),
            )
            for strength, name in STRENGTHS.values()
        ],
        frozen=True,
    )


def is_command(distortion: str) -> bool:
    """Whether it is for the shell, rather than a built-in distortion's name or ``module:function``."""
    return "{in}" in distortion or "{out}" in distortion


def distortion_problem(name: str) -> str:
    """What is wrong with a distortion's name, or nothing."""
    if is_command(name):
        missing = [word for word in ("{in}", "{out}") if word not in name]
        return f"the command {name!r} must hold {{in}} and {{out}}, {missing[0]} is missing" if missing else ""
    if name in BUILTIN or all(name.partition(":")):
        return ""
    return (
        f"--distortion {name!r} is no built-in one ({', '.join(BUILTIN)}), no module:function, and no shell command "
        "with {in} and {out}"
    )


@dataclass(frozen=True)
class Config(_Strengths):
    """Settings of phase 1: one image, one task, a pyramid of discriminators.

    The defaults are for distortions of one's own; :mod:`training.recipes` says what each task changes of them.
    """

    task: str = setting(
        "jpeg",
        f"a built-in distortion ({', '.join(BUILTIN)}), or a name of your own together with --distortion",
        "what is trained",
    )
    image: str = setting("skimage:chelsea", "the training image: a file, or skimage:NAME for one of scikit-image's")
    image_licence: str = setting("", "licence of your image, recorded in the weights")
    seed: int = setting(0, "seed of the initial weights and of every random draw")

    distortion: str | tuple[str, ...] | None = setting(
        None,
        "module:function of your own; a shell command with {in} and {out}; or a built-in one. Several: one of them is "
        "drawn at every step",
        "the distortion",
    )
    distortion_weights: tuple[float, ...] = setting((), "how often each of several is drawn, relative; equally often")
    command_seconds: float = setting(60.0, "time limit of a shell command, for one picture")
    upscale: bool = setting(False, "distort the upscaled coarser level, as the paper does; without, the level itself")
    wiener: int = setting(5, "side of the linear filter that restores the distorted level first; 0 for none")

    scales: int = setting(
        8, "number of pyramid levels, and of discriminators", "the critics, and what the loss compares"
    )
    ratio: float = setting(0.75, "size of a level relative to the next finer one")
    longest_side: int = setting(200, "longest side of the finest level, in pixels")
    channels: tuple[int, ...] = setting((16,), "width of the discriminators: one for all scales, or one per scale")
    taps: tuple[int, ...] = setting((0, 4), "layers whose outputs the loss compares; 0 is the image itself, once")
    distance: str = setting("squared", "how it compares them: by such differences", choices=tuple(DISTANCES))
    image_exponent: float = setting(2.0, "how it compares the image itself: by |difference|^exponent, from 1 to 2")
    image_share: float = setting(0.6, "share of the image itself in the loss, where 0 is among the taps")
    texture_taps: tuple[int, ...] = setting((1, 4), "layers whose strength in windows it compares; no number: none")
    texture_skips: int = setting(0, "finest scales that do not compare it")
    texture_pull: float = setting(0.75, "gradient of that beside the differences, on the training image, at texture=1")
    periods: tuple[int, ...] = setting((8,), "pixels; it compares errors that repeat so once more; no number: none")
    periodic_weight: float = setting(0.05, "factor of that; an error without any order counts as its mean square")

    steps: int = setting(200, "steps per scale", "how they are trained")
    generator: bool = setting(False, "the paper's adversary; without it the distorted level itself is the fake")
    critic_updates: int = setting(1, "updates of the discriminator per step")
    generator_updates: int = setting(1, "updates of the generator per step")
    lr: float = setting(5e-4, "Adam's learning rate")
    betas: tuple[float, float] = setting((0.5, 0.999), "Adam's decay rates")
    lr_decay_at: float = setting(0.8, "fraction of a scale's steps after which the learning rate falls")
    lr_decay: float = setting(0.1, "factor by which it falls")
    objective: str = setting("hinge", "of the adversaries", choices=OBJECTIVES)
    penalty_weight: float = setting(0.1, "wgan-gp: weight of the gradient penalty")
    spectral_norm: bool = setting(True, "hinge: divide each convolution's weights by their spectral norm")
    reconstruction_weight: float = setting(10.0, "weight of the generator's mean squared error, images in [-1, 1]")
    shared_norm: bool = setting(True, "judge real and fake in one batch; without, each normalised by itself")
    input_range: tuple[float, float] = setting((0.0, 1.0), "range in which the networks see the images")
    inherit: bool = setting(True, "start each scale from the networks of the coarser one where widths match")

    checkpoint_every: int = setting(50, "steps between checkpoints", "where it is computed; changes no result")
    device: str = setting("auto", "cpu, cuda, or auto: cuda where there is one")
    threads: int = setting(0, "threads on the CPU; 0 for as many as this process may use")
    kernels: str = setting("auto", "what computes the critic's step", choices=KERNELS)

    def __post_init__(self) -> None:
        """Every value is checked here, from wherever it came.

        Raises:
            ValueError: a setting has a value that cannot be; the message names both.
        """
        for name, kind in get_type_hints(Config).items():
            value = getattr(self, name)
            if not _is_of(value, kind):
                raise ValueError(f"{_flag(name)} must be {_kind_in_words(kind)}, got {shown(value)}")
            if kind is float or kind == tuple[float, float]:  # a whole number is one of these; torch is stricter
                object.__setattr__(self, name, float(value) if kind is float else tuple(map(float, value)))
        for name in ("steps", "critic_updates", "generator_updates", "checkpoint_every", "scales"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_flag(name)} must be at least 1, got {getattr(self, name)}")
        if self.scales > MOST_SCALES:  # before there are as many of anything
            raise ValueError(f"scales must be at most {MOST_SCALES}, got {shown(self.scales)}")
        smallest = self.architecture.receptive_field  # it raises where there is no such architecture
        _ = self.critic_objective  # as it does
        problems = [
            (not self.task.isidentifier(), f"task must be a plain name, got {self.task!r}"),
            (
                self.task not in BUILTIN and self.distortion is None,
                f"task {self.task!r} is not built in ({', '.join(BUILTIN)}); "
                "name your own with --distortion module:function, or a shell command with {in} and {out}",
            ),
            (
                "sr" in self.distortions and not self.upscale,
                "without --upscale the task sr has no distortion to learn from",
            ),
            *((bool(problem), problem) for problem in map(distortion_problem, filter(None, self.distortions))),
            (
                len(self.distortion_weights) not in (0, len(self.distortions)),
                f"distortion-weights must be one number for each distortion ({len(self.distortions)}), got "
                f"{self.distortion_weights}",
            ),
            (
                not all(weight > 0 for weight in self.distortion_weights),
                f"distortion-weights must be positive, got {self.distortion_weights}",
            ),
            (self.command_seconds <= 0, f"command-seconds must be positive, got {self.command_seconds}"),
            (abs(self.seed) >= 2**50, f"seed must lie between -2^50 and 2^50, got {self.seed}"),
            (
                self.longest_side < smallest,
                f"longest-side must be at least {smallest} pixels, what a critic sees, got {self.longest_side}",
            ),
            (
                self.wiener != 0 and (self.wiener < 0 or self.wiener % 2 == 0),
                f"wiener must be an odd number of pixels, or 0 for no filter, got {self.wiener}",
            ),
            (self.texture_pull < 0, f"texture-pull must not be negative, got {self.texture_pull}"),
            (not 0 < self.image_share < 1, f"image-share must lie between 0 and 1, got {self.image_share}"),
            (self.threads < 0, f"threads must be at least 1, or 0 for as many as possible, got {self.threads}"),
            (self.kernels not in KERNELS, f"kernels must be one of {', '.join(KERNELS)}, got {self.kernels!r}"),
            (not _names_a_device(self.device), f"device must be auto, cpu, cuda or cuda:NUMBER, got {self.device!r}"),
            (self.lr <= 0, f"lr must be positive, got {self.lr}"),
            (not all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), got {self.betas}"),
            (not 0 <= self.lr_decay_at <= 1, f"lr-decay-at must be a fraction from 0 to 1, got {self.lr_decay_at}"),
            (not 0 < self.lr_decay <= 1, f"lr-decay must be above 0 and at most 1, got {self.lr_decay}"),
            (self.penalty_weight < 0, f"penalty-weight must not be negative, got {self.penalty_weight}"),
            (
                self.reconstruction_weight < 0,
                f"reconstruction-weight must not be negative, got {self.reconstruction_weight}",
            ),
            (
                len(self.channels) not in (1, self.scales),
                f"channels must be one number or one per scale ({self.scales}), got {self.channels}",
            ),
            (
                not self.input_range[0] < self.input_range[1],
                f"input-range must be low < high, got {self.input_range}",
            ),
            *(self._strength_problem(name) for name in STRENGTHS),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(message)

    def _strength_problem(self, name: str) -> tuple[bool, str]:
        low, high = getattr(self, name)
        least, most = STRENGTHS[name][0].limits
        return (
            not least <= low <= high <= most,
            f"{_flag(name)} must be {least:g} <= low <= high <= {most:g}, got {(low, high)}",
        )

    @property
    def distortions(self) -> tuple[str, ...]:
        """Built-in names, ``module:function`` and commands, of which one is drawn at every step."""
        if self.distortion is None:
            return (self.task,)
        return (self.distortion,) if isinstance(self.distortion, str) else self.distortion

    @property
    def used(self) -> dict[str, Any]:
        """What the trained weights depend on: without the strengths of distortions that have no part, and without
        what is indifferent."""
        idle = [name for name, (_, builtin) in STRENGTHS.items() if builtin not in self.distortions]
        return {name: value for name, value in asdict(self).items() if name not in (*INDIFFERENT, *idle)}

    @property
    def architecture(self) -> Architecture:
        channels = self.channels * self.scales if len(self.channels) == 1 else self.channels
        return Architecture(
            channels=channels,
            ratio=self.ratio,
            taps=self.taps,
            distance=self.distance,
            image_exponent=self.image_exponent,
            texture_taps=self.texture_taps,
            texture_skips=self.texture_skips,
            periods=self.periods,
            periodic_weight=self.periodic_weight,
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
            ValueError: it has settings that are not known here, or values that cannot be.
        """
        if unknown := content.keys() - {entry.name for entry in fields(cls)}:
            names = printable(", ".join(sorted(map(str, unknown))))
            raise ValueError(f"there are no settings {names}: a newer version may have written them")
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**{**BEFORE, **settings})


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """One flag for each setting, or for those named; ``None`` stands for "not given"."""
    hints = get_type_hints(Config)
    section: Any = parser
    for entry in sorted(fields(Config), key=lambda entry: entry.name in STRENGTHS):  # last, as they are many
        title = entry.metadata["section"]
        if title is not None and title != getattr(section, "title", None) and names is None:
            section = parser.add_argument_group(title)
        if names is not None and entry.name not in names:
            continue
        assert entry.default is not MISSING
        flag = f"--{_flag(entry.name)}"
        text = f"{entry.metadata['help']} [{_shown(entry.default)}]".replace("%", "%%")
        if isinstance(entry.default, bool):
            section.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif entry.name == "distortion":
            section.add_argument(flag, nargs="+", metavar="WHAT", default=None, help=text)
        elif isinstance(entry.default, tuple):
            several = hints[entry.name] in (tuple[int, ...], tuple[float, ...])
            kind = type(entry.default[0]) if entry.default else float
            count = "*" if several else len(entry.default)  # none at all is a value too
            section.add_argument(flag, type=kind, nargs=count, metavar="N", default=None, help=text)
        else:
            kind, choices = type(entry.default), entry.metadata["choices"]
            metavar = None if choices else "TEXT" if kind is str else "N"
            section.add_argument(flag, type=kind, choices=choices, metavar=metavar, default=None, help=text)


def task_of(given: Mapping[str, Any]) -> str:
    """The task that settings name, or that of the one built-in distortion that they name.

    Raises:
        ValueError: a distortion of one's own has no name.
    """
    distortion = given.get("distortion")
    if "task" in given or distortion is None:
        return str(given.get("task", Config.task))
    if distortion in BUILTIN:
        return str(distortion)
    raise ValueError("a distortion of your own needs a name for its loss: --task NAME, for instance --task rain")


def given_settings(arguments: argparse.Namespace, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings that the command line names, of all or of ``names``."""
    values = {name: getattr(arguments, name) for name in names or [entry.name for entry in fields(Config)]}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
    if len(given.get("distortion", ())) == 1:
        (given["distortion"],) = given["distortion"]
    return given


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type that this file annotates with; a whole number is a float too, nan is none."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_is_of(each, kinds[0]) for each in value)
        return len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is NoneType:
        return value is None
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _kind_in_words(kind: Any) -> str:
    if kind == str | tuple[str, ...] | None:
        return "a text, or a list of texts"
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        plain = "whole numbers" if first is int else "finite numbers"
        return f"a list of {plain}" if others == [Ellipsis] else f"two {plain}"
    return {bool: "true or false", int: "a whole number", float: "a finite number"}.get(kind, "a text")


def _names_a_device(name: str) -> bool:
    try:
        return name == "auto" or torch.device(name).type != "meta"  # which has no numbers
    except RuntimeError:
        return False


def _shown(value: Any) -> str:
    if value in (None, (), ""):
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
