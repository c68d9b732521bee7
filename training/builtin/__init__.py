"""The built-in distortions, one entry of ``BUILTIN`` each: ``--task``, ``--distortion`` and the flags are made from it.

The functions are in :mod:`training.builtin.codecs`, :mod:`training.builtin.noise` and :mod:`training.builtin.blur`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from training.builtin import blur, codecs, noise


class Strength(NamedTuple):
    """What is drawn anew for each image, from a range that is a setting.

    Attributes:
        setting: its name; the flag's is made from it.
        default: lowest and highest value. Two integers: only integers are drawn.
        limits: of what may be asked for.
        text: for ``--help``; names the unit.
        divisor: the function is given the value divided by it.
        logarithmic: whether ratios are equally likely, rather than differences.
    """

    setting: str
    default: tuple[float, float]
    limits: tuple[float, float]
    text: str
    divisor: float = 1.0
    logarithmic: bool = False

    def draw(self, low: float, high: float, generator: torch.Generator) -> float:
        share = torch.rand((), generator=generator).item()
        low, high = low / self.divisor, high / self.divisor
        if self.logarithmic:
            return math.exp(math.log(low) + (math.log(high) - math.log(low)) * share)
        value = low + (high - low) * share
        return round(value) if isinstance(self.default[0], int) else value


class Builtin(NamedTuple):
    """A distortion.

    Attributes:
        text: what it does, for ``--help``.
        strengths: in the order in which ``apply`` takes them.
        apply: takes (N, 3, H, W) in [0, 1], a value of each strength, and the source of all chance.
        lacking: says what is missing on this machine, or nothing.
    """

    text: str
    strengths: tuple[Strength, ...]
    apply: Callable[..., Tensor]
    lacking: Callable[[], str] = lambda: ""


BUILTIN: dict[str, Builtin] = {
    "sr": Builtin("nothing: upscaling the coarser level is the distortion", (), lambda image, generator: image),
    "denoise": Builtin(
        "white Gaussian noise",
        (
            Strength(
                "noise_sigma", (5.0, 50.0), (0, math.inf), "standard deviation, in grey levels of 255", divisor=255
            ),
        ),
        noise.gaussian_noise,
    ),
    "jpeg": Builtin(
        "JPEG",
        (Strength("jpeg_quality", (5, 40), (1, 95), "libjpeg's quality"),),
        lambda image, quality, generator: codecs.jpeg(image, quality),
    ),
    "webp": Builtin(
        "WebP, lossy",
        (Strength("webp_quality", (5, 60), (0, 100), "libwebp's quality"),),
        lambda image, quality, generator: codecs.through_pillow(image, "WEBP", quality=quality),
        lambda: codecs.lacking_in_pillow("webp"),
    ),
    "avif": Builtin(
        "AVIF",
        (Strength("avif_quality", (10, 60), (0, 100), "libavif's quality"),),
        lambda image, quality, generator: codecs.through_pillow(image, "AVIF", quality=quality, speed=8),
        lambda: codecs.lacking_in_pillow("avif"),
    ),
    "h264": Builtin(
        "H.264, a key frame, by ffmpeg",
        (Strength("h264_crf", (25, 45), (0, 51), "x264's constant rate factor"),),
        lambda image, crf, generator: codecs.through_ffmpeg(image, "libx264", crf),
        lambda: codecs.lacking_in_ffmpeg("libx264"),
    ),
    "h265": Builtin(
        "H.265, a key frame, by ffmpeg",
        (Strength("h265_crf", (25, 45), (0, 51), "x265's constant rate factor"),),
        lambda image, crf, generator: codecs.through_ffmpeg(image, "libx265", crf),
        lambda: codecs.lacking_in_ffmpeg("libx265"),
    ),
    "sensor": Builtin(
        "noise of a sensor: Poisson's of the light, Gauss' of reading it",
        (
            Strength("sensor_photons", (30.0, 1000.0), (1, 1e6), "photons that make white", logarithmic=True),
            Strength("sensor_read", (1.0, 5.0), (0, 1e4), "standard deviation of reading, in photons"),
        ),
        noise.sensor_noise,
    ),
    "grain": Builtin(
        "grain of a film: grey, of soft grains, strongest in mid-grey",
        (
            Strength("grain_sigma", (5.0, 25.0), (0, 255), "standard deviation there, of 255 grey levels", divisor=255),
            Strength("grain_size", (0.4, 1.2), (0.1, 20), "standard deviation of a grain's width, in pixels"),
        ),
        noise.film_grain,
    ),
    "motion": Builtin(
        "blur of a moving camera, in any direction",
        (Strength("motion_length", (3.0, 15.0), (0, 100), "length of the way, in pixels"),),
        blur.motion_blur,
    ),
    "defocus": Builtin(
        "blur of a lens out of focus",
        (Strength("defocus_radius", (1.0, 4.0), (0.1, 50), "radius of the disc, in pixels"),),
        lambda image, radius, generator: blur.blurred(image, blur.disc(radius)),
    ),
}
