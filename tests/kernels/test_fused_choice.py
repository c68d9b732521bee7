"""When the fused path is taken, what it launches, and what happens where it cannot run."""

import copy
import re
import warnings
from typing import cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from fused_cases import levels_of, pair, plain, relative
from weight_files import differences_alone, released

import task_losses.fused
from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from task_losses.fused import configs, obstacle, selfcheck, step
from task_losses.fused.compared import compared
from task_losses.fused.launch import Started, watch
from task_losses.fused.weights import packed
from task_losses.losses import LOSSES
from training.bench.cost import loss_launches

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    monkeypatch.setenv(task_losses.fused.SWITCH, "fused")
    monkeypatch.setattr(task_losses.fused, "_warned", set())
    monkeypatch.setattr(selfcheck, "_checked", {})


def launched(loss, shape):
    """Names of the kernels of a step, on no device."""
    seen = list[Started]()
    pred = torch.empty(shape, device="meta", requires_grad=True)
    with watch(seen.append):
        loss(pred, torch.empty(shape, device="meta")).backward()
    assert pred.grad is not None
    assert pred.grad.shape == pred.shape
    return [started.kernel.__name__.removesuffix("_kernel") for started in seen]


def taken(loss):
    """The loss, or a skipped test where this Triton cannot compile its kernels."""
    if configs.tiles(max(loss.architecture.channels), "ieee").inner < configs.least_inner():
        pytest.skip("products of 8 inputs need Triton 3.8")
    return loss


@pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
def test_a_step_is_ten_kernels_those_of_texture_and_two_for_each_period(kind):
    """Of texture: one for each layer whose strength is compared, and one to begin with."""
    for texture in (0.0, 1.0):
        loss = taken(kind(texture=texture))
        textures = [*["strength"] * len(loss.architecture.texture_taps), "begin"] if texture else []
        periods = len(loss.architecture.periods)
        expected = ["resample", "first", *["middle"] * 3, *textures, *["back"] * 3, "image"]
        expected += [*["pattern"] * periods, "adjoint", *["repeat"] * periods]
        assert launched(loss.to("meta"), (8, 3, 96, 96)) == expected


def test_a_value_without_gradient_is_made_by_them_too_where_their_maps_are_small():
    loss = JPEGLoss().to("meta")

    def kernels(shape, **more):
        seen, image = list[Started](), torch.empty(shape, device="meta")
        with torch.no_grad(), watch(seen.append):
            assert loss(image.requires_grad_(), image, **more).shape == ()
        return len(seen)

    assert kernels((16, 3, 128, 128)) == 14
    assert kernels((1, 3, 1024, 1024)) == 0  # 630 MB of maps
    assert kernels((16, 3, 128, 128), mask=torch.ones(16, 1, 128, 128, device="meta")) == 0
    with torch.inference_mode():
        image = torch.empty(2, 3, 40, 44, device="meta")
        assert loss(image, image).is_inference()


def test_differences_of_the_last_layer_cost_two_more():
    levels = levels_of(8, (1, 4, 5), "squared", 2.0, size=(40, 44), dtype=torch.float32)
    image = torch.empty(2, 3, 40, 44, device="meta")
    seen = list[Started]()
    with watch(seen.append):
        step.distance_and_gradient(image, image, [on_meta(level) for level in levels])
    assert len(seen) == 12


def on_meta(level):
    return level._replace(discriminator=copy.deepcopy(level.discriminator).to("meta"))


@pytest.mark.parametrize("task", LOSSES)
def test_a_step_is_few_launches(task, tmp_path):
    """Kernels and all that torch itself launches around them: 14, those of texture, and 2 for each period."""
    path = tmp_path / "alone.safetensors"
    path.write_bytes(differences_alone(released(f"{task}-*.safetensors")))
    periods = 2 * (1 + (task == "sr"))
    terms = periods + (2 if task == "jpeg" else 3)
    for loss, most in (
        (TaskLoss(path), 14),
        (LOSSES[task](texture=0.0), 14 + periods),
        (LOSSES[task](), 14 + terms),
        (LOSSES[task](texture=2.0, fidelity=1.0 if task == "sr" else 0.5), 14 + terms),  # SRLoss has no such term
    ):
        counted = loss_launches.fused(taken(loss), (8, 3, 96, 96))
        assert counted is not None
        assert counted.launches.total() <= most, counted.launches


def test_the_dial_compiles_nothing_anew():
    """Its numbers are in memory, not in the kernels."""

    def compiled(loss):
        image, seen = torch.empty(1, 3, 72, 72, device="meta"), list[Started]()
        levels = loss.to("meta")._levels_for(image, image)
        with watch(seen.append):
            step.distance_and_gradient(image, image, levels)
        types = {type(value) for started in seen for value in started.arguments.values()}
        assert types == {int, torch.Tensor}
        found = compared(levels)
        assert found is not None
        return [(started.kernel, started.constexprs) for started in seen], found.form

    dialled = [compiled(taken(JPEGLoss(texture=texture, fidelity=f))) for texture, f in ((1.0, 1.0), (0.3, 0.5))]
    assert dialled[0] == dialled[1]


def test_says_which_terms_the_kernels_do_not_know():
    form = {"texture_weight": 1.0, "size": (40, 40)}
    image = torch.empty(1, 3, 40, 40, device="meta")
    of_scores = levels_of(8, (4,), "squared", 2.0, texture_taps=(4, 5), **form)
    one, _ = levels_of(8, (4,), "squared", 2.0, texture_taps=(1,), **form)
    _, other = levels_of(8, (4,), "squared", 2.0, texture_taps=(1, 4), **form)
    _, heavier = levels_of(8, (4,), "squared", 2.0, texture_taps=(1,), **form | {"texture_weight": 2.0})
    with_image, _ = levels_of(8, (0, 4), "squared", 2.0, scales=1, size=(40, 40)) * 2
    for levels in (of_scores, [one, other], [one, heavier], [with_image, other]):
        why = obstacle(image, [on_meta(level) for level in levels]) or ""
        if "take 16 channels" in why:
            pytest.skip("products of 8 inputs need Triton 3.8")
        assert "of the last layer's single output no texture" in why
        assert "at all scales" in why


def test_what_levels_compare_is_read_once_and_anew_for_others():
    form = {"texture_weight": 1.0, "size": (40, 40)}
    coarse, fine = levels_of(16, (4,), "squared", 2.0, texture_taps=(1,), **form)
    other, _ = levels_of(16, (4,), "squared", 2.0, texture_taps=(1, 4), **form)
    first = compared([coarse, fine])
    assert first is not None
    assert compared([coarse, fine]) is first
    assert compared([other, fine]) is None  # another texture than the finest's
    assert compared([fine]) == first
    assert compared([coarse, fine]) == first


def test_off_a_cuda_device_no_kernel_runs_without_being_asked(monkeypatch):
    for value in ("", "plain"):
        monkeypatch.setenv(task_losses.fused.SWITCH, value)
        assert launched(JPEGLoss().to("meta"), (1, 3, 24, 24)) == []


class OnCuda:
    """What the choice asks of an image before anything is computed."""

    is_cuda, device = True, torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("asked", "obstacle", "failure", "taken", "warning"),
    [
        ("", None, None, True, None),
        ("", "in float64", None, False, None),
        ("", None, "the kernels are wrong here", False, "on cuda:0, TASK_LOSSES_KERNELS=plain asks for it without"),
        ("plain", None, "never tried", False, None),
        ("fused", None, None, True, None),
        ("fused", "in float64", None, False, "TASK_LOSSES_KERNELS=fused cannot be followed, .*: in float64"),
        ("fused", None, "the kernels are wrong here", False, "the kernels are wrong here"),
    ],
)
def test_on_a_cuda_device_they_are_the_default(monkeypatch, asked, obstacle, failure, taken, warning):
    monkeypatch.setenv(task_losses.fused.SWITCH, asked)
    monkeypatch.setattr(task_losses.fused, "obstacle", lambda pred, levels: obstacle)
    monkeypatch.setattr(task_losses.fused, "_failure", lambda device, levels, plain: failure)
    for expected in (warning, None):  # once in a process
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert task_losses.fused.takes(cast(torch.Tensor, OnCuda()), [], plain) is taken
        assert len(caught) == (expected is not None)
        assert all(re.search(str(expected), str(one.message)) for one in caught)


@pytest.mark.gpu
@NEEDS_CUDA
def test_on_this_device_they_are_the_default(monkeypatch):
    monkeypatch.delenv(task_losses.fused.SWITCH)
    loss, (pred, target) = JPEGLoss().to("cuda"), (torch.rand(2, 3, 40, 44, device="cuda") for _ in range(2))
    pred.requires_grad_()
    seen = list[Started]()
    with watch(seen.append):
        loss(pred, target).backward()
    assert seen
    found, pred.grad = pred.grad, None
    monkeypatch.setenv(task_losses.fused.SWITCH, "plain")
    loss(pred, target).backward()
    assert relative(found, pred.grad) < 0.1  # TF32 in both, in another order
    seen.clear()
    loss(pred, target).backward()
    assert not seen


def test_refuses_a_name_that_is_none(monkeypatch):
    monkeypatch.setenv(task_losses.fused.SWITCH, "fast")
    pred, target = pair((1, 3, 16, 16), torch.float32)
    with pytest.raises(ValueError, match="TASK_LOSSES_KERNELS must be 'fused' or 'plain', or be unset, got 'fast'"):
        JPEGLoss()(pred.requires_grad_(), target)


def test_where_it_cannot_run_one_warning_says_why(monkeypatch):
    pred, target = pair((1, 3, 16, 16), torch.float32)
    loss = JPEGLoss()
    with pytest.warns(UserWarning, match="plain torch is used: the images are on cpu, not on a CUDA device"):
        loss(pred.requires_grad_(), target).backward()
    kept = pred.grad.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(pred, target).backward()
    monkeypatch.delenv(task_losses.fused.SWITCH)
    pred.grad = None
    loss(pred, target).backward()
    assert torch.equal(pred.grad, kept)


def test_says_what_the_kernels_cannot_take(monkeypatch):
    def why(image, levels):
        return obstacle(image, levels) or ""

    image = torch.empty(2, 3, 40, 40, device="meta")
    levels = levels_of(16, (0, 4), "squared", 1.5, size=(40, 40))
    assert obstacle(image, levels) is None
    assert "in float64" in why(image.double(), levels)
    assert "10922 images" in why(torch.empty(20000, 3, 11, 11, device="meta"), levels)
    wide = levels_of(64, (0, 4), "squared", 1.5, size=(40, 40))
    assert "one of 8, 16, 24, 32 channels, got [64]" in why(image, wide)
    assert "got [16, 64]" in why(image, levels + wide)
    assert "16 levels at most, got 18" in why(image, levels * 9)
    with monkeypatch.context() as patch:
        patch.setattr("triton.__version__", "3.7.1")  # which multiplies 16 inputs at least
        assert obstacle(image, levels) is None
        assert "take 16 channels, got 24" in why(image, levels_of(24, (1, 4), "absolute", 2.0, size=(40, 40)))
    with monkeypatch.context() as patch:
        patch.setattr("triton.__version__", "3.4.0")
        assert "Triton 3.5 or newer is needed" in why(image, levels)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "for ROCm" in (task_losses.fused._obstacle_here(torch.device("cuda", 0)) or "")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "capability 7.5 is too old" in (task_losses.fused._obstacle_here(torch.device("cuda", 0)) or "")
    with TorchDispatchMode():
        assert "a dispatch mode is active" in (task_losses.fused._obstacle_here(torch.device("cuda", 0)) or "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "triton is not installed" in why(image, levels)


def check_on(monkeypatch, levels, capturing=False):
    """The self-check as on a CUDA device, where tensors are on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    return selfcheck.check(torch.device("cpu"), levels, plain)


def test_the_self_check_says_what_fails_once(monkeypatch):
    """A device with a gradient of the wrong sign, one that raises, and one in the midst of a graph."""
    levels = levels_of(16, (0, 4), "squared", 1.5, size=(40, 40), dtype=torch.float32)
    calls = []

    def wrong(pred, target, chosen, **options):
        calls.append(options)
        distances, gradients = plain(pred, target, chosen)
        return distances, -gradients

    monkeypatch.setattr(step, "distance_and_gradient", wrong)
    assert "graph is being captured" in check_on(monkeypatch, levels, capturing=True)
    for _ in range(2):
        assert "the gradient differs from plain torch's by 2.0e+00" in check_on(monkeypatch, levels)
    assert len(calls) == 1

    def broken(*arguments, **options):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(step, "distance_and_gradient", broken)
    other = levels_of(24, (0, 4), "squared", 1.5, size=(40, 40), dtype=torch.float32)
    assert "do not run here: RuntimeError: no C compiler" in check_on(monkeypatch, other)
    assert "by 2.0e+00" in check_on(monkeypatch, levels), "the reason of the first form stays"


def test_the_self_check_accepts_rounding(monkeypatch):
    levels = levels_of(16, (0, 4), "absolute", 1.5, size=(40, 40), dtype=torch.float32)
    monkeypatch.setattr(
        step, "distance_and_gradient", lambda pred, target, chosen, **options: plain(pred, target, chosen)
    )
    for allowed in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert check_on(monkeypatch, levels) is None
    assert {key[-1] for key in selfcheck._checked} == {"ieee", "tf32"}


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (10**9, [slice(0, 4)]),
        (0, [slice(3, 4), slice(1, 3), slice(0, 1)]),
        (100, [slice(3, 4), slice(1, 3), slice(0, 1)]),
    ],
)
def test_levels_are_grouped_by_the_memory_that_they_take(together, expected):
    assert step.groups([(6, 6), (8, 5), (10, 6), (10, 10)], pixel_bytes=1, together=together) == expected


def test_weights_are_packed_once_and_anew_when_they_change():
    one, other = (level.discriminator for level in levels_of(8, (1,), "squared", 2.0, size=(30, 30), depth=2))
    first = packed([one, other])
    assert packed([one, other]) is first
    assert first.layer(1, slice(0, 2)).shape == (2, 28 * 8)
    assert torch.equal(first.layer(2, slice(1, 2))[0, -1:], other.bias1)
    other.weight0.mul_(2)
    assert relative(packed([one, other]).flat, first.flat) > 0.1
    changed = packed([one, other])
    one.weight0 = copy.deepcopy(one.weight0)
    assert packed([one, other]) is not changed


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
def test_on_a_device_it_is_the_plain_path(kind, monkeypatch):
    for allowed, bound in ((False, 1e-2), (True, 0.1)):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        loss = kind().cuda()
        pred, target = (x.cuda() for x in pair((3, 3, 97, 61), torch.float32))
        seen = list[Started]()
        with warnings.catch_warnings(), watch(seen.append):
            warnings.simplefilter("error")
            value = loss(pred.requires_grad_(), target)
            value.backward()
        assert seen
        with torch.no_grad():
            assert torch.equal(loss(pred, target), value)
        exact = pred.detach().double().requires_grad_()
        with monkeypatch.context() as patch:
            patch.setenv(task_losses.fused.SWITCH, "plain")
            kind().cuda().double()(exact, target.double()).backward()
        assert relative(pred.grad, exact.grad) < bound


def gradient_of(loss, pred, target):
    """And whether the kernels made it."""
    seen, pred = list[Started](), pred.detach().requires_grad_()
    with watch(seen.append):
        loss(pred, target).backward()
    return pred.grad, bool(seen)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("kind", [SRLoss, DenoiseLoss, JPEGLoss])
def test_on_a_device_equal_images_give_equal_bits_also_compiled(kind):
    loss = kind().cuda()
    pred, target = (x.cuda() for x in pair((3, 3, 97, 61), torch.float32))
    first, by_kernels = gradient_of(loss, pred, target)
    assert by_kernels
    for way in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        again, by_kernels = gradient_of(way, pred, target)
        assert by_kernels
        assert torch.equal(first, again)


@pytest.mark.gpu
@NEEDS_CUDA
def test_on_a_device_a_network_in_half_precision_trains_by_the_kernels():
    loss, (noisy, clean) = DenoiseLoss().cuda(), (x.cuda() for x in pair((2, 3, 64, 64), torch.float32))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, padding=1).cuda()
    optimizer, scaler = torch.optim.Adam(network.parameters(), 1e-2), torch.amp.GradScaler("cuda")
    seen, values = list[Started](), list[float]()
    with watch(seen.append):
        for _ in range(30):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                restored = network(noisy)
                value = loss(restored, clean)
            assert (restored.dtype, value.dtype) == (torch.float16, torch.float32)
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            values.append(value.item())
    assert seen
    assert values[-1] < values[0] / 2


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_cuda_graph_replays_it_with_new_images(monkeypatch):
    loss = JPEGLoss().cuda()
    pred, target = (x.cuda() for x in pair((2, 3, 48, 52), torch.float32))
    pred.requires_grad_()

    def work():
        pred.grad = None
        loss(pred, target).backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    pred.grad = None
    with torch.cuda.graph(graph):
        work()
    with torch.no_grad():
        pred.mul_(0.5)
    graph.replay()
    replayed = pred.grad.clone()
    work()
    assert torch.equal(pred.grad, replayed)
