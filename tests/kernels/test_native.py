"""The compiled operations against plain torch."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from training import train
from training.kernels import operations as plain_operations
from training.kernels.cpu import compiler, native
from training.kernels.cpu.compiler import Unavailable
from training.kernels.cpu.native import NativeOperations
from training.kernels.operations import Block, Operations, Trace
from training.kernels.reference import critic_gradients
from training.networks import Discriminator
from training.objectives import Objective
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


def laid_out(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def assert_near(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_convolutions(operations, height, width, batch):
    torch.manual_seed(0)
    channels, plain = operations.width, Operations()
    # Blocks, the first and the last convolution, and what torch makes.
    for inputs, outputs in (channels, channels), (3, channels), (channels, 1), (channels, 3), (1, channels), (3, 1):
        x, gradient = draw(batch, inputs, height, width), draw(batch, outputs, height - 2, width - 2)
        weight = draw(outputs, inputs, 3, 3)
        for name, arguments in {
            "convolve": (x, weight),
            "input_gradient": (gradient, weight),
            "weight_gradient": (x, gradient),
        }.items():
            expected = getattr(plain, name)(*arguments)
            for layout in (torch.contiguous_format, torch.channels_last):
                given = (argument.float().contiguous(memory_format=layout) for argument in arguments)
                found = getattr(operations, name)(*given)
                assert_near([found], [expected], 3e-5)  # Winograd rounds more than plain float32


def test_spectral_norms(operations):
    torch.manual_seed(0)
    channels, plain = operations.width, Operations()
    rank_one, twice = draw(channels, 1, 1, 1) * draw(1, channels, 3, 3), torch.zeros(channels, channels, 3, 3)
    twice[0, 0, 0, 0] = twice[1, 1, 0, 0] = 3  # two singular values of one size
    weights = [
        draw(channels, 3, 3, 3),
        draw(channels, channels, 3, 3),
        rank_one,
        draw(1, channels, 3, 3),
        twice.double(),
    ]
    for ours, theirs in zip(operations.units([w.float() for w in weights]), plain.units(weights), strict=True):
        assert_near(ours, theirs, 2e-6)
    (nothing,) = operations.units([torch.zeros(channels, channels, 3, 3)])
    assert nothing.norm.isnan()


def test_maps_in_another_layout_are_refused_where_they_would_be_misread(operations):
    block = Block(None, *torch.rand(2, operations.width))
    activation = operations.normalise(torch.rand(1, operations.width, 5, 6), block)
    with pytest.raises(ValueError, match="must be channels last"):
        operations.back(torch.rand(1, operations.width, 5, 6), activation._replace(raw=activation.raw.contiguous()))


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

    activation = type(expected)(*(laid_out(x.float()) for x in expected))
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
@pytest.mark.parametrize("kind", ["wgan-gp", "hinge", "spectral"])
def test_the_whole_step(operations, monkeypatch, kind, shared_norm):
    """Without the kink of LeakyReLU, near which float32 takes the other side and gradients differ by per mille."""
    monkeypatch.setattr(plain_operations, "SLOPE", 1.0)
    monkeypatch.setattr(native, "SLOPE", 1.0)
    torch.manual_seed(0)
    critic = Discriminator(operations.width)
    real, fake = torch.rand(2, 2, 3, 19, 23)
    objective = Objective("hinge" if kind == "spectral" else kind, 0.1, kind == "spectral", shared_norm)
    arguments = 0.37, objective
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


@pytest.mark.parametrize("kind", ["wgan-gp", "hinge"])
def test_the_number_of_threads_changes_nothing(kind, monkeypatch):
    compiled(16)
    monkeypatch.setattr(native, "NUMBERS_A_THREAD", 1000)
    torch.manual_seed(0)
    parameters = list(Discriminator(16).parameters())
    real, fake = torch.rand(2, 2, 3, 40, 52)
    arguments = [parameters], [real], [fake], [0.37], Objective(kind, spectral_norm=kind == "hinge")
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 8, 1):
            torch.set_num_threads(count)
            for _ in range(5):  # the threads come in another order each time
                (found,) = native.critic_gradients_of_runs(*arguments)
                results.append([*found.parameters, *sum(found.statistics, ()), found.distance, found.penalty])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(other, results[0], strict=True))


def test_small_maps_are_left_to_one_thread():
    operations = compiled(16)
    operations.threads = 4
    sizes = [(18, 27), (42, 63), (133, 200)]
    assert [operations._threads(torch.empty(2, 1, *size)) for size in sizes] == [1, 3, 4]


def test_a_child_process_does_without_its_parents_threads():
    operations = compiled(16)
    operations.threads = 2
    images, weight = torch.rand(2, 16, 60, 80), torch.randn(16, 16, 3, 3)
    expected = operations.convolve(images, weight)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # torch's own threads are lost as well, and its operations would wait for them
        os._exit(0 if torch.equal(operations.convolve(images, weight), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_several_callers_at_once():
    operations = compiled(16)
    operations.threads = 3
    images, weight = torch.rand(4, 2, 16, 60, 80), torch.randn(16, 16, 3, 3)
    expected = [operations.convolve(image, weight) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(lambda image: operations.convolve(image, weight), images))
            assert all(map(torch.equal, found, expected))


def test_operations_that_compute_something_else_are_never_used(monkeypatch):
    compiled(16)
    honest = NativeOperations.weight_gradient
    monkeypatch.setattr(NativeOperations, "weight_gradient", lambda *arguments: 1.001 * honest(*arguments))
    native.operations.cache_clear()
    with pytest.raises(Unavailable, match=r"weight gradient of .* differs from torch's by 1\.0e-03"):
        native.operations(16)
    _, line = choose("auto", CPU, (16,), Objective())
    assert line.startswith("reference: no native kernels here: compiled weight gradient")
    with pytest.raises(ValueError, match="--kernels native cannot run here: compiled weight gradient"):
        choose("native", CPU, (16,), Objective())


def test_operations_that_leave_holes_are_never_used(monkeypatch):
    compiled(16)
    honest = NativeOperations.normalise

    def holed(self, *arguments):
        activation = honest(self, *arguments)
        activation.mean[3] = float("nan")
        return activation

    monkeypatch.setattr(NativeOperations, "normalise", holed)
    native.operations.cache_clear()
    with pytest.raises(Unavailable, match="normalisation differs from torch's by nan"):
        native.operations(16)


@pytest.mark.parametrize(
    "objective", [[], ["--objective", "hinge", "--spectral-norm", "--no-upscale"]], ids=["wgan-gp", "hinge"]
)
def test_a_resumed_training_equals_an_unbroken_one(tmp_path, monkeypatch, objective):
    compiled(16)
    flags = ["--task", "denoise", "--scales", "1", "--longest-side", "24", "--channels", "16", "--steps", "4"]
    flags += ["--checkpoint-every", "2", "--kernels", "native", *objective]
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
    ("named", "message"),
    [
        (None, "there is no C compiler"),
        ("false", "compiling with false failed"),
        ("no-such-compiler", "no-such-compiler"),
    ],
)
def test_without_a_compiler_that_works(monkeypatch, named, message):
    if named is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    else:
        monkeypatch.setenv("CC", named)
    native.operations.cache_clear()
    with pytest.raises(Unavailable, match=message):
        native.operations(16)
    assert choose("auto", CPU, (16,), Objective())[1].startswith("reference: ")


@pytest.mark.parametrize("width", [12, 136])
def test_other_widths_use_plain_torch(width):
    with pytest.raises(ValueError, match=f"multiples of 8 channels up to 128, the network has {width}"):
        choose("native", CPU, (width,), Objective())
    assert choose("auto", CPU, (width,), Objective())[1].startswith("reference: ")


def test_other_numbers_are_refused():
    parameters = list(Discriminator(16).double().parameters())
    images = torch.rand(2, 1, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"float32 on the CPU, got torch\.float64 on cpu"):
        native.critic_gradients_of_runs([parameters], images[:1], images[1:], [0.5], Objective())


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    compiled(16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "task-losses" / "kernels"


def test_the_library_is_compiled_once(own_cache):
    path = compiler.compiled(16)
    made = path.stat().st_mtime_ns
    assert compiler.compiled(16) == path
    assert path.stat().st_mtime_ns == made
    assert sorted(file.name for file in own_cache.iterdir()) == [f"{path.stem}.sha256", path.name]
    assert own_cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["cut", "zeroed", "empty", "without its digest"])
def test_a_damaged_library_is_made_anew(own_cache, damage):
    path = compiler.compiled(16)
    whole = path.read_bytes()
    if damage == "without its digest":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_bytes({"cut": whole[:5000], "zeroed": bytes(len(whole)), "empty": b""}[damage])
    check = "from training.kernels.cpu import native; native.operations(16)"
    subprocess.run([sys.executable, "-c", check], check=True)  # a crash would take pytest with it
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text()


def test_a_cache_that_others_can_write_is_not_used(own_cache):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    assert own_cache not in compiler.compiled(16).parents
    assert not list(own_cache.iterdir())


def test_without_a_home(monkeypatch):
    compiled(16)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compiler.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert native.Library(compiler.compiled(16))


def test_a_compiler_with_arguments(monkeypatch, own_cache):
    before = compiler.compiled(16)
    monkeypatch.setenv("CC", f"{shutil.which('cc') or 'gcc'} -O2 -DUNUSED='a b'")
    after = compiler.compiled(16)
    assert after != before
    assert native.Library(after)
