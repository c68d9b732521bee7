"""What a run learns from. It travels in the run's checkpoint, so that nothing is opened again by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from training.config import Config
from training.distortions import OwnSource, own_source
from training.images import Source, level_sizes, open_image, pyramid

GREY = 1 / 255  # a grey level of an 8-bit picture
FLAT = 0.5 * GREY  # contrast, as a standard deviation, in which there is nothing to see


@dataclass(frozen=True)
class Material:
    """An image's levels, and where image and distortion are from.

    Attributes:
        image: its name, licence and hash.
        distortion: the user's own; None for one that is built in, which the code's commit names.
        below: one level coarser than all that are trained on: what scale 0 starts from.
        levels: (1, 3, h, w) in [0, 1], coarsest first.
    """

    image: Source
    distortion: OwnSource | None
    below: Tensor
    levels: list[Tensor]

    @classmethod
    def of(cls, config: Config) -> Material:
        """Opens what the settings name.

        Raises:
            ValueError: image or distortion cannot be opened, or the image is too small, too long or flat.
            ImportError: see :func:`training.images.open_image`.
        """
        if not config.image.startswith("skimage:"):
            print(f"reading {config.image}", file=sys.stderr)  # a large one takes its time
        image, source = open_image(config.image, config.image_licence)
        check_size(image, source.name, config)
        contrast = image.std(dim=(2, 3)).max().item()
        if contrast < FLAT:
            raise ValueError(
                f"the image {source.name} is flat, all its pixels are alike: nothing can be learnt from it"
            )
        own = own_source(config)
        below, *levels = pyramid(image, config.scales, config.ratio, config.longest_side)
        return cls(source, own, below, levels)

    def saved(self) -> dict[str, Any]:
        """For a checkpoint: tensors and texts."""
        own = None if self.distortion is None else asdict(self.distortion)
        return {
            "image": json.dumps(asdict(self.image)),
            "distortion": json.dumps(own),
            "below": self.below,
            "levels": self.levels,
        }

    @classmethod
    def loaded(cls, content: Mapping[str, Any]) -> Material:
        """The inverse of :meth:`saved`."""
        own = json.loads(content["distortion"])
        image = Source(**json.loads(content["image"]))
        return cls(image, None if own is None else OwnSource(**own), content["below"], content["levels"])


def check_size(image: Tensor, name: str, config: Config) -> None:
    """That every level is large enough for a critic.

    Raises:
        ValueError: the coarsest is not; the message names settings that fit.
    """
    size, smallest = (image.shape[-2], image.shape[-1]), config.architecture.receptive_field

    def coarsest(scales: int, longest_side: int) -> tuple[int, int]:
        return level_sizes(size, scales, config.ratio, longest_side)[1]

    height, width = coarsest(config.scales, config.longest_side)
    if min(height, width) >= smallest:
        return
    fewer = [n for n in range(1, config.scales) if min(coarsest(n, config.longest_side)) >= smallest]
    sides = range(config.longest_side + 1, max(size) + 1)
    larger = next((side for side in sides if min(coarsest(config.scales, side)) >= smallest), None)
    ways = [f"--scales {max(fewer)}"] if fewer else []
    ways += [f"--longest-side {larger}"] if larger else []
    raise ValueError(
        f"the image {name}, {size[1]}x{size[0]} pixels, does not fit {config.scales} scales: its coarsest level would "
        f"be {width}x{height} pixels, and a critic needs {smallest} on the shorter side; "
        f"use {' or '.join([*ways, 'an image with a longer shorter side'])}"
    )


def changes(config: Config, material: Material) -> tuple[str | None, str | None]:
    """What has become of image and distortion since a run began: a line each, or None.

    What cannot be opened any more is no change: the run has its own copy.
    """
    image = distortion = None
    try:
        _, source = open_image(config.image, config.image_licence)
        if source.sha256 != material.image.sha256:
            image = (
                f"{config.image} is another image now (sha256 {source.sha256[:12]}, was {material.image.sha256[:12]})"
            )
    except (ValueError, ImportError):
        pass
    if material.distortion is not None:
        try:
            now = own_source(config)
            if now is not None and now.sha256 not in (None, material.distortion.sha256):
                distortion = f"the source of {material.distortion.name} has changed"
        except ValueError:
            pass
    return image, distortion
