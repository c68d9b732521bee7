"""What a run goes on from: in memory while it runs, in its checkpoint when it was stopped."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.config import Config
from training.material import Material
from training.provenance import machine
from training.run_folder import RunFolder


@dataclass
class RunState:
    """A run between two steps.

    Attributes:
        source: of all that chance decides.
        material: what it learns from.
        coarser: what the next scale starts from, (1, 3, h, w) in [0, 1].
        origin: the code, versions and machine; its ``seconds`` are those spent before ``begun``.
        scale, step: of the next step.
        networks: of the scale that was begun or of the one before, see :meth:`training.scale.Scale.state`.
        finished: of each finished scale, the critic that the loss is made from.
        examples: of each finished scale, see :class:`training.scaling.Examples`; the export scales features on them.
    """

    source: torch.Generator
    material: Material
    coarser: Tensor
    origin: dict[str, Any]
    scale: int = 0
    step: int = 0
    networks: dict[str, Any] | None = None
    finished: list[dict[str, Tensor]] = field(default_factory=list)
    examples: list[Tensor] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, config: Config, material: Material, kernels: str, checkpoint: dict[str, Any] | None) -> RunState:
        """The beginning, or where a checkpoint was written.

        Args:
            kernels: what makes the updates, for the record.
        """
        source, origin = torch.Generator().manual_seed(config.seed), machine() | {"kernels": kernels, "seconds": 0.0}
        if checkpoint is None:
            return cls(source, material, material.below, origin)
        source.set_state(checkpoint["draws"])
        origin["seconds"] = json.loads(checkpoint["origin"])["seconds"]
        state = [checkpoint[key] for key in ("coarser", "scale", "step", "state", "finished", "examples")]
        coarser, scale, step, networks, finished, examples = state
        return cls(source, material, coarser, origin, scale, step, networks, finished, examples)

    def save(self, folder: RunFolder, config: Config, randomness: Tensor) -> None:
        """Keeps everything that a resumed run needs to go on as if it had never stopped.

        Args:
            randomness: state of ``source`` after the last step; ``source`` itself may be ahead of it.
        """
        seconds = round(self.origin["seconds"] + time.monotonic() - self.begun, 1)
        content = {
            "material": self.material.saved(),
            "finished": self.finished,
            "examples": self.examples,
            "coarser": self.coarser,
            "scale": self.scale,
            "step": self.step,
            "state": self.networks,
            "draws": randomness,
            "origin": json.dumps(self.origin | {"seconds": seconds}),
        }
        folder.save_checkpoint(content, config)
