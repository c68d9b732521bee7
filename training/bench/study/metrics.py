"""Image quality metrics, each optional: a missing package leaves an empty column."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Score = Callable[[Tensor, Tensor], float]  # restored, reference: (1, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class Metric:
    """A metric of the tables.

    Attributes:
        load: makes the scoring function; raises ImportError where its package is missing.
        package: what to install for it.
        digits: decimals shown.
    """

    title: str
    higher_is_better: bool
    load: Callable[[], Score]
    package: str
    digits: int = 4


def _psnr() -> Score:
    def score(restored: Tensor, reference: Tensor) -> float:
        error = (restored.double() - reference.double()).square().mean().clamp(min=1e-10)
        return float(-10 * error.log10())

    return score


def _ssim() -> Score:
    from skimage.metrics import structural_similarity

    def score(restored: Tensor, reference: Tensor) -> float:
        # The window of Wang et al. 2004, mean over RGB.
        return float(
            structural_similarity(
                _pixels(restored),
                _pixels(reference),
                channel_axis=2,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )

    return score


def _stlpips() -> Score:
    network = load_stlpips("alex")

    def score(restored: Tensor, reference: Tensor) -> float:
        return float(network(2 * restored - 1, 2 * reference - 1))

    return score


def _cvvdp() -> Score:
    import pycvvdp

    metric = pycvvdp.cvvdp(display_name="standard_fhd", device=torch.device("cpu"), quiet=True)
    return lambda restored, reference: metric.predict(restored, reference, dim_order="BCHW")[0].item()


def _flip() -> Score:
    import flip_evaluator

    return lambda restored, reference: float(
        flip_evaluator.evaluate(_pixels(reference), _pixels(restored), "LDR", applyMagma=False)[1]
    )


def _brisque() -> Score:
    from brisque import BRISQUE

    class Flat(BRISQUE):  # type: ignore[misc, unused-ignore]
        def scale_features(self, features: Sequence[float]) -> object:
            # Some come as arrays of one number, which newer numpy does not take for a number.
            return super().scale_features([np.ravel(feature)[0] for feature in features])

    model = Flat(url=False)  # its own parameters, from LIVE
    return lambda restored, reference: float(model.score((_pixels(restored) * 255).round().astype(np.uint8)))


def _pattern() -> Score:
    return lambda restored, reference: pattern(restored)


def _dots() -> Score:
    return lambda restored, reference: pattern(detail(restored))


def _gmsd() -> Score:
    return lambda restored, reference: gradient_deviation(restored, reference)


def _piq(name: str) -> Callable[[], Score]:
    def load() -> Score:
        import piq

        function = getattr(piq, name)
        return lambda restored, reference: function(restored, reference).item()

    return load


# In the order of the tables' columns.
METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", True, _psnr, "torch", digits=3),
    "ssim": Metric("SSIM", True, _ssim, "scikit-image"),
    "stlpips": Metric("ST-LPIPS", False, _stlpips, "stlpips-pytorch (with IPython and torchsummary)"),
    "cvvdp": Metric("CVVDP", True, _cvvdp, "cvvdp"),
    "flip": Metric("FLIP", False, _flip, "flip-evaluator"),
    "pattern": Metric("Pattern", False, _pattern, "torch", digits=2),
    "dots": Metric("Dots", False, _dots, "torch", digits=2),
    "brisque": Metric(
        "BRISQUE", False, _brisque, "brisque (with opencv-python-headless, libsvm-official, scipy, requests)", digits=2
    ),
    "gmsd": Metric("GMSD", False, _gmsd, "torch"),
    "haarpsi": Metric("HaarPSI", True, _piq("haarpsi"), "piq"),
    "vsi": Metric("VSI", True, _piq("vsi"), "piq"),
}


def load_metrics(names: Sequence[str]) -> dict[str, Score]:
    """Scoring functions of those metrics whose packages are here; one line on stderr for each that is not.

    Raises:
        ValueError: there is no metric of such a name.
    """
    unknown = sorted(set(names) - set(METRICS))
    if unknown:
        raise ValueError(f"no such metric: {', '.join(unknown)}; there are {', '.join(METRICS)}")
    loaded = {name: _load(name) for name in names}
    return {name: score for name, score in loaded.items() if score is not None}


@cache
def _load(name: str) -> Score | None:
    metric = METRICS[name]
    try:
        return metric.load()
    except ImportError as error:
        print(f"{metric.title} stays empty: {error}; pip install {metric.package}", file=sys.stderr)
        return None


@torch.no_grad()
def measure(restored: Tensor, reference: Tensor, scores: dict[str, Score]) -> dict[str, float]:
    """Scores of one restored image, rounded to 8 bits as a stored picture is."""
    stored = (restored.clamp(0, 1) * 255).round() / 255
    return {name: score(stored, reference) for name, score in scores.items()}


def pattern(image: Tensor, period: int = 4) -> float:
    """Power at the frequencies of a grid over the power beside them: 1 where there is no grid.

    The grid is one of a network that upscales by ``period``, with its harmonics; of the mean over colours, columns and
    rows.

    Args:
        image: (1, 3, H, W); its shorter side, rounded down to a multiple of twice the period, is what is looked at.

    Raises:
        ValueError: the shorter side is below 16 periods, too short to tell frequencies apart.
    """
    side = min(image.shape[2:]) // (2 * period) * 2 * period
    if side < 16 * period:
        raise ValueError(f"a pattern of {period} pixels needs {16 * period} on the shorter side, got {side}")
    grey = image[0, :, :side, :side].double().mean(dim=0)
    window = torch.hann_window(side, dtype=torch.float64)
    power = torch.fft.fft2((grey - grey.mean()) * window[:, None] * window).abs().square()
    ratios = []
    for harmonic in range(1, period // 2 + 1):
        at = harmonic * side // period
        for rows in (power, power.T):
            beside = torch.stack([rows[:, (at + shift) % side] for shift in (-3, -2, 2, 3)])
            ratios.append((rows[:, at].mean() / beside.mean().clamp(min=1e-12)).item())
    return float(sum(ratios) / len(ratios))


def detail(image: Tensor) -> Tensor:
    """The size of the finest detail: of the Laplacian of the mean over colours, (1, 1, H, W).

    A network that upscales can leave dots of either sign, one for each pixel of what it was given. In the image they
    have no mean, and :func:`pattern` cannot see them; in the size of detail it does.

    Args:
        image: (1, 3, H, W).
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    grey = F.pad(image.double().mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="reflect")
    return F.conv2d(grey, kernel[None, None]).abs()


def gradient_deviation(image: Tensor, reference: Tensor) -> float:
    """GMSD (Xue et al. 2014, arXiv 1308.3052): how unevenly the sizes of edges agree; 0 for equal images.

    Args:
        image, reference: (1, 3, H, W) in [0, 1].
    """
    step = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=torch.float64) / 3  # Prewitt's
    to_grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[None, :, None, None]
    sizes = []
    for x in (image, reference):
        grey = F.avg_pool2d((x.double() * to_grey).sum(dim=1, keepdim=True), 2)
        edges = F.conv2d(grey, torch.stack([step, step.T])[:, None], padding=1)
        sizes.append(edges.square().sum(dim=1).sqrt())
    first, second = sizes
    constant = 170 / 255**2
    alike = (2 * first * second + constant) / (first.square() + second.square() + constant)
    return float(alike.std(correction=0))


def load_stlpips(trunk: str) -> torch.nn.Module:
    """Shift-tolerant LPIPS on images in [-1, 1], its distances as (N, 1, 1, 1); trunk: ``"alex"`` or ``"vgg"``."""
    from stlpips_pytorch import stlpips

    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
        network: torch.nn.Module = stlpips.LPIPS(net=trunk, variant="shift_tolerant")
    return network.eval().requires_grad_(False)


def _pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy().astype(np.float32))
