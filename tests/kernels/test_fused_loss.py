"""The losses' fused path is the plain path: values and gradients, in the strict interpreter and on a device."""

from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from fused_cases import INTERPRETED, levels_of, pair, plain, relative

from task_losses import DenoiseLoss, JPEGLoss, SRLoss
from task_losses.fused import selfcheck
from task_losses.fused.configs import TOGETHER, Tiles, tiles
from task_losses.fused.launch import Started, watch
from task_losses.fused.step import distance_and_gradient

pytestmark = [pytest.mark.usefixtures("without_overflow_checks"), pytest.mark.interpreter]
SLOW = pytest.mark.slow
fused = partial(distance_and_gradient, tiles=INTERPRETED, precision="ieee")
TERMS = {"texture_taps": (1,), "texture_weight": 2.0, "periods": (2,), "periodic_weight": 0.3}


def check(levels, pred, target, bound=1e-12, **options):
    """Both results against the plain path, and each level's kernels by name, in order."""
    seen = list[Started]()
    with watch(seen.append), torch.no_grad():
        result = fused(pred, target, levels, **options)
        right = plain(pred, target, levels)
    for ours, expected in zip(result, right, strict=True):
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        assert relative(ours, expected) <= bound
    return [started.kernel.__name__ for started in seen]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (SRLoss, (1, 3, 24, 25)),
        (JPEGLoss, (2, 3, 17, 16)),
        (DenoiseLoss, (2, 3, 11, 20)),
        pytest.param(JPEGLoss, (2, 3, 71, 65), marks=SLOW),
        pytest.param(SRLoss, (1, 3, 40, 97), marks=SLOW),
        pytest.param(DenoiseLoss, (1, 3, 96, 96), marks=SLOW),
    ],
    ids=str,
)
def test_released_losses(kind, shape):
    pred, target = pair(shape)
    loss = kind(fidelity=1.0 if kind is SRLoss else 0.7).double()  # SRLoss has no such term
    levels = loss._levels_for(pred, target)
    launched = check(levels, pred, target)
    form = loss.architecture
    textured = len(levels) > form.texture_skips
    repeated = sum(min(shape[2:]) >= 8 * period for period in form.periods)
    assert len(launched) == 10 + (len(form.texture_taps) + 1) * textured + 2 * repeated


FORMS = {
    # channels, taps, distance, image_exponent, depth, together, texture_taps
    "as by default": (8, (1, 4, 5), "squared", 2.0, 5, TOGETHER, ()),
    "every tap, level by level": (24, (0, 1, 2, 3, 4, 5), "absolute", 1.3, 5, 0, (1, 2, 3, 4)),
    "the first layer alone": (8, (0, 1), "squared", 1.0, 3, 0, ()),
    "the first layer's texture alone": (8, (0, 1), "absolute", 2.0, 3, 0, (1,)),
    "the last layer alone, two layers": (16, (2,), "absolute", 2.0, 2, TOGETHER, ()),
    "texture where nothing else is compared": (16, (1,), "squared", 2.0, 4, TOGETHER, (2, 3)),
    "wide": (32, (3,), "squared", 2.0, 4, TOGETHER, (3,)),
}


QUICK = (
    "every tap, level by level",
    "the last layer alone, two layers",
    "texture where nothing else is compared",
)


@pytest.mark.parametrize(
    "form", [pytest.param(FORMS[name], id=name, marks=() if name in QUICK else SLOW) for name in FORMS]
)
def test_every_form_of_discriminator(form):
    channels, taps, distance, image_exponent, depth, together, textures = form
    pred, target = pair((2, 3, 20, 25))
    levels = levels_of(
        channels, taps, distance, image_exponent, (20, 25), depth,
        texture_taps=textures, texture_weight=3.0, periods=(2,), periodic_weight=0.3,
    )  # fmt: skip
    check(levels, pred, target, together=together)


@pytest.mark.parametrize("together", [TOGETHER, 0], ids=["at once", "level by level"])
@pytest.mark.parametrize("skips", [1, pytest.param(2, marks=SLOW)])
def test_finest_scales_without_texture(skips, together):
    pred, target = pair((2, 3, 24, 27))
    terms = {"texture_taps": (1, 2), "texture_weight": 3.0, "texture_skips": skips}
    levels = levels_of(8, (0, 2), "squared", 2.0, (24, 27), depth=3, scales=3, **terms)
    launched = check(levels, pred, target, together=together)
    of_finest = launched[: launched.index("adjoint_kernel")]
    assert ("strength_kernel" in of_finest) == bool(together)  # nothing is launched where no level has any
    assert "strength_kernel" in launched


@pytest.mark.parametrize("size", [(16, 17), (22, 16), *(pytest.param(of, marks=SLOW) for of in [(31, 49), (40, 67)])])
@pytest.mark.parametrize("period", [2, pytest.param(3, marks=SLOW), pytest.param(4, marks=SLOW)])
def test_errors_that_repeat_in_any_number_of_windows(size, period):
    """Also none, and with pixels left over at the right and below."""
    pred, target = pair((2, 3, *size))
    form = {"periods": (period,), "periodic_weight": 0.3}
    levels = levels_of(8, (1,), "squared", 2.0, size, depth=2, scales=1, **form)
    launched = check(levels, pred, target)
    assert ("pattern_kernel" in launched) == (min(size) >= 8 * period)


CUTS = [tiles(24, "ieee"), tiles(16, "tf32"), pytest.param(tiles(16, "ieee"), marks=SLOW)]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_tiles_of_a_gpu(cut):
    pred, target = pair((1, 3, 19, 13))
    channels = 16 if cut.inner == 16 else 24
    check(levels_of(channels, (0, 4), "squared", 1.5, size=(19, 13)), pred, target, tiles=Tiles(*vars(cut).values()))


def test_any_strides():
    """Grey images come expanded, and networks may leave channels last or parts of larger images."""
    grey, large = pair((2, 1, 18, 19))[0], pair((2, 3, 40, 25))[0]
    levels = levels_of(8, (0, 2), "squared", 1.5, size=(18, 19), depth=3, periods=(2,), periodic_weight=1.0)
    check(levels, grey.expand(-1, 3, -1, -1), large[:, :, 3:39:2, 4:23])
    check(levels, large[:, :, 1:19, :19].contiguous(memory_format=torch.channels_last), grey.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("exponent", [1.5, *(pytest.param(p, marks=SLOW) for p in (1.0, 1.2, 1.99, 2.0))])
def test_images_that_hardly_differ(exponent):
    """The smoothed power in its series, at the step to the logarithm, and beyond."""
    levels = levels_of(8, (0, 1), "squared", exponent, size=(12, 13), depth=2, scales=1)
    _, target = pair((1, 3, 12, 13))
    steps = torch.logspace(-9, -2, target.numel(), dtype=torch.float64).view_as(target)
    steps[..., ::2] *= -1
    seen = list[Started]()
    with watch(seen.append), torch.no_grad():
        distances, gradients = fused(target + steps, target, levels)
        expected, expected_gradients = plain(target + steps, target, levels)
    assert relative(distances, expected) < 1e-12
    assert ((gradients - expected_gradients).abs() <= 1e-12 * expected_gradients.abs().max()).all()


@pytest.mark.parametrize("distance", ["squared", "absolute"])
def test_equal_images_have_no_distance_and_no_gradient(distance):
    levels = levels_of(8, (0, 1, 3), distance, 1.5, size=(17, 16), depth=3, **TERMS)
    image, _ = pair((1, 3, 17, 16))
    for seen in (image, torch.full_like(image, 0.3)):  # also where nothing varies
        distances, gradients = fused(seen, seen.clone(), levels)
        assert distances.tolist() == [0]
        assert not gradients.any()


def test_float32_rounds_no_worse_than_plain_torch():
    levels = levels_of(16, (0, 1, 4), "squared", 1.5, size=(17, 21), dtype=torch.float32, **TERMS)
    pred, target = pair((2, 3, 17, 21), torch.float32)
    exact = levels_of(16, (0, 1, 4), "squared", 1.5, size=(17, 21), **TERMS)
    for level, rounded in zip(exact, levels, strict=True):
        for name, weight in rounded.discriminator.named_buffers():
            level.discriminator.get_buffer(name).copy_(weight)
    with torch.no_grad():
        right = plain(pred.double(), target.double(), exact)
        torch_itself = plain(pred, target, levels)
    for ours, theirs, expected in zip(fused(pred, target, levels), torch_itself, right, strict=True):
        assert ours.dtype == torch.float32
        assert relative(ours, expected) <= 2 * relative(theirs, expected) + 2e-7


def test_tf32_rounds_the_layers_products_alone():
    levels = levels_of(16, (0, 4), "squared", 1.5, size=(17, 21), dtype=torch.float32)
    pred, target = pair((1, 3, 17, 21), torch.float32)
    exact, rounded = (fused(pred, target, levels, precision=name) for name in ("ieee", "tf32"))
    assert 1e-6 < relative(rounded[1], exact[1].double()) < 0.02
    assert relative(rounded[0], exact[0].double()) < 5e-3


def test_an_image_in_a_batch_has_the_bits_that_it_has_alone():
    levels = levels_of(8, (0, 1, 3), "absolute", 1.5, size=(16, 18), depth=3, dtype=torch.float32, **TERMS)
    pred, target = pair((3, 3, 16, 18), torch.float32)
    distances, gradients = fused(pred, target, levels)
    for index in range(3):
        alone = fused(pred[index, None], target[index, None], levels)
        assert torch.equal(alone[0], distances[index, None])
        assert torch.equal(alone[1], gradients[index, None])


def test_the_self_check_passes_here():
    levels = levels_of(16, (0, 1), "squared", 1.5, size=(20, 20), depth=2, dtype=torch.float32, **TERMS)
    way = partial(distance_and_gradient, tiles=INTERPRETED)
    assert selfcheck.disagreement(torch.device("cpu"), levels, plain, way, "ieee", small=True) is None
