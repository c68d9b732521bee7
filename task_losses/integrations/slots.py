"""The losses as frameworks call them that build a loss from a name and options: they know nothing of a framework."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from task_losses.checks import check_number
from task_losses.losses import LOSSES, TaskLoss

KINDS = (*LOSSES.values(), TaskLoss)  # TaskLoss: for weights of one's own


class Slot(nn.Module):
    """A loss behind a framework's way of calling it. Has no parameters and an empty ``state_dict()``, as the loss.

    Args:
        options: of :class:`task_losses.TaskLoss`. An unknown name is a TypeError, so that no typing error is lost.
    """

    kind: ClassVar[type[TaskLoss]] = TaskLoss

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loss = self.kind(**options)

    def distance(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        result: Tensor = self.loss(pred, target, mask)
        return result


class WeightedSlot(Slot):
    """Multiplies by ``loss_weight`` itself, as BasicSR's and neosr's own losses do."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Arguments, result and errors as for :class:`task_losses.TaskLoss`.

        Args:
            weight: by which BasicSR's losses multiply elements: here the mask, (N, 1, H, W).
        """
        return self.distance(pred, target, weight)


class PerceptualSlot(Slot):
    """For BasicSR's ``perceptual_opt``: takes the options of its ``PerceptualLoss`` and returns two losses.

    Args:
        perceptual_weight: factor of the result. Not positive: there is no loss, as in BasicSR.
        style_weight: 0; these losses have no style part.
        range_norm: True for images in [-1, 1].
        layer_weights, vgg_type, use_input_norm, criterion: of VGG, taken and left alone, with a warning.
        options: of :class:`task_losses.TaskLoss`, other than ``loss_weight``.

    Raises:
        ValueError: ``style_weight`` is not 0; ``loss_weight`` is given; ``data_range`` and ``range_norm`` both are.
    """

    def __init__(
        self,
        *,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        range_norm: bool = False,
        layer_weights: object = None,
        vgg_type: object = None,
        use_input_norm: object = None,
        criterion: object = None,
        **options: Any,
    ) -> None:
        if style_weight != 0:
            raise ValueError(f"style_weight must be 0, got {style_weight!r}: these losses have no style part")
        if "loss_weight" in options:
            raise ValueError("in this slot the weight is called perceptual_weight; rename loss_weight")
        of_vgg = {
            "layer_weights": layer_weights,
            "vgg_type": vgg_type,
            "use_input_norm": use_input_norm,
            "criterion": criterion,
        }
        if given := [name for name, value in of_vgg.items() if value is not None]:
            warnings.warn(f"{', '.join(given)}: options of VGG, which mean nothing here; remove them", stacklevel=2)
        if range_norm:
            if "data_range" in options:
                raise ValueError("range_norm means data_range=(-1, 1); give one of them")
            options["data_range"] = (-1.0, 1.0)
        super().__init__(**options)
        self.perceptual_weight = check_number("perceptual_weight", perceptual_weight)

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, None]:
        """The loss, or None without a positive weight; and None, for there is no style loss."""
        if self.perceptual_weight <= 0:
            return None, None
        return self.distance(x, gt) * self.perceptual_weight, None


class UnweightedSlot(Slot):
    """For traiNNer-redux, which reads ``loss_weight`` and multiplies by its absolute value itself.

    Args:
        loss_weight: kept for the framework and not applied. With a negative one it passes the enlarged input as target.
        per_scale: return each scale's share, which the framework adds up and logs by name. It takes about twice the
            memory.
        options: of :class:`task_losses.TaskLoss`.

    Raises:
        ValueError: ``reduction`` is ``"none"``.
    """

    def __init__(self, loss_weight: float, *, per_scale: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if self.loss.reduction == "none":
            raise ValueError('reduction must be "mean" or "sum": the framework differentiates the result as it is')
        self.loss_weight = check_number("loss_weight", loss_weight)
        self.per_scale = per_scale

    def forward(self, pred: Tensor, target: Tensor) -> Tensor | dict[str, Tensor]:
        """A scalar, or one for each scale: ``"scale0"`` is the coarsest. Errors as for the loss."""
        if not self.per_scale:
            return self.distance(pred, target)
        reduce = Tensor.sum if self.loss.reduction == "sum" else Tensor.mean
        shares = self.loss.per_scale(pred, target)
        return {f"scale{scale}": reduce(share) for scale, share in shares.items()}


class Registry(Protocol):
    """What BasicSR and the frameworks that came from it keep their losses in, by name."""

    def register(self, obj: type[nn.Module]) -> object: ...
    def get(self, name: str) -> object: ...
    def __contains__(self, name: str) -> bool: ...


def register(registry: Registry, slot: type[Slot], name: Callable[[type[TaskLoss]], str], module: str) -> None:
    """Adds a class for each loss to a registry, and to the module that asks. Asking again changes nothing.

    Args:
        name: what a loss is called there.

    Raises:
        ValueError: another class has that name there.
    """
    for kind in KINDS:
        called = name(kind)
        if called not in registry:
            made = type(called, (slot,), {"kind": kind, "__module__": module, "__doc__": slot.__doc__})
            setattr(sys.modules[module], called, made)
            registry.register(made)
        elif (other := getattr(registry.get(called), "__module__", None)) != module:
            raise ValueError(f"a loss called {called} is registered already, by {other}; rename or remove that one")
