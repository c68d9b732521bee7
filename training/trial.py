"""The first calls of a user's own distortion: what cannot work is refused, what is strange is said."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from training.distortions import Distortion
from training.material import GREY

EXACT = 1e-6  # of rounding floats
CALLS = 3  # each with a strength of its own
SCALED = 10.0  # values this large are of another range, 0 to 255 as a rule
MARGIN = 0.5  # what noise may add beyond 0 and 1
CERTAIN = 8.0  # standard deviations of what unrelated images would show
FORMS: dict[str, tuple[int, ...]] = {
    "": (),
    "mirrored left to right": (-1,),
    "upside down": (-2,),
    "turned by 180 degrees": (-2, -1),
}


@torch.no_grad()
def remarks(name: str, distort: Distortion, image: Tensor, needed: bool) -> list[str]:
    """What is strange about a distortion, in one line each; nothing if all is well.

    Args:
        name: ``module:function``.
        distort: as :func:`training.distortions.make_distortion` returns it.
        image: (1, 3, H, W) in [0, 1].
        needed: whether nothing else makes the critic's images differ from the level, as upscaling does.

    Raises:
        ValueError: a critic could learn nothing from it.
    """
    results, repeated, states = [], True, []
    for seed in range(CALLS):
        draws = _source(seed)
        results.append(distort(image, draws))
        states.append(draws.get_state())
        repeated &= torch.allclose(results[-1], distort(image, _source(seed)), atol=0.01 * GREY)
    largest = max(result.abs().max().item() for result in results)
    if largest > SCALED:
        raise ValueError(
            f"{name} returned values up to {largest:.4g}; images are in [0, 1]: divide by 255 if yours end there"
        )
    # A picture that passed through 8 bits is as it was, too.
    as_it_was = (image, (image * 255).round() / 255)
    change = max(min((result - same).abs().mean().item() for same in as_it_was) for result in results)
    if change < EXACT and needed:
        raise ValueError(f"{name} returned the image as it was {CALLS} times: there is nothing to tell apart")
    return list(_strange(image, results, change, repeated, states))


def _strange(
    image: Tensor, results: list[Tensor], change: float, repeated: bool, states: list[Tensor]
) -> Iterator[str]:
    outside = max(((x < -MARGIN) | (x > 1 + MARGIN)).float().mean().item() for x in results)
    if outside > 0.01:
        yield f"{outside:.0%} of its values lie far outside of [0, 1]; images have that range, is yours another?"
    if EXACT <= change < 0.1 * GREY:
        yield f"it changes the image by {change / GREY:.2g} of 255 grey levels only; is it strong enough?"
    if not repeated:
        yield (
            "the same generator gave two results; draw all chance from the generator, or runs can be neither repeated "
            "nor resumed to the same weights"
        )
    if all(torch.equal(states[0], state) for state in states):
        yield "it leaves the generator in one state whatever that was before; do not seed it, or all draws are the same"
    moved = [found for result in results if (found := misplacement(image, result)) is not None]
    if moved:
        yield (
            f"it shows the image {moved[0]} ({len(moved)} of {CALLS} calls); the critic would learn that: keep every "
            "pixel in its place, unless you mean it"
        )


def _source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def misplacement(image: Tensor, result: Tensor) -> str | None:
    """Where a result shows an image, by phase correlation (Kuglin and Hines 1975); None for its own place.

    The image, and its mirrored forms, are moved over the result. A peak alone is no proof, since blurring has some off
    the centre: pixels must agree better there too. Half a pixel is left out.

    Args:
        image, result: (1, 3, H, W).
    """
    image, result = (x[0].float().mean(dim=0) for x in (image, result))
    in_place = _phase_correlation(image, result)[0, 0].item()
    found: list[tuple[float, str]] = []
    for form, flipped in FORMS.items():
        shown = image.flip(flipped)
        peak, index = _phase_correlation(shown, result).flatten().max(dim=0)
        down, right = _signed(int(index), image.shape)
        near = all(
            abs(shift) <= (2 if form else side // 4) for shift, side in zip((down, right), image.shape, strict=True)
        )
        clear = peak > CERTAIN / image.numel() ** 0.5 and peak > 2 * in_place
        if near and clear and _agreement(shown, result, down, right) > _agreement(image, result, 0, 0):
            shift = f"moved by {down} pixels down and {right} to the right" if down or right else ""
            found.append((peak.item(), " and ".join(part for part in (form, shift) if part)))
    return max(found)[1] or None if found else None


def _signed(index: int, size: torch.Size) -> tuple[int, int]:
    down, right = divmod(index, size[1])
    return (down + size[0] // 2) % size[0] - size[0] // 2, (right + size[1] // 2) % size[1] - size[1] // 2


def _agreement(image: Tensor, result: Tensor, down: int, right: int) -> float:
    """Size of the correlation of pixels where an image that is moved and a result overlap."""
    height, width = image.shape
    part = result[max(0, down) : height + down, max(0, right) : width + right]
    moved = image[max(0, -down) : height - down, max(0, -right) : width - right]
    pair = torch.stack([part.flatten(), moved.flatten()])
    return abs(torch.corrcoef(pair)[0, 1].nan_to_num().item())


def _phase_correlation(image: Tensor, result: Tensor) -> Tensor:
    """(H, W): how well the image fits at each shift, cyclic. White noise has a standard deviation of 1 / sqrt(H W)."""
    height, width = image.shape[-2:]
    # Borders do not wrap around: without a window their step would fit in place, whatever the image does.
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    spectra = [torch.fft.fft2((x - x.mean()) * window) for x in (image, result)]
    product = spectra[1] * spectra[0].conj()
    surface: Tensor = torch.fft.ifft2(product / product.abs().clamp(min=1e-12)).real
    return surface
