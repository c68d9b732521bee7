"""The compiled operations against plain torch."""

import json

import pytest
import torch

from training import train
from training.kernels import reference
from training.kernels.cpu import native
from training.kernels.cpu.native import NativeOperations, Unavailable
from training.kernels.operations import Block, Operations, Trace
from training.kernels.reference import critic_gradients
from training.networks import Discriminator
from training.run_folder import RunFolder
from training.updates import choose

CPU = torch.device("cpu")
SIZES = [(11, 11), (25, 25), (26, 39), (17, 50)]


@pytest.fixture(autouse=True)
def unwritten_is_nan():
    """Fills new memory with NaN, so that an element which an operation forgets shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    native.operations.cache_clear()


@pytest.fixture(params=[8, 16, 24, 32, 64])
def operations(request):
    return compiled(request.param)


def compiled(width):
    try:
        return NativeOperations(width)
    except Unavailable as reason:
        pytest.skip(f"nothing to test: {reason}")


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def assert_near(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_convolutions(operations, height, width, batch):
    torch.manual_seed(0)
    channels, plain = operations.width, Operations()
    x, gradient = draw(batch, channels, height, width), draw(batch, channels, height - 2, width - 2)
    weight = draw(channels, channels, 3, 3)
    for name, arguments in {
        "convolve": (x, weight),
        "input_gradient": (gradient, weight),
        "weight_gradient": (x, gradient),
    }.items():
        found = getattr(operations, name)(*(argument.float() for argument in arguments))
        assert_near([found], [getattr(plain, name)(*arguments)], 3e-5)  # Winograd rounds more than plain float32


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("offset", [0, 50], ids=["centred", "far from zero"])
def test_norm_passes(operations, height, width, offset):
    torch.manual_seed(0)
    channels, plain = operations.width, Operations()
    raw, *maps = (draw(2, channels, height, width) for _ in range(4))
    raw[:, 1] = 0.25  # no variance
    raw += offset
    # The very same numbers for both, or LeakyReLU's kink falls elsewhere.
    raw, *maps = (x.float().double() for x in (raw, *maps))
    block = Block(draw(channels), draw(channels).float().double(), draw(channels).float().double())
    expected = plain.normalise(raw, block)
    found = operations.normalise(raw.float(), Block(*(p.float() for p in block)))
    error = 1e-6 * (1 + offset)  # of a deviation from a mean that large
    assert_near([found.mean, found.output], [expected.mean, expected.output], error)
    torch.testing.assert_close(found.variance.double(), expected.variance, rtol=error, atol=1e-9)
    torch.testing.assert_close(found.rstd.double(), expected.rstd, rtol=error, atol=1e-9)

    activation = type(expected)(*(x.float() for x in expected))
    gradient, adjoint, tangent = maps
    of_adjoint = plain.back(adjoint, expected)
    assert_near(operations.back(adjoint.float(), activation), of_adjoint, error)
    of_tangent = plain.along(tangent, expected, of_adjoint.before)
    assert_near(operations.along(tangent.float(), activation, of_adjoint.before.float()), of_tangent, 4 * error)
    trace = Trace(of_adjoint.before, of_adjoint.sums, of_tangent.before, of_tangent.sums, block.weight)
    single = Trace(trace.adjoint.float(), trace.adjoint_sums, trace.tangent.float(), trace.tangent_sums, block.weight)
    found = operations.back_twice(gradient.float(), activation, single)
    assert_near(found, plain.back_twice(gradient, expected, trace), 4 * error)


@pytest.mark.parametrize("shared_norm", [True, False], ids=["shared", "separate"])
def test_the_whole_step(operations, monkeypatch, shared_norm):
    """Without the kink of LeakyReLU, near which float32 takes the other side and gradients differ by per mille."""
    monkeypatch.setattr(reference, "SLOPE", 1.0)
    monkeypatch.setattr(native, "SLOPE", 1.0)
    torch.manual_seed(0)
    critic = Discriminator(operations.width)
    real, fake = torch.rand(2, 2, 3, 19, 23)
    arguments = 0.37, 0.1, shared_norm
    found = critic_gradients(list(critic.parameters()), real, fake, *arguments, operations)
    critic.double()
    expected = critic_gradients(list(critic.parameters()), real.double(), fake.double(), *arguments)
    assert all(gradient.dtype == torch.float32 for gradient in found.parameters)
    largest = max(gradient.abs().max() for gradient in expected.parameters)
    for ours, theirs in zip(found.parameters, expected.parameters, strict=True):  # some are zero without the kink
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6 * largest
    assert_near([found.distance, found.penalty], [expected.distance, expected.penalty], 1e-4)
    for ours, theirs in zip(found.statistics, expected.statistics, strict=True):
        assert_near(ours, theirs, 1e-4)


def test_the_number_of_threads_changes_nothing():
    operations = compiled(16)
    torch.manual_seed(0)
    images, weight = torch.rand(3, 16, 40, 52), torch.randn(16, 16, 3, 3)
    block = Block(weight, *torch.rand(2, 16))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            activation = operations.normalise(operations.convolve(images, weight), block)
            passed = operations.back(torch.ones_like(activation.raw) / 3, activation)
            by_weight = operations.weight_gradient(images, passed.result)
            results.append([activation.mean, activation.output, passed.sums, passed.result, by_weight])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for ours, first in zip(other, results[0], strict=True):
            assert torch.equal(ours, first)


def test_operations_that_compute_something_else_are_never_used(monkeypatch):
    compiled(16)
    honest = NativeOperations.weight_gradient
    monkeypatch.setattr(NativeOperations, "weight_gradient", lambda *arguments: 1.001 * honest(*arguments))
    native.operations.cache_clear()
    with pytest.raises(Unavailable, match=r"weight gradient differs from torch's by 1\.0e-03"):
        native.operations(16)
    _, line = choose("auto", CPU, (16,))
    assert line.startswith("reference: no native kernels here: compiled weight gradient")
    with pytest.raises(ValueError, match="--kernels native cannot run here: compiled weight gradient"):
        choose("native", CPU, (16,))


def test_a_resumed_training_equals_an_unbroken_one(tmp_path, monkeypatch):
    compiled(16)
    flags = ["--task", "denoise", "--scales", "1", "--longest-side", "24", "--channels", "16", "--steps", "4"]
    flags += ["--checkpoint-every", "2", "--kernels", "native"]
    assert train.main(["--out", str(tmp_path / "whole"), *flags]) == 0
    honest = RunFolder.save_checkpoint

    def dying(self, *arguments):
        honest(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", dying)
        assert train.main(["--out", str(tmp_path / "broken"), *flags]) == 130
    assert train.main(["--out", str(tmp_path / "broken"), "--resume"]) == 0
    whole, broken = (RunFolder(tmp_path / name).load_checkpoint() for name in ("whole", "broken"))
    assert json.loads(whole["origin"])["kernels"] == "native"
    for name, value in whole["finished"][0].items():
        assert torch.equal(value, broken["finished"][0][name])


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (None, "there is no C compiler"),
        ("false", "compiling with false failed"),
        ("no-such-compiler", "no-such-compiler"),
    ],
)
def test_without_a_compiler_that_works(monkeypatch, compiler, message):
    if compiler is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    else:
        monkeypatch.setenv("CC", compiler)
    native.operations.cache_clear()
    with pytest.raises(Unavailable, match=message):
        native.operations(16)
    assert choose("auto", CPU, (16,))[1].startswith("reference: ")


@pytest.mark.parametrize("width", [12, 136])
def test_other_widths_use_plain_torch(width):
    with pytest.raises(ValueError, match=f"multiples of 8 channels up to 128, the network has {width}"):
        choose("native", CPU, (width,))
    assert choose("auto", CPU, (width,))[1].startswith("reference: ")


def test_other_numbers_are_refused():
    parameters = list(Discriminator(16).double().parameters())
    images = torch.rand(2, 1, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"float32 on the CPU, got torch\.float64 on cpu"):
        native.critic_gradients_of_runs([parameters], images[:1], images[1:], [0.5], 0.1)


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    compiled(16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = native.compiled(16)
    made = path.stat().st_mtime_ns
    assert native.compiled(16) == path
    assert path.stat().st_mtime_ns == made
    assert [file.name for file in path.parent.iterdir()] == [path.name]
