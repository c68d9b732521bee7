"""The optimizer takes up what another kind of device has left."""

import pytest
import torch

from training.adam import adam, load_moments, set_rate


def on_the_cpu(parameters):
    return adam(parameters, 1e-2, (0.5, 0.999))


def as_on_a_device(parameters):
    return torch.optim.Adam(parameters, lr=torch.tensor(1e-2), betas=(0.5, 0.999), fused=True)


def problem():
    return [torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)), torch.nn.Parameter(torch.ones(2))]


def step(optimizer, parameters, number):
    for parameter in parameters:
        parameter.grad = (parameter.detach() + number).sin()
    optimizer.step()


@pytest.mark.parametrize("before", [on_the_cpu, as_on_a_device])
@pytest.mark.parametrize("after", [on_the_cpu, as_on_a_device])
def test_a_state_is_taken_up_by_either_kind(before, after):
    whole, broken = problem(), problem()
    optimizer, first, second = on_the_cpu(whole), before(broken), after(broken)
    for number in range(4):
        step(optimizer, whole, number)
        if number == 2:
            load_moments(second, first.state_dict())
        step(first if number < 2 else second, broken, number)
    own = after(problem()).param_groups[0]
    assert {name: second.param_groups[0][name] for name in ("fused", "capturable", "lr")} == {
        name: own[name] for name in ("fused", "capturable", "lr")
    }
    torch.testing.assert_close(broken, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [on_the_cpu, as_on_a_device])
def test_a_rate_is_changed_in_its_place(make):
    optimizer = make(problem())
    before = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 0.25)
    after = optimizer.param_groups[0]["lr"]
    assert float(after) == 0.25
    assert isinstance(after, torch.Tensor) == isinstance(before, torch.Tensor)
    assert after is before or not isinstance(before, torch.Tensor)
