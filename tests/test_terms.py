"""The terms of a loss: values by their formula, derivatives by autograd, and what each is blind or sharp to."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from task_losses.terms import LEAST_STRENGTH, Difference, Periodic, Term, Texture

TERMS: list[Term] = [
    Difference(2.0),
    Difference(1.5),
    Difference(1.0),
    Texture(2.0),
    Texture(1.0),
    Periodic(2),
    Periodic(3),
]
# Several windows with something left over, and maps that hold exactly one window or none of most.
SIZES = [(27, 38), (8, 8), (7, 40)]


def pair(size: tuple[int, int], channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(2, channels, *size, generator=draws, dtype=torch.float64) for _ in range(2))
    return x, y


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("size", SIZES, ids=str)
class TestEveryTerm:
    def test_the_derivative_is_autograds(self, term: Term, size: tuple[int, int]) -> None:
        x, y = pair(size)
        x.requires_grad_()
        expected = term.distance(x, y) * 3
        by_x = torch.autograd.grad(expected.sum(), x)[0] if expected.requires_grad else torch.zeros_like(x)
        with torch.no_grad():
            distance, derivative = term.distance_and_derivative(x.detach(), y, 3.0)
        torch.testing.assert_close(distance, expected.detach())
        torch.testing.assert_close(derivative, by_x)

    def test_the_derivative_is_added_to_another_gradient(self, term: Term, size: tuple[int, int]) -> None:
        x, y = pair(size)
        alone, other = term.distance_and_derivative(x, y, 3.0), pair(size, seed=5)[0]
        distance, total = term.distance_and_derivative(x, y, 3.0, other.clone())
        torch.testing.assert_close(distance, alone[0])
        torch.testing.assert_close(total, other + alone[1])

    def test_weights_are_of_the_maps_elements(self, term: Term, size: tuple[int, int]) -> None:
        """In value and derivative, alone and added to another."""
        x, y = pair(size)
        weights = pair(size, channels=1, seed=3)[0]
        weights[..., :9, :9] = 0
        expected = (term.map(x.requires_grad_(), y) * weights).mean(dim=(1, 2, 3)) * 3
        by_x = torch.autograd.grad(expected.sum(), x)[0] if expected.requires_grad else torch.zeros_like(x)
        torch.testing.assert_close(term.distance(x, y, weights) * 3, expected)
        with torch.no_grad():
            distance, derivative = term.distance_and_derivative(x.detach(), y, 3.0, weights=weights)
            other = pair(size, seed=5)[0]
            _, total = term.distance_and_derivative(x.detach(), y, 3.0, other.clone(), weights)
        torch.testing.assert_close(distance, expected.detach())
        torch.testing.assert_close(derivative, by_x)
        torch.testing.assert_close(total, other + by_x)

    def test_the_layout_in_memory_does_not_matter(self, term: Term, size: tuple[int, int]) -> None:
        x, y = pair(size, channels=5)
        flat = term.distance_and_derivative(x, y, 1.0)
        x, y = (image.to(memory_format=torch.channels_last) for image in (x, y))
        last = term.distance_and_derivative(x, y, 1.0)
        torch.testing.assert_close(last, flat)

    def test_the_map_has_the_distance_as_its_mean_and_is_not_negative(self, term: Term, size: tuple[int, int]) -> None:
        x, y = pair(size)
        found = term.map(x, y)
        assert found.shape == (2, 1, *size)
        assert found.min() >= 0
        torch.testing.assert_close(found.mean(dim=(1, 2, 3)), term.distance(x, y))

    def test_equal_maps_are_zero_apart_with_a_derivative_of_zero(self, term: Term, size: tuple[int, int]) -> None:
        x, _ = pair(size)
        for image in (x, torch.full_like(x, 0.3)):  # also where nothing varies
            distance, derivative = term.distance_and_derivative(image.clone(), image.clone(), 1.0)
            assert not distance.any()
            assert not derivative.any()

    def test_it_is_zero_exactly_where_it_does_not_fit(self, term: Term, size: tuple[int, int]) -> None:
        assert bool(term.distance(*pair(size)).all()) == term.fits(size)


def test_texture_is_the_difference_of_standard_deviations() -> None:
    x, y = pair((21, 16), channels=2)
    expected = []
    for top, left in product(range(0, 21 - 7, 4), range(0, 16 - 7, 4)):
        stds = [
            (image[:, :, top : top + 8, left : left + 8].var(dim=(2, 3), correction=0) + LEAST_STRENGTH**2).sqrt()
            for image in (x, y)
        ]
        expected.append((stds[0] - stds[1]).square())
    torch.testing.assert_close(Texture(2.0).distance(x, y), torch.stack(expected).mean(dim=(0, 2)))


def test_texture_sees_the_strength_of_a_pattern_and_not_its_place() -> None:
    y = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved, weaker = y.roll(4, dims=3), y * 0.5
    squares = Difference(2.0)
    assert squares.distance(moved, y) > 5 * squares.distance(weaker, y)
    assert Texture(2.0).distance(weaker, y) > 20 * Texture(2.0).distance(moved, y)


def test_the_derivative_of_texture_is_finite_where_nothing_varies() -> None:
    _, y = pair((16, 16))
    for exponent in (1.0, 2.0):
        x = torch.zeros_like(y, requires_grad=True)
        Texture(exponent).distance(x, y).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        _, derivative = Texture(exponent).distance_and_derivative(torch.zeros_like(y), y, 1.0)
        assert derivative.isfinite().all()


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_an_error_that_repeats_counts_64_times_as_much_as_one_without_order(period: int) -> None:
    draws = torch.Generator().manual_seed(1)
    side = 24 * period
    zeros = torch.zeros(4, 3, side, side, dtype=torch.float64)
    tile = torch.randn(4, 3, period, period, generator=draws, dtype=torch.float64)
    tile -= tile.mean(dim=(2, 3), keepdim=True)
    noise = torch.randn(4, 3, side, side, generator=draws, dtype=torch.float64)
    term, squares = Periodic(period), Difference(2.0)
    repeated = tile.repeat(1, 1, 24, 24)
    torch.testing.assert_close(term.distance(repeated, zeros), 64 * squares.distance(repeated, zeros))
    ratio = (term.distance(noise, zeros) / squares.distance(noise, zeros)).mean().item()
    assert ratio == pytest.approx(1 - 1 / period**2, abs=0.15)  # without what the tile's mean takes off
    assert term.distance(zeros + 0.3, zeros).max() < 1e-12


def test_a_period_sees_the_patterns_of_its_divisors_too() -> None:
    draws = torch.Generator().manual_seed(1)
    pattern = torch.randn(1, 3, 2, 2, generator=draws, dtype=torch.float64).repeat(1, 1, 64, 64)
    zeros = torch.zeros_like(pattern)
    torch.testing.assert_close(Periodic(8).distance(pattern, zeros), Periodic(2).distance(pattern, zeros))


def test_terms_can_be_differentiated_twice() -> None:
    x, y = (image[:1].clone() for image in pair((16, 16), channels=1))
    x.requires_grad_()
    for term in (Texture(2.0), Periodic(2), Difference(1.5)):
        assert torch.autograd.gradgradcheck(lambda image, term=term: term.distance(image, y), (x,))
