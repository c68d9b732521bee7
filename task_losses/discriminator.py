"""A frozen discriminator: the feature extractor of one scale, and the distance it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses.architecture import SLOPE, Terms
from task_losses.constants import ByWeights

FROM_WEIGHTS = ByWeights()

Add = Callable[[Tensor, int, Tensor | None], Tensor]


class FrozenDiscriminator(nn.Module):
    """One scale's discriminator with BatchNorm already folded into its convolutions.

    Its numbers are non-persistent buffers: they move with ``.to()``, but they are no parameters, appear in no
    ``state_dict`` and cannot be trained by accident. There is nothing left that behaves differently in training
    and evaluation mode.

    Args:
        layers: (weight, bias) of each convolution; weights are (outputs, inputs, 3, 3). They are not copied.
        terms: what to compare, by layer; see :meth:`Architecture.terms`.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], terms: Terms) -> None:
        super().__init__()
        self.depth = len(layers)
        self.groups = 1  # discriminators in one, see task_losses.joined
        self.terms = dict(sorted(terms.items()))
        self.taps = tuple(self.terms)
        self.shapes = [weight.shape for weight, _ in layers]
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

    def distance(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sum over the terms of each image's distance: (N,).

        Args:
            mask: (N, 1, H, W), a weight for each pixel: the result is the mean of :meth:`distance_map` times them.
        """
        # No weight requires grad: each side's graph is its own.
        compared = zip(self.terms.items(), self(pred), self(target), strict=True)
        distances = [
            term.distance(x, y, weights_of_features(mask, tap)) * weight
            for (tap, of), x, y in compared
            for weight, term in of
        ]
        return torch.stack(distances).sum(dim=0)

    def distance_map(self, pred: Tensor, target: Tensor) -> Tensor:
        """Where :meth:`distance` comes from: (N, 1, H, W), not negative, with that distance as its mean.

        A feature's difference belongs to all pixels that the feature sees, so it is spread evenly over its
        receptive field, and a window's over its pixels. Pixels at the border are seen by fewer features and get less.
        """
        height, width = pred.shape[2:]
        total = pred.new_zeros(pred.shape[0], 1, height, width)
        for (tap, terms), x, y in zip(self.terms.items(), self(pred), self(target), strict=True):
            of_tap = torch.stack([term.map(x, y) * weight for weight, term in terms]).sum(dim=0)
            # A full correlation with a box: the sum stays, the area grows from the features' to the image's.
            spread = F.avg_pool2d(F.pad(of_tap, (2 * tap,) * 4), 2 * tap + 1, stride=1)
            total = total + spread * (height * width / (of_tap.shape[2] * of_tap.shape[3]))
        return total

    def distance_and_gradient(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
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
        distances = list[Tensor]()

        def add(output: Tensor, tap: int, into: Tensor | None) -> Tensor:
            distance, gradient = self._compare(output, references.pop(), tap, into, mask)
            distances.append(distance)
            return gradient

        gradient = self._walk_back(outputs, add)
        return reduce(torch.add, distances), gradient

    def image_distance_and_gradient(self, pred: Tensor, target: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
        """The share of tap 0, the image itself, in :meth:`distance_and_gradient`; its gradient added to ``into``."""
        return self._compare(pred, target, 0, into)

    def _walk_back(self, outputs: list[Tensor], add: Add) -> Tensor:
        """The gradient by ``outputs[0]``. The list is emptied.

        Args:
            outputs: of all layers, from the image on.
            add: adds to a gradient, or to None, what the comparison of an output at a tap adds: of the output, its
                layer, and the gradient.
        """
        last = len(outputs) - 1
        weights = self._adjoint_weights()
        gradient = add(outputs[last], last, None)
        for layer in range(last, 0, -1):  # from the gradient by the layer's output to that by its input
            output = outputs.pop()
            if layer < self.depth:
                # In place, which spares a pass through memory.
                torch.ops.aten.leaky_relu_backward.grad_input(gradient, output, SLOPE, True, grad_input=gradient)
            gradient = F.conv2d(gradient, weights[layer - 1], padding=2, groups=self.groups)
            if layer - 1 in self.taps:
                gradient = add(outputs[-1], layer - 1, gradient)
        return gradient

    def _adjoint_weights(self) -> list[Tensor]:
        """Of each layer those that, as a full convolution, make the gradient by its input of that by its output."""
        weights = [weight for weight, _ in self.layers()]

        def make() -> list[Tensor]:
            apart = (w.view(self.groups, -1, *w.shape[1:]) for w in weights)
            turned = (w.transpose(1, 2).flip(3, 4).flatten(0, 1) for w in apart)
            layout = torch.channels_last if weights[0].device.type == "cpu" else torch.contiguous_format
            return [weight.contiguous(memory_format=layout) for weight in turned]

        return FROM_WEIGHTS.get(self, "adjoint", weights, make)

    def _compare(
        self, output: Tensor, reference: Tensor, tap: int, into: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One tap's distances (N,), and their derivative by ``output``, added to ``into`` where that is given."""
        total, gradient = None, into
        weights = weights_of_features(mask, tap)
        for weight, term in self.terms[tap]:
            distance, gradient = term.distance_and_derivative(output, reference, weight, gradient, weights)
            total = distance if total is None else total + distance
        assert total is not None
        assert gradient is not None
        return total, gradient


def weights_of_features(mask: Tensor | None, tap: int) -> Tensor | None:
    """Of each feature of a layer, the mean weight of the pixels that it sees: (N, 1, H - 2 tap, W - 2 tap)."""
    if mask is None or tap == 0:
        return mask
    view = 2 * tap + 1
    return F.avg_pool2d(F.avg_pool2d(mask, (view, 1), stride=1), (1, view), stride=1)
