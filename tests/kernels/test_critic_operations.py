"""Each operation of the Triton step against its plain form in torch, on what a step gives it."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from critic_cases import HINGE, SPECTRAL, SPECTRAL_APART, WGAN_GP, WGAN_GP_APART, case, check, objectives

from training.kernels import reference
from training.kernels.triton import parameters, penalty, spectral, step, wgrad
from training.kernels.triton import sums as fold
from training.kernels.triton.conv3x3 import conv3x3_reference


def folded(sums, kind):
    """Partial sums (groups, programs, 3, C) as totals: (groups, 3, C)."""
    if kind == "plain":
        return sums.new_zeros(())
    if kind in ("masked", "sums"):
        return sums.sum(1)
    mean, square, count = sums.unbind(2)
    total = count.sum(1)
    centre = (mean * count).sum(1) / total
    if kind == "scores":
        return torch.stack([centre, square.sum(1), total], 1)
    spread = (square + count * (mean - centre[:, None]).square()).sum(1)
    return torch.stack([centre, spread, total], 1)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * max(1.0, b.abs().max().item()))


class Plain:
    """The operations in plain torch, under the names and with the parameters that the step uses."""

    def conv3x3(self, *arguments, bias=None):
        *shared, _ = arguments  # without the tiles
        return conv3x3_reference(*shared, bias=bias)

    def wgrad(self, loss, penalty_term, partial, offset, batch, numerics, tiles):
        weight = wgrad.wgrad_reference(loss, penalty_term, batch, numerics)
        numbers = weight[0].numel()
        partial[..., offset : offset + numbers] = 0
        partial[:, 0, offset : offset + numbers] = weight.flatten(1)

    pack = staticmethod(parameters.pack_reference)
    arrange = staticmethod(penalty.arrange_reference)
    penalty = staticmethod(penalty.penalty_reference)
    fold_statistics = staticmethod(fold.fold_statistics_reference)
    fold_sums = staticmethod(fold.fold_sums_reference)
    fold_weights = staticmethod(fold.fold_weights_reference)
    fold_losses = staticmethod(fold.fold_losses_reference)
    units = staticmethod(spectral.units_reference)
    through_norms = staticmethod(spectral.through_norms_reference)


NAMES = [name for name in vars(Plain) if not name.startswith("_")]


@objectives(WGAN_GP, WGAN_GP_APART, SPECTRAL, SPECTRAL_APART, HINGE)
@pytest.mark.parametrize(
    ("channels", "images", "size"), [(8, 3, (11, 11)), (32, 1, (26, 39)), (16, 2, (25, 25)), (8, 1, (17, 250))]
)
def test_step_of_the_plain_operations_is_the_reference(channels, images, size, objective, monkeypatch):
    """Neither Triton nor its interpreter is in it: the decomposition of the step into operations is right."""
    for name in NAMES:
        monkeypatch.setattr(step, name, getattr(Plain(), name))
    monkeypatch.setattr(step, "interpreted", lambda: True)  # these operations do take tensors on the CPU
    problem = case(channels, images, size)
    result = step.critic_gradients(*problem, objective)
    check(result, reference.critic_gradients(*problem, objective), 1e-12)


@pytest.mark.interpreter
@objectives(WGAN_GP_APART, SPECTRAL_APART)
def test_every_launch_of_a_step_is_its_plain_form(monkeypatch, objective):
    """Two images, statistics apart: all kinds of prologue and epilogue, with real data in them."""
    launched, plain, seen = {name: getattr(step, name) for name in NAMES}, Plain(), set()

    def both(name):
        def run(*arguments, **named):
            seen.add(name)
            before = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in arguments)
            result = launched[name](*arguments, **named)
            expected = getattr(plain, name)(*before, **named)
            if name == "conv3x3":
                kind = arguments[2].kind
                seen.add(kind)
                seen.add(arguments[0].kind)
                close(result[0], expected[0])
                close(folded(result[1], kind), folded(expected[1], kind))
            elif name == "penalty":
                close(result[0], expected[0])
                close(result[1].sum(1), expected[1].sum(1))
            elif name == "wgrad":
                numbers = 9 * arguments[0][0].shape[3] * arguments[0][1].shape[3]
                place = slice(arguments[3], arguments[3] + numbers)
                close(arguments[2][..., place].sum(1), before[2][..., place].sum(1))
            elif name == "pack":
                close(result[weights(arguments[1], result)], expected[weights(arguments[1], result)])
            elif name == "units":
                close(result.norms, expected.norms)
                places = weights(arguments[1], result.projected)
                close(result.projected[places], expected.projected[places])
            else:
                for mine, right in zip(tensors(result), tensors(expected), strict=True):
                    close(mine, right)
                for mine, right in zip(tensors(arguments), tensors(before), strict=True):  # what it wrote into
                    torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12, equal_nan=True)
            return result

        return run

    for name in NAMES:
        monkeypatch.setattr(step, name, both(name))
    problem = case(8, 2, (11, 14), seed=2)
    result, right = step.critic_gradients(*problem, objective), reference.critic_gradients(*problem, objective)
    check(result, right, 1e-12)
    if objective.kind == "hinge":
        assert 0 < right.parameters[-1].abs() < 1  # the loss ignores some of the scores, not all
    of_all = {*NAMES, "raw", "activation", "gradient", "statistics", "masked", "scores"}
    of_penalty = {"penalty", "tangent", "adjoint", "distance", "plain", "sums"}
    of_norm = {"units", "through_norms"}
    assert seen == (of_all - of_norm | of_penalty if objective is WGAN_GP_APART else of_all - {"penalty"} | {"hinge"})


def tensors(values):
    return [value for value in (values if isinstance(values, tuple) else [values]) if isinstance(value, torch.Tensor)]


def weights(layout, rows):
    """Where the weights are in rows of numbers."""
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    for layer in range(layout.depth):
        mask[..., layout.offset(layer) : layout.offset(layer) + layout.size(layer)] = True
    return mask


class ThreeProducts(TorchFunctionMode):
    """Matrix products of float32 as tensor cores make them with ``tf32x3``: each number as a sum of two of TF32's."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function not in (torch.Tensor.__matmul__, torch.Tensor.matmul):
            return function(*arguments, **(named or {}))
        (a, rest_a), (b, rest_b) = map(self.parts, arguments)
        return function(a, b) + function(a, rest_b) + function(rest_a, b)

    @staticmethod
    def parts(x):
        def rounded(x):
            return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

        return rounded(x), rounded(x - rounded(x))


@pytest.mark.parametrize("kind", ["fresh", "rank one", "two that are nearly equal"])
@pytest.mark.parametrize("channels", [8, 32, 64])
def test_norms_by_tensor_cores_are_the_singular_values(channels, kind):
    layout, draws = parameters.Layout(channels, 5), torch.Generator().manual_seed(channels)
    flat = torch.randn(1, layout.total, generator=draws) * 0.02
    for weight in layout.split(flat[0])[::3]:
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        if kind == "rank one":
            s[1:] = 0
        elif kind != "fresh":
            s[1:2] = s[0] * (1 - 1e-6)
        weight.copy_((u * s @ v).view_as(weight))
    with ThreeProducts():
        norms = spectral.units_reference(flat, layout).norms[0]
    right = [torch.linalg.matrix_norm(w.double().flatten(1), 2) for w in layout.split(flat[0])[::3]]
    torch.testing.assert_close(norms.double(), torch.stack(right), rtol=1e-5, atol=0)
