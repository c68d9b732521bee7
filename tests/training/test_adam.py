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
def test_who_takes_up_a_state_shares_nothing_with_it(make):
    parameters = [problem() for _ in range(3)]
    first, *twins = (make(each) for each in parameters)
    step(first, parameters[0], 0)
    kept = first.state_dict()
    for twin in twins:
        load_moments(twin, kept)
    step(twins[0], parameters[1], 1)
    for optimizer, steps in ((first, 1), (twins[0], 2), (twins[1], 1)):
        assert [int(state["step"]) for state in optimizer.state.values()] == [steps, steps]
    for mine, untouched in zip(twins[1].state.values(), first.state.values(), strict=True):
        for name, value in mine.items():
            assert torch.equal(value, untouched[name])
            assert value.data_ptr() != untouched[name].data_ptr()


@pytest.mark.parametrize("make", [on_the_cpu, as_on_a_device])
def test_a_rate_is_changed_in_its_place(make):
    optimizer = make(problem())
    before = optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 0.25)
    after = optimizer.param_groups[0]["lr"]
    assert float(after) == 0.25
    assert isinstance(after, torch.Tensor) == isinstance(before, torch.Tensor)
    assert after is before or not isinstance(before, torch.Tensor)
