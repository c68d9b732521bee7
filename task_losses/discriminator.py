"""A frozen discriminator: the feature extractor of one scale, and the distance it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses.constants import ByWeights
from task_losses.texts import shown

SLOPE = 0.2  # LeakyReLU of every discriminator, in training and here
DISTANCES = ("squared", "absolute")
# What an architecture may have at most: it may come from anybody's file, and is checked before anything is built of it.
MOST_SCALES, MOST_CHANNELS, MOST_DEPTH = 32, 1024, 32
SMALLEST_RATIO = 0.1
# Smooths |d|^p at zero, for images in [0, 1]: its second derivative stays finite. A quarter of an 8-bit step.
SMOOTHING = 1e-3
FROM_WEIGHTS = ByWeights()

Compare = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """Shape of a family of discriminators, one per scale.

    Attributes:
        channels: width of each discriminator's hidden layers, coarsest scale first; at most 32 of at most 1024.
        ratio: size of a pyramid level relative to the next finer one, from 0.1 to below 1.
        depth: number of 3x3 convolutions, 2 to 32; the last one has a single output channel. No padding anywhere, so
            the receptive field is ``2 * depth + 1`` pixels.
        taps: layers (1 to depth) whose outputs are compared; 0 is the image itself, compared once, by the finest scale.
        distance: how two outputs are compared: by the mean of their ``"squared"`` or ``"absolute"`` differences.
        image_exponent: how two images are compared: by the mean of |difference|^exponent, from 1 to 2, between them
            smoothed at zero.
    """

    channels: tuple[int, ...] = (32,) * 8
    ratio: float = 0.75
    depth: int = 5
    taps: tuple[int, ...] = (1, 4, 5)
    distance: str = "squared"
    image_exponent: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= MOST_SCALES or not all(1 <= c <= MOST_CHANNELS for c in self.channels):
            raise ValueError(
                f"channels must be one positive width per scale, of at most {MOST_CHANNELS} for at most {MOST_SCALES} "
                f"scales, got {shown(self.channels)}"
            )
        if not SMALLEST_RATIO <= self.ratio < 1:
            raise ValueError(f"ratio must lie between 0 and 1, at least {SMALLEST_RATIO}, got {self.ratio}")
        if not 2 <= self.depth <= MOST_DEPTH:
            raise ValueError(f"depth must be at least 2 and at most {MOST_DEPTH}, got {self.depth}")
        layers = set(self.taps)
        if max(layers, default=0) < 1 or not layers <= set(range(self.depth + 1)) or len(layers) < len(self.taps):
            raise ValueError(
                f"taps must be different layers from 0 (the image) to {self.depth}, at least one above 0, got "
                f"{shown(self.taps)}"
            )
        if self.distance not in DISTANCES:
            raise ValueError(f"distance must be {' or '.join(DISTANCES)}, got {shown(self.distance)}")
        if not 1 <= self.image_exponent <= 2:
            raise ValueError(f"image_exponent must be from 1 to 2, got {self.image_exponent}")

    @property
    def scales(self) -> int:
        return len(self.channels)

    @property
    def receptive_field(self) -> int:
        """Also the smallest side of an image that a discriminator can see."""
        return 2 * self.depth + 1

    def taps_of(self, scale: int) -> tuple[int, ...]:
        """What a scale's discriminator compares: the image itself only at the finest."""
        return tuple(tap for tap in self.taps if tap > 0 or scale == self.scales - 1)

    def layer_shapes(self, scale: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each convolution of a scale's discriminator."""
        widths = [3, *[self.channels[scale]] * (self.depth - 1), 1]
        return list(pairwise(widths))


class FrozenDiscriminator(nn.Module):
    """One scale's discriminator with BatchNorm already folded into its convolutions.

    Its numbers are non-persistent buffers: they move with ``.to()``, but they are no parameters, appear in no
    ``state_dict`` and cannot be trained by accident. There is nothing left that behaves differently in training
    and evaluation mode.

    Args:
        layers: (weight, bias) of each convolution; weights are (outputs, inputs, 3, 3). They are not copied.
        taps: see :meth:`Architecture.taps_of`.
        distance, image_exponent: see :class:`Architecture`.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        taps: Sequence[int],
        distance: str = Architecture.distance,
        image_exponent: float = Architecture.image_exponent,
    ) -> None:
        super().__init__()
        self.depth = len(layers)
        self.groups = 1  # discriminators in one, see task_losses.joined
        self.taps = tuple(sorted(taps))
        self.exponent = 2.0 if distance == "squared" else 1.0
        self.image_exponent = image_exponent
        # Those that agree in it can be computed as one, but for the image's own term.
        self.form = (self.exponent, [tap for tap in self.taps if tap > 0], [weight.shape for weight, _ in layers])
        for index, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight{index}", weight.detach(), persistent=False)
            self.register_buffer(f"bias{index}", bias.detach(), persistent=False)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(getattr(self, f"weight{i}"), getattr(self, f"bias{i}")) for i in range(self.depth)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features at the taps. image: (N, 3, H, W) in [0, 1]; a tap after layer l is (N, C, H - 2l, W - 2l)."""
        outputs = (x for i, x in enumerate(self._outputs(image), start=1) if i in self.taps)
        return [image, *outputs] if 0 in self.taps else list(outputs)

    def _outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Outputs of the layers, one by one, so that without gradient recording only those kept take memory."""
        for index, (weight, bias) in enumerate(self.layers()[: max(self.taps)]):
            x = F.conv2d(x, weight, bias, groups=self.groups)
            if index < self.depth - 1:
                x = F.leaky_relu_(x, SLOPE)  # in place: its derivative can be read off its result
            yield x

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Sum over taps of the mean difference of each image, to the tap's power: (N,)."""
        # No weight requires grad: each side's graph is its own.
        outputs = zip(self.taps, self(pred), self(target), strict=True)
        return torch.stack([self._size(x - y, tap).mean(dim=(1, 2, 3)) for tap, x, y in outputs]).sum(dim=0)

    def _size(self, difference: Tensor, tap: int) -> Tensor:
        exponent = self._exponent(tap)
        if exponent == 2:
            return difference.square()
        if exponent == 1:
            return difference.abs()
        # (d^2 + s^2)^(p/2) - s^p in a form that is exactly zero at zero, and never below.
        relative = (difference / SMOOTHING).square().log1p()
        return torch.expm1(exponent / 2 * relative) * float(SMOOTHING**exponent)

    def _exponent(self, tap: int) -> float:
        return self.image_exponent if tap == 0 else self.exponent

    def distance_map(self, pred: Tensor, target: Tensor) -> Tensor:
        """Where :meth:`distance` comes from: (N, 1, H, W), not negative, with that distance as its mean.

        A feature's difference belongs to all pixels that the feature sees, so it is spread evenly over its
        receptive field. Pixels at the border are seen by fewer features and get less.
        """
        height, width = pred.shape[2:]
        total = pred.new_zeros(len(pred), 1, height, width)
        for tap, x, y in zip(self.taps, self(pred), self(target), strict=True):
            difference = self._size(x - y, tap).mean(dim=1, keepdim=True)
            # A full correlation with a box: the sum stays, the area grows from the features' to the image's.
            spread = F.avg_pool2d(F.pad(difference, (2 * tap,) * 4), 2 * tap + 1, stride=1)
            total = total + spread * (height * width / (difference.shape[2] * difference.shape[3]))
        return total

    def distance_and_gradient(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`distance`, and the gradient of each image's distance with respect to ``pred``.

        The chain rule written out, for speed and memory: layer outputs are freed as the pass walks back, and the
        gradient of a convolution's input is computed as a forward convolution, the fastest form on the CPU.
        Call it without gradient recording.

        Returns:
            (N,) distances and a gradient of the shape of ``pred``.
        """
        if pred.device.type == "cpu":  # the faster layout there for these narrow convolutions
            pred = pred.contiguous(memory_format=torch.channels_last)
            target = target.contiguous(memory_format=torch.channels_last)
        references = self(target)
        outputs = [pred, *self._outputs(pred)]  # by layer; the image is layer 0
        return self._walk_back(outputs, references, self._distance_and_derivative)

    def image_distance_and_gradient(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The share of tap 0, the image itself, in :meth:`distance_and_gradient`."""
        return self._distance_and_derivative(pred, target, 0)

    def _walk_back(self, outputs: list[Tensor], references: list[Tensor], compare: Compare) -> tuple[Tensor, Tensor]:
        """Distances, and their gradient by ``outputs[0]``. Both lists are emptied.

        Args:
            outputs: of all layers, from the image on.
            references: outputs at the taps.
            compare: makes of an output, its reference and its layer their distances and its derivative by the output.
        """
        last = len(outputs) - 1
        weights = self._adjoint_weights()
        total, gradient = compare(outputs[last], references.pop(), last)
        for layer in range(last, 0, -1):  # from the gradient by the layer's output to that by its input
            output = outputs.pop()
            if layer < self.depth:
                # In place, which spares a pass through memory.
                torch.ops.aten.leaky_relu_backward.grad_input(gradient, output, SLOPE, True, grad_input=gradient)
            gradient = F.conv2d(gradient, weights[layer - 1], padding=2, groups=self.groups)
            if layer - 1 in self.taps:
                distance, by_input = compare(outputs[-1], references.pop(), layer - 1)
                total += distance
                gradient += by_input
                del by_input
        return total, gradient

    def _adjoint_weights(self) -> list[Tensor]:
        """Of each layer those that, as a full convolution, make the gradient by its input of that by its output."""
        weights = [weight for weight, _ in self.layers()]

        def make() -> list[Tensor]:
            apart = (w.view(self.groups, -1, *w.shape[1:]) for w in weights)
            turned = (w.transpose(1, 2).flip(3, 4).flatten(0, 1) for w in apart)
            layout = torch.channels_last if weights[0].device.type == "cpu" else torch.contiguous_format
            return [weight.contiguous(memory_format=layout) for weight in turned]

        return FROM_WEIGHTS.get(self, "adjoint", weights, make)

    def _distance_and_derivative(self, output: Tensor, reference: Tensor, tap: int) -> tuple[Tensor, Tensor]:
        """One tap's distances (N,), and their derivative by ``output``."""
        difference = output - reference
        elements = difference[0].numel()
        exponent = self._exponent(tap)
        if exponent == 2:
            distance = torch.linalg.vector_norm(difference, dim=(1, 2, 3)).square() / elements
            return distance, difference.mul_(2 / elements)
        if exponent == 1:
            distance = torch.linalg.vector_norm(difference, ord=1, dim=(1, 2, 3)) / elements
            return distance, difference.sign_().div_(elements)
        distance = self._size(difference, tap).mean(dim=(1, 2, 3))
        smoothed = difference.square() + SMOOTHING**2
        return distance, difference.mul_(smoothed.pow_(exponent / 2 - 1)).mul_(exponent / elements)
