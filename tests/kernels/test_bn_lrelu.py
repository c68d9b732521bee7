"""The fused BatchNorm and LeakyReLU is torch's, in all derivatives that training takes."""

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from training.kernels import bn_lrelu as module
from training.kernels.bn_lrelu import bn_lrelu
from training.networks import Discriminator, Generator
from training.objectives import critic_loss, generator_loss

EPS, SLOPE = 1e-5, 0.2


def torchs(x, weight, bias):
    return F.leaky_relu(F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS), SLOPE)


def operation(x, weight, bias):
    """The custom operation itself: its formulas in plain torch, or its kernels where they run."""
    return torch.ops.task_losses.bn_lrelu(x, weight, bias, EPS, SLOPE)[0]


def case(shape, device="cpu", dtype=torch.float64, layout=torch.contiguous_format):
    """x with a mean that is large against its deviation in one channel, weights of both signs."""
    draws = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=draws, dtype=torch.float64) * 2 + 1
    x[:, 0] += 100
    weight, bias = (torch.randn(shape[1], generator=draws, dtype=torch.float64) for _ in range(2))
    x = x.to(device, dtype).contiguous(memory_format=layout)
    return x, *(v.to(device, torch.promote_types(dtype, torch.float32)) for v in (weight, bias))


def derivatives(function, x, weight, bias):
    """y, its gradients, and the gradients of a function of these: every path of the double backward is in it."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    draws = torch.Generator().manual_seed(1)
    first, second = (torch.randn(x.shape, generator=draws, dtype=torch.float64).to(x) for _ in range(2))
    y = function(*leaves)
    dx, dw, db = torch.autograd.grad((y * first + y.square()).sum(), leaves, create_graph=True)
    penalty = (dx.norm(dim=1) - 1).square().mean() + (dx * second).sum() + dw.square().sum() + (db * dw).sum()
    return [y, dx, dw, db, *torch.autograd.grad(penalty, leaves)]


def worst(results, expected):
    """The largest error, relative to the largest value of its tensor; NaN if there is one."""
    pairs = zip(results, expected, strict=True)
    return torch.stack([(r.double() - e.double()).abs().max() / e.double().abs().max() for r, e in pairs]).max().item()


SHAPES = [(1, 8, 11, 11), (2, 3, 25, 25), (3, 16, 5, 7), (1, 64, 9, 3), (1, 32, 2, 250)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formulas_are_autograds(shape):
    inputs = case(shape)
    assert worst(derivatives(operation, *inputs), derivatives(torchs, *inputs)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_are_autograds_in_float64(shape, device):
    inputs = case(shape, device)
    assert worst(derivatives(operation, *inputs), derivatives(torchs, *inputs)) < 1e-12


@pytest.mark.parametrize(("shape", "tile"), [((2, 8, 26, 39), 512), ((1, 6, 63, 97), 2048)], ids=str)
def test_many_programs_with_several_blocks_each(shape, tile, device, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setattr(module, "PROGRAMS", 8)
    inputs = case(shape, device)
    assert worst(derivatives(operation, *inputs), derivatives(torchs, *inputs)) < 1e-12


def test_float32_does_not_cancel(device):
    """x - mean costs mean / deviation roundings; statistics by E[x^2] - E[x]^2 would cost the square of that."""
    x, weight, bias = case((2, 8, 17, 13), device, torch.float32)
    exact = derivatives(torchs, x.double(), weight.double(), bias.double())
    condition = (x.mean((0, 2, 3)).abs() / x.std((0, 2, 3))).max().item()
    assert condition > 40
    assert worst(derivatives(operation, x, weight, bias), exact) < 4 * condition * 2**-24


def test_bfloat16_maps_have_float32_statistics(device):
    x, weight, bias = case((2, 8, 17, 13), device, torch.bfloat16)
    y, mean, var = torch.ops.task_losses.bn_lrelu(x, weight, bias, EPS, SLOPE)
    expected_var, expected_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    assert y.dtype == torch.bfloat16
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=0)
    # One rounding to bfloat16, of values that float32 gives to far more digits.
    torch.testing.assert_close(y.double(), torchs(x.double(), weight.double(), bias.double()), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_channels(value, device):
    x, weight, bias = case((2, 4, 6, 5), device)
    x[:, 1] = value
    inputs = x, weight, bias
    assert worst(derivatives(operation, *inputs), derivatives(torchs, *inputs)) < 1e-10  # 1 / sqrt(eps) amplifies


def test_repeats_bit_for_bit(device):
    inputs = case((2, 8, 26, 39), device, torch.float32)
    for once, again in zip(derivatives(operation, *inputs), derivatives(operation, *inputs), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("where", ["formulas", pytest.param("kernels", marks=pytest.mark.interpreter)])
def test_gradcheck_and_gradgradcheck(where):
    inputs = [t.requires_grad_() for t in case((2, 2, 3, 2))]
    fast = where == "kernels"  # one random direction instead of every element
    assert torch.autograd.gradcheck(operation, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(operation, inputs, fast_mode=fast)


@pytest.mark.parametrize("where", ["formulas", pytest.param("kernels", marks=pytest.mark.interpreter)])
def test_opcheck(where):
    x, weight, bias = (t.requires_grad_() for t in case((2, 4, 5, 3)))
    torch.library.opcheck(torch.ops.task_losses.bn_lrelu.default, (x, weight, bias, EPS, SLOPE))
    with torch.no_grad():
        _, mean, var = torch.ops.task_losses.bn_lrelu(x, weight, bias, EPS, SLOPE)
    backward_inputs = (torch.randn_like(x), x, weight, bias, mean, var, EPS, SLOPE)
    torch.library.opcheck(torch.ops.task_losses.bn_lrelu_backward.default, backward_inputs)
    dx, dw, db = torch.ops.task_losses.bn_lrelu_backward(*(t.detach() for t in backward_inputs[:-2]), EPS, SLOPE)
    # Third derivatives are refused, so this one has nothing that could be registered with autograd.
    double_inputs = (dx, dw, db, *(t.detach() for t in backward_inputs[:-2]), dw, db, EPS, SLOPE)
    torch.library.opcheck(torch.ops.task_losses.bn_lrelu_double_backward.default, double_inputs)
    channels_last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.task_losses.bn_lrelu.default, (channels_last, weight, bias, EPS, SLOPE))


def test_any_layout_will_do(device):
    inputs = case((2, 4, 5, 3), device)
    expected = derivatives(torchs, *inputs)
    strange = inputs[0].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    for x in (inputs[0].contiguous(memory_format=torch.channels_last), strange, inputs[0].expand(2, 4, 5, 3)):
        assert worst(derivatives(operation, x, *inputs[1:]), expected) < 1e-12
    y = operation(*(t.requires_grad_() for t in inputs))
    spread = torch.ones((), dtype=y.dtype, device=device).expand(y.shape)  # what sum() hands back, of stride 0
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, spread),
        torch.autograd.grad(torchs(*inputs), inputs, spread),
        rtol=1e-12,
        atol=1e-11,
    )


def test_running_statistics_are_torchs(device):
    x, *_ = case((2, 8, 11, 9), device)
    ours = torch.nn.BatchNorm2d(8, dtype=torch.float64, device=device)
    theirs = torch.nn.BatchNorm2d(8, dtype=torch.float64, device=device)
    for batch in (x, x + 1):
        torch.testing.assert_close(module.fused_norm(ours, batch, SLOPE), F.leaky_relu(theirs(batch), SLOPE))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")
    ours.eval(), theirs.eval()
    torch.testing.assert_close(module.fused_norm(ours, x, SLOPE), F.leaky_relu(theirs(x), SLOPE))


def test_a_fused_network_trains_alike(device):
    """One step of the critic, gradient penalty included, and one of the generator."""
    torch.manual_seed(0)
    networks = [Discriminator(8).to(device).double(), Generator(8).to(device).double()]
    fused = copy.deepcopy(networks)
    for network in fused:
        module.fuse(network)
    real, distorted = torch.rand(2, 1, 3, 13, 12, dtype=torch.float64, device=device)
    results = []
    for critic, generator in (networks, fused):
        critic_total = critic_loss(critic, real, generator(distorted).detach(), 0.3, 0.1).total
        generator_total = generator_loss(critic, real, generator(distorted), 10.0).total
        results.append(torch.autograd.grad(critic_total, list(critic.parameters()), retain_graph=True))
        results[-1] += torch.autograd.grad(generator_total, list(generator.parameters()))
    # Biases of the last layers: rounding decides where the gradient is 0, so errors are compared to all gradients.
    unfused, fused_ones = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in results)
    assert worst([fused_ones], [unfused]) < 1e-12
    for ours, theirs in zip(fused, networks, strict=True):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)


def test_without_kernels_it_is_torchs_own():
    inputs = case((2, 8, 11, 9))
    for result, expected in zip(derivatives(bn_lrelu, *inputs), derivatives(torchs, *inputs), strict=True):
        assert torch.equal(result, expected)


def test_refuses_kernels_where_there_are_none():
    with pytest.raises(ValueError, match=r"x is on cpu and triton is installed.*use impl='auto'"):
        bn_lrelu(*case((2, 4, 5, 3)), impl="triton")
    with pytest.raises(ValueError, match="impl is 'cuda': expected auto, triton or reference"):
        bn_lrelu(*case((2, 4, 5, 3)), impl="cuda")


def test_refuses_shapes_that_do_not_fit():
    x, weight, bias = case((2, 4, 5, 3))
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\), \(C,\) and \(C,\)"):
        bn_lrelu(x, weight[:3], bias)
    with pytest.raises(ValueError, match="no two values per channel"):
        bn_lrelu(x[:1, :, :1, :1], weight, bias)


def test_third_derivatives_are_refused():
    x, weight, bias = (t.requires_grad_() for t in case((2, 2, 3, 2)))
    (first,) = torch.autograd.grad(operation(x, weight, bias).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(second.square().sum(), x)
