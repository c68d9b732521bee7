"""The released recipes trained in full on this device, exported, and compared with the released losses."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from training.bench.cost.timing import wait_for
from training.bench.device.work import Skipped, Work

# What only training needs is imported where it is used: a machine may lack it, and then this says so.
_SMALL = ["--scales", "2", "--longest-side", "36", "--steps", "2"]  # the coarsest levels of the recipe
_PROFILED = ["--scales", "1", "--steps", "60", "--checkpoint-every", "1000"]  # the finest level alone
_LAUNCHING = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
_WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def recipe(work: Work, task: str) -> list[str]:
    """Flags of ``training.train`` for a task's released recipe, here. Without its image the part is passed over."""
    from training.bench.device import prepared

    flags = ["--task", task, "--device", work.device.type]
    if work.prepared is not None:
        return [*flags, *prepared.flags(work.prepared, task)]
    try:
        import skimage  # noqa: F401  brings Pillow, the codec
    except ModuleNotFoundError as error:
        raise Skipped(f"{error}: make a folder with --prepare where it is, and bring it with --prepared") from error
    return flags


def train(task: str) -> Callable[[Work], None]:
    def part(work: Work) -> None:
        flags = recipe(work, task)
        from training import export
        from training.bench.device.prepared import unseen
        from training.run_folder import RunFolder
        from training.train import main as run

        with tempfile.TemporaryDirectory() as name, work.noted(task=task) as row:
            folder = RunFolder(Path(name) / task)
            begun = time.perf_counter()
            status = run([*flags, *(_SMALL if work.small else []), "--out", str(folder.path)])
            wait_for(work.device)
            seconds = time.perf_counter() - begun
            if status:
                raise RuntimeError(f"the training ended with status {status}, see the output")
            checkpoint = folder.load_checkpoint()
            origin, config = json.loads(checkpoint["origin"]), json.loads(checkpoint["config"])
            steps = config["scales"] * config["steps"]
            row |= {"kernels": origin["kernels"], "steps": steps, "seconds": seconds}
            row |= {"steps_per_second": steps / seconds, "whole": not work.small}
            loss = TaskLoss(export.export(folder))
            released = next(kind for kind in (SRLoss, DenoiseLoss, JPEGLoss) if kind.task == task)()
            row |= compared(loss, released, unseen(work.prepared))

    return part


def compared(loss: TaskLoss, released: TaskLoss, image: Tensor) -> dict[str, Any]:
    """Values of two losses for three changes of a photograph that no critic has seen, and how far they are apart."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    changes = {"noise": image + 0.1 * noise, "blur": blurred, "darker": 0.9 * image}
    values = {name: (loss(changed, image).item(), released(changed, image).item()) for name, changed in changes.items()}
    largest = torch.tensor([abs(a / b - 1) for a, b in values.values()]).max()  # NaN if one is
    return {"trained_and_released": values, "difference": largest.item()}


def profile(work: Work) -> None:
    """What limits the steps at the finest level: the host's time in launches and waits, the device's own time."""
    for task in ("jpeg", "sr"):
        flags = recipe(work, task)
        from training.train import main as run

        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [] if work.small else [torch.profiler.ProfilerActivity.CUDA]
        with tempfile.TemporaryDirectory() as name, work.noted(task=task) as row:
            out = ["--out", str(Path(name) / task)]
            begun = time.perf_counter()
            with torch.profiler.profile(activities=activities) as profiler:
                status = run([*flags, *(_SMALL if work.small else _PROFILED), *out])
                wait_for(work.device)
            row |= {"status": status, "seconds_with_profiler": time.perf_counter() - begun}
            row |= shares(profiler.key_averages())


def shares(events: Any) -> dict[str, Any]:
    """Seconds of a profile by what they went to."""
    on_host, on_device = dict[str, float](), dict[str, float]()
    for event in events:  # what the host called has its kernels' time too: it is counted where it ran
        if event.device_type.name == "CPU":
            on_host[event.key] = event.self_cpu_time_total / 1e6
        elif not getattr(event, "is_user_annotation", False):
            on_device[event.key] = event.self_device_time_total / 1e6

    def spent(names: tuple[str, ...]) -> Any:
        return sum(seconds for key, seconds in on_host.items() if key.startswith(names))

    def most(seconds: dict[str, float]) -> dict[str, float]:
        return dict(sorted(seconds.items(), key=lambda item: -item[1])[:8])

    launched = sum(event.count for event in events if event.key.startswith(_LAUNCHING))
    return {
        "seconds_of_launching": spent(_LAUNCHING),
        "seconds_of_waiting": spent(_WAITING),
        "seconds_of_the_device": sum(on_device.values()),
        "launches": launched,
        "most_of_the_host": most(on_host),
        "most_of_the_device": most(on_device),
    }


PARTS = {"sr": train("sr"), "denoise": train("denoise"), "jpeg": train("jpeg"), "profile": profile}
