"""Training with whole updates in Triton: what ``--kernels triton`` does, in the interpreter and on a device."""

import copy
import csv
import json
import os
import warnings
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from critic_cases import SPECTRAL, SPECTRAL_APART, WGAN_GP, case, objectives

from training import material, scale, train, updates
from training.adam import adam, load_moments, set_rate
from training.config import Config
from training.kernels.triton import graph, selfcheck, step
from training.kernels.triton.graph import CriticIteration
from training.networks import Discriminator
from training.run_folder import RunFolder
from training.scale import Scale
from training.updates import CapturedUpdate, Request, choose

pytestmark = pytest.mark.usefixtures("without_overflow_checks")

HINGE_FLAGS = ["--objective", "hinge", "--spectral-norm"]
WGAN_GP_FLAGS = ["--objective", "wgan-gp"]
TINY = ["--scales", "1", "--longest-side", "17", "--channels", "4", "--steps", "3", "--checkpoint-every", "2"]
CPU = torch.device("cpu")


@pytest.fixture
def interpreted_training(monkeypatch):
    """A training that makes its updates in the interpreter, in float64, through all but the capture itself."""

    class Double(Discriminator):
        def __init__(self, channels):
            super().__init__(channels)
            self.double()

    def opened(*arguments):
        image, source = train_open_image(*arguments)
        return image.double(), source

    def chosen(name, *arguments):
        if name == "autograd":
            return choose(name, *arguments)
        return CapturedUpdate(), "triton: in the interpreter"

    train_open_image, generator = material.open_image, scale.Generator
    monkeypatch.setattr(material, "open_image", opened)
    monkeypatch.setattr(scale, "Discriminator", Double)
    monkeypatch.setattr(scale, "Generator", lambda channels: generator(channels).double())
    monkeypatch.setattr(updates, "choose", chosen)
    monkeypatch.setattr(graph, "record", lambda update, device: update)
    monkeypatch.setattr(graph, "_WARM_UPS", 1)


def run(out, *flags):
    return train.main(["--out", str(out), *TINY, *flags])


def finished(out):
    return RunFolder(out).load_checkpoint()["finished"]


def losses(out):
    rows = csv.DictReader((out / "losses.csv").open())
    return [[float(row[name]) for name in ("critic_distance", "gradient_penalty") if name in row] for row in rows]


def assert_same_weights(first, second):
    for a, b in zip(finished(first), finished(second), strict=True):
        for name in a:
            assert torch.equal(a[name], b[name]), name


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted_training")
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            [*WGAN_GP_FLAGS, "--critic-updates", "2", "--lr-decay-at", "0.5", "--generator"], id="all at once"
        ),
        pytest.param([*WGAN_GP_FLAGS, "--lr-decay-at", "0.5"], marks=pytest.mark.slow, id="default"),
        pytest.param(
            [*WGAN_GP_FLAGS, "--no-shared-norm", "--input-range", "-1", "1"], marks=pytest.mark.slow, id="apart"
        ),
        pytest.param(HINGE_FLAGS, id="spectral"),
        pytest.param([*HINGE_FLAGS, "--no-shared-norm"], marks=pytest.mark.slow, id="spectral apart"),
    ],
)
def test_training_is_that_of_autograd(tmp_path, flags):
    for name in ("triton", "autograd"):
        assert run(tmp_path / name, "--task", "denoise", "--kernels", name, *flags) == 0
    torch.testing.assert_close(losses(tmp_path / "triton"), losses(tmp_path / "autograd"), rtol=1e-9, atol=1e-10)
    (mine,), (right,) = finished(tmp_path / "triton"), finished(tmp_path / "autograd")
    for name, value in right.items():
        # Adam divides by the gradient's size: rounding in a last bias whose gradient is 0 moves it freely.
        if name != "last.bias" or flags[:2] == HINGE_FLAGS[:2]:
            torch.testing.assert_close(
                mine[name], value, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted_training")
@pytest.mark.parametrize(
    "flags",
    [pytest.param(WGAN_GP_FLAGS, marks=pytest.mark.slow, id="wgan-gp"), pytest.param(HINGE_FLAGS, id="spectral")],
)
def test_a_batch_that_was_stopped_in_a_scale_equals_unbroken_runs(tmp_path, monkeypatch, flags):
    """Its first run is a checkpoint ahead: it ends earlier, and the second goes on alone."""
    sweep = {"noise": {"task": "denoise"}, "codec": {"task": "jpeg", "jpeg-quality": [5, 30]}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    batch = ["--batch-runs", str(tmp_path / "sweep.json"), *flags]
    saved, honest = [], RunFolder.save_checkpoint

    def dying(self, *arguments):
        honest(self, *arguments)
        saved.append(self.path.name)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", dying)
        assert run(tmp_path / "broken", *batch) == 130
    assert saved == ["noise", "codec", "noise"]
    steps = [RunFolder(tmp_path / "broken" / name).load_checkpoint()["step"] for name in sweep]
    assert steps == [0, 2]
    assert run(tmp_path / "broken", *batch, "--resume") == 0
    assert run(tmp_path / "noise", "--task", "denoise", *flags) == 0
    assert run(tmp_path / "codec", "--task", "jpeg", "--jpeg-quality", "5", "30", *flags) == 0
    for name in sweep:
        assert_same_weights(tmp_path / "broken" / name, tmp_path / name)
        assert losses(tmp_path / "broken" / name) == losses(tmp_path / name)


@pytest.mark.interpreter
@pytest.mark.parametrize("steps_before", [pytest.param(0, marks=pytest.mark.slow), 2])
@objectives(SPECTRAL, slow=[WGAN_GP])
def test_warming_up_leaves_no_trace(monkeypatch, steps_before, objective):
    """Nothing of two critics has changed, of which a resumed one brings moments; and updates go on as without."""
    critics, optimizers = zip(*(begun(seed, steps_before) for seed in range(2)), strict=True)
    twins, twin_optimizers = zip(*(begun(seed, steps_before) for seed in range(2)), strict=True)
    flags = []

    def record(update, device):
        flags.extend(optimizer.param_groups[0]["capturable"] for optimizer in optimizers)
        return update

    monkeypatch.setattr(graph, "record", record)
    monkeypatch.setattr(graph, "_WARM_UPS", 1)
    warm = CriticIteration(critics, optimizers, 1, (11, 11), objective)
    assert warm.try_capture()
    assert flags == [True, True]  # without it torch refuses to capture a step
    for mine, right in zip(critics, twins, strict=True):
        assert_equal(mine.state_dict(), right.state_dict())
    if steps_before:
        assert_equal(moments(optimizers), moments(twin_optimizers))
    problems = [case(8, 1, (11, 11), seed=seed)[1:] for seed in range(2)]
    cold = CriticIteration(twins, twin_optimizers, 1, (11, 11), objective)
    inputs = list(zip(*problems, strict=True))
    assert torch.equal(warm(*inputs), cold(*inputs))
    for mine, right in zip(critics, twins, strict=True):
        assert_equal(mine.state_dict(), right.state_dict())
    assert_equal(moments(optimizers), moments(twin_optimizers))
    assert {name: value.item() for name, value in moments(optimizers).items() if "step" in name} == {
        f"{run} {index} step": steps_before + 1 for run in range(2) for index in range(14)
    }


def begun(seed, steps, device=CPU, dtype=torch.float64):
    """A critic and its optimizer after some steps along arbitrary gradients."""
    torch.manual_seed(seed)
    critic = Discriminator(8).to(device, dtype)
    optimizer = adam(critic.parameters(), 1e-3, (0.5, 0.999))
    for _ in range(steps):
        for parameter in critic.parameters():
            parameter.grad = torch.randn(parameter.shape, dtype=dtype).to(device)
        optimizer.step()
    return critic, optimizer


def moments(optimizers):
    return {
        f"{run} {index} {name}": value.clone()
        for run, optimizer in enumerate(optimizers)
        for index, state in enumerate(optimizer.state.values())
        for name, value in state.items()
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.interpreter
def test_without_a_graph_training_goes_on_and_says_so_once(monkeypatch):
    tried = []

    def refused(update, device):
        tried.append(device)
        raise RuntimeError("operation not permitted when stream is capturing\nand what else CUDA says")

    monkeypatch.setattr(graph, "record", refused)
    monkeypatch.setattr(graph, "_WARM_UPS", 1)
    _, real, fake, mix = case(8, 1, (11, 11))
    results = []
    for update in (CapturedUpdate(), CapturedUpdate(captured=False)):
        for seed in range(2):  # two sets of critics, as at two scales
            critic, optimizer = begun(seed, 1)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                (judged,) = update([Request(critic, optimizer, real, fake, mix, SPECTRAL)])
            results.append((judged, critic.state_dict(), [str(warning.message) for warning in caught]))
    (first, second), plain = results[:2], results[2:]
    assert first[2] == [
        "no CUDA graph here, every kernel is launched by itself: operation not permitted when stream is capturing"
    ]
    assert second[2] == plain[0][2] == plain[1][2] == []
    assert len(tried) == 1
    for mine, right in zip((first, second), plain, strict=True):
        assert mine[0] == right[0]
        assert_equal(mine[1], right[1])


@pytest.mark.interpreter
def test_an_update_that_fails_is_no_missing_graph(monkeypatch):
    """Going on would train from what the failed update left."""

    def failing(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(graph, "launch_step", failing)
    critic, optimizer = begun(0, 0)
    _, real, fake, mix = case(8, 1, (11, 11))
    with pytest.raises(RuntimeError, match="out of memory"):
        CapturedUpdate()([Request(critic, optimizer, real, fake, mix, SPECTRAL)])


@pytest.mark.interpreter
@objectives(SPECTRAL, slow=[WGAN_GP, SPECTRAL_APART])
def test_the_self_check_passes_in_the_interpreter_and_finds_what_is_wrong(monkeypatch, objective):
    arguments = selfcheck.by_kernels, CPU, 16, replace(objective, penalty_weight=0.1), selfcheck._CASES[:1]
    assert selfcheck.disagreement(*arguments) is None
    honest = step.pack

    def faulty(flat, layout, norms=None):  # leaves out a division, or doubles every weight
        return honest(flat, layout, None if norms is None else torch.ones_like(norms)) * (1 if norms is not None else 2)

    monkeypatch.setattr(step, "pack", faulty)
    assert "differs from the reference" in (selfcheck.disagreement(*arguments) or "")


def test_graphs_are_kept_while_their_critics_train_together(monkeypatch):
    made = []

    class Counted:
        def __init__(self, critics, *arguments):
            made.append(critics)

        def __call__(self, real, fake, mix):
            return torch.zeros(len(real), 2)

    monkeypatch.setattr(graph, "CriticIteration", Counted)
    update = CapturedUpdate(captured=False)
    a, b, c = (Discriminator(8) for _ in range(3))

    def request(critic, size=11):
        image = torch.zeros(1, 3, size, size)
        return Request(critic, critic, image, image, 0.5, WGAN_GP)

    for _ in range(2):
        assert len(update([request(a), request(b)])) == 2
    assert made == [[a, b]]
    update([request(a), request(b, 12)])
    assert made[1:] == [[a], [b]]
    assert len(update.kept) == 2
    update([request(a), request(b)])  # what was made first has lost the running statistics to what was made after
    assert made[3:] == [[a, b]]
    update([request(c)])
    assert len(update.kept) == 1


@pytest.mark.interpreter
def test_images_of_another_size_are_refused():
    critic, optimizer = begun(0, 0)
    iteration = CriticIteration([critic], [optimizer], 1, (11, 11), WGAN_GP)
    _, real, fake, mix = case(8, 1, (11, 12))
    with pytest.raises(ValueError, match=r"expected 1 real and fake images each, of shape \(1, 3, 11, 11\)"):
        iteration([real], [fake], [mix])


@pytest.mark.gpu
@pytest.mark.parametrize("steps_before", [0, 2])
@objectives(WGAN_GP, SPECTRAL)
def test_a_graph_does_what_its_launches_do(steps_before, objective):
    device = need_capture()
    begins = [begun(seed, steps_before, device, torch.float32) for seed in range(2)]
    captured, plain = (
        CriticIteration(*zip(*copied, strict=True), 1, (25, 34), objective)
        for copied in ([again(*begin) for begin in begins] for _ in range(2))
    )
    assert captured.try_capture()
    for seed in range(3):
        problems = [case(8, 1, (25, 34), torch.float32, seed=3 * run + seed)[1:] for run in range(2)]
        real, fake, mix = zip(*problems, strict=True)
        inputs = [r.to(device) for r in real], [f.to(device) for f in fake], mix
        assert torch.equal(captured(*inputs), plain(*inputs))
        for optimizer in (*captured.optimizers, *plain.optimizers):
            set_rate(optimizer, 1e-4)
    assert_equal(moments(captured.optimizers), moments(plain.optimizers))
    for mine, right in zip(captured.running, plain.running, strict=True):
        assert_equal(vars(mine), vars(right))
    for mine, right in zip(captured.parameters, plain.parameters, strict=True):
        assert_equal(dict(enumerate(mine)), dict(enumerate(right)))


def again(critic, optimizer):
    """A critic and its optimizer as a resumed run would have them."""
    critic = copy.deepcopy(critic)
    other = adam(critic.parameters(), 1e-3, (0.5, 0.999))
    load_moments(other, copy.deepcopy(optimizer.state_dict()))  # torch copies no tensors
    return critic, other


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_device_as_it_was():
    device = need_capture()
    number, stream = torch.ones((), device=device), torch.cuda.current_stream(device)
    with pytest.raises(RuntimeError):
        graph.record(number.item, device)
    assert torch.cuda.current_stream(device) == stream
    assert not torch.cuda.is_current_stream_capturing()
    assert (number + 1).item() == 2
    torch.cuda.empty_cache()  # raises while the allocator believes in a capture
    # Were it still in the capture, it would not take back memory that another stream has used.
    before = torch.cuda.memory_allocated(device)
    torch.empty(1 << 20, device=device).record_stream(torch.cuda.Stream(device))
    torch.cuda.synchronize(device)
    torch.empty(1, device=device)
    assert torch.cuda.memory_allocated(device) == before
    number.mul_(1)  # its kernel is loaded before the capture
    for _ in range(2):  # the allocator and the stream take another
        graph.record(lambda: number.mul_(2), device)()
    assert number.item() == 4


@pytest.mark.gpu
@pytest.mark.parametrize("form", [WGAN_GP_FLAGS, [*WGAN_GP_FLAGS, "--generator"], HINGE_FLAGS], ids=" ".join)
def test_training_on_a_device_resumes_bit_for_bit_from_graphs(tmp_path, monkeypatch, form):
    need_capture()
    torch.use_deterministic_algorithms(False)  # the generator's padding has no deterministic gradient
    used = []

    def watched(*arguments):
        chosen = choose(*arguments)
        used.append(chosen[0])
        return chosen

    monkeypatch.setattr(updates, "choose", watched)
    recorded, honest_record = [], graph.record
    monkeypatch.setattr(graph, "record", lambda *arguments: recorded.append(1) or honest_record(*arguments))
    flags = ["--task", "denoise", "--device", "cuda", "--kernels", "triton", "--channels", "16", *form]
    assert run(tmp_path / "whole", *flags) == 0
    honest, count = Scale.request, 0

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count > 2:  # behind the checkpoint of two
            raise KeyboardInterrupt
        return honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scale, "request", dying)
        assert run(tmp_path / "broken", *flags) == 130
    assert train.main(["--out", str(tmp_path / "broken"), "--resume"]) == 0
    assert all(update.captured for update in used)
    assert recorded
    # One says what trains, the other does. A training that ends lets go of its graph, a broken one has it still.
    assert [len(update.kept) for update in used] == [0, 0, 0, 1, 0, 0]
    if "--generator" not in form:
        assert_same_weights(tmp_path / "whole", tmp_path / "broken")
        assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert run(tmp_path / "reference", *flags[:4], "--kernels", "reference", *flags[6:]) == 0
    torch.testing.assert_close(losses(tmp_path / "whole"), losses(tmp_path / "reference"), rtol=0.02, atol=1e-3)


@pytest.mark.gpu
@objectives(WGAN_GP, SPECTRAL)
def test_steps_do_not_wait_for_the_device(objective):
    device = need_capture()
    config = Config(channels=(16,), scales=1, steps=10, objective=objective.kind, spectral_norm=objective.spectral_norm)
    scale = Scale(config, 0, device)
    update = CapturedUpdate()
    level, distorted = torch.rand(2, 1, 3, 25, 34).pin_memory()
    level = level.to(device)
    real = scale.shown(level)
    try:
        for step in range(10):
            fake = scale.fake(distorted.to(device, non_blocking=True), level)
            scale.begin_step(step)
            (judged,) = update([scale.request(real, fake, 0.5)])
            scale.losses(judged, real, fake)
            torch.cuda.set_sync_debug_mode("error")  # the first step may capture
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert update.captured


def need_capture():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    if "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ:  # with whatever value
        pytest.skip("without its caching allocator torch captures no graph")
    return torch.device("cuda")
