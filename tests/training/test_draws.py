"""Distortions are drawn in one order, whether they are made ahead or when they are asked for."""

import threading

import pytest
import torch

from training.draws import drawn
from training.wiener import wiener_restored

UPDATES = [2, 2, 2, 0]


def noise(image, source):
    return image + torch.randn(image.shape, generator=source)


@pytest.fixture
def unpinned(monkeypatch):
    """Only a machine with a GPU can pin memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def everything(ahead, source):
    return list(drawn(noise, torch.zeros(1, 3, 8, 9), source, UPDATES, ahead))


def test_made_ahead_they_are_the_same(unpinned):
    sources = [torch.Generator().manual_seed(3) for _ in range(2)]
    for one, other in zip(everything(False, sources[0]), everything(True, sources[1]), strict=True):
        assert torch.equal(one.distorted, other.distorted)
        assert one.mixes == other.mixes
        assert torch.equal(one.state, other.state)
    assert torch.equal(sources[0].get_state(), sources[1].get_state())


@pytest.mark.parametrize("ahead", [False, True])
def test_a_resumed_run_draws_what_the_unbroken_one_did(ahead, unpinned):
    whole = everything(ahead, torch.Generator().manual_seed(3))
    source = torch.Generator()
    source.set_state(whole[1].state)
    rest = list(drawn(noise, torch.zeros(1, 3, 8, 9), source, UPDATES[2:], ahead))
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.distorted, other.distorted)
        assert one.mixes == other.mixes


def test_the_next_is_made_while_one_is_used(unpinned):
    made = threading.Semaphore(0)

    def distort(image, source):
        made.release()
        return image

    draws = drawn(distort, torch.zeros(1, 3, 8, 9), torch.Generator(), UPDATES, ahead=True)
    next(iter(draws))
    assert made.acquire(timeout=5)
    assert made.acquire(timeout=5), "the second was not begun while the first was in use"
    for _ in draws:  # ends the thread
        pass


def test_an_error_of_the_distortion_reaches_the_run(unpinned):
    def distort(image, source):
        raise ValueError("no such rain")

    with pytest.raises(ValueError, match="no such rain"):
        next(drawn(distort, torch.zeros(1, 3, 8, 9), torch.Generator(), UPDATES, ahead=True))


def test_no_host_waits_for_the_wiener_filter():
    """An operation that reads a number from the device, or checks one, makes the host wait."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Waits(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    image = torch.rand(1, 3, 20, 22)
    with Waits() as waits:
        wiener_restored(image + 0.1 * torch.rand_like(image), image, 5)
    assert "aten.linalg_solve_ex" in str(waits.seen) or "aten._linalg_solve_ex" in str(waits.seen)
    assert not [name for name in waits.seen if "_local_scalar_dense" in name or "check_errors" in name]
