"""A loss as a metric of torchmetrics."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from steps import Steps
from torch import Tensor, nn

from task_losses import JPEGLoss, SRLoss, TaskLoss

pytestmark = pytest.mark.frameworks
torchmetrics = pytest.importorskip("torchmetrics")


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Of different sizes, so that a mean of means is wrong."""
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.rand(2, count, 3, 40, 40, generator=generator).unbind()) for count in (3, 1, 2)]  # type: ignore[misc]


def mean(loss: TaskLoss, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    result: Tensor = loss(torch.cat([pred for pred, _ in batches]), torch.cat([target for _, target in batches]))
    return result


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_mean_over_all_images_whatever_the_reduction(batches, reduction):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    loss = JPEGLoss(reduction=reduction, loss_weight=3.0)
    metric = TaskLossMetric(loss)
    for pred, target in batches:
        metric.update(pred, target)
    torch.testing.assert_close(metric.compute(), mean(JPEGLoss(loss_weight=3.0), batches))
    assert loss.reduction == reduction
    metric.reset()
    metric.update(*batches[0])
    torch.testing.assert_close(metric.compute(), mean(JPEGLoss(loss_weight=3.0), batches[:1]))


def test_frames_of_video_are_images(batches):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    metric = TaskLossMetric(JPEGLoss())
    for pred, target in batches:
        metric.update(pred[None], target[None])
    torch.testing.assert_close(metric.compute(), mean(JPEGLoss(), batches))


def test_forward_gives_the_batch_and_accumulates(batches):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    metric = TaskLossMetric(JPEGLoss())
    for batch in batches:
        torch.testing.assert_close(metric(*batch), JPEGLoss()(*batch))
    torch.testing.assert_close(metric.compute(), mean(JPEGLoss(), batches))


def test_two_steps_by_what_forward_gives(batches):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    network, metric = nn.Conv2d(3, 3, 3, padding=1), TaskLossMetric(JPEGLoss())
    optimizer = torch.optim.Adam(network.parameters())
    with Steps() as steps:
        for pred, target in batches[:2]:
            optimizer.zero_grad()
            metric(network(pred), target).backward()
            optimizer.step()
    assert steps.count == 2
    assert not metric.compute().requires_grad


def test_nothing_of_it_is_in_checkpoints_and_copies_are_apart(batches):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    metric = TaskLossMetric(JPEGLoss())
    assert not metric.state_dict()
    assert not list(metric.parameters())
    metric.update(*batches[0])
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    metric.update(*batches[1])
    for copy in copies:
        torch.testing.assert_close(copy.compute(), mean(JPEGLoss(), batches[:1]))


def test_a_collection_keeps_losses_apart_that_begin_alike(batches):
    """A collection takes metrics for one whose first values agree, as all do where images are equal."""
    from task_losses.integrations.torchmetrics import TaskLossMetric

    kinds = {"sr": SRLoss(), "jpeg": JPEGLoss(), "scaled": JPEGLoss(loss_weight=2.0), "coarse": JPEGLoss(scales=[5, 6])}
    kinds |= {"smooth": JPEGLoss(fidelity=0.5), "grey": JPEGLoss(channels="per_channel")}
    metrics = torchmetrics.MetricCollection({name: TaskLossMetric(loss) for name, loss in kinds.items()})
    same = batches[0][0], batches[0][0]
    metrics.update(*same)
    metrics.update(*batches[1])
    metrics.update(*batches[2])
    found = metrics.compute()
    for name, loss in kinds.items():
        torch.testing.assert_close(found[name], mean(loss, [same, *batches[1:]]))


def test_bootstrapped(batches):
    from task_losses.integrations.torchmetrics import TaskLossMetric

    torch.manual_seed(0)
    boot = torchmetrics.BootStrapper(TaskLossMetric(JPEGLoss()), num_bootstraps=20, sampling_strategy="multinomial")
    for batch in batches:
        boot.update(*batch)
    found = boot.compute()
    assert found["std"] > 0
    assert abs(found["mean"] - mean(JPEGLoss(), batches)) < 3 * found["std"]


def test_plotted(batches, tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    from task_losses.integrations.torchmetrics import TaskLossMetric

    metric = TaskLossMetric(JPEGLoss())
    values = [metric(*batch) for batch in batches]
    figure, axes = metric.plot(values)
    figure.savefig(tmp_path / "metric.png")
    assert axes.get_ylim()[0] <= 0
    assert metric.higher_is_better is False


def test_two_processes_are_one(batches, tmp_path):
    script = """
import sys, torch, torch.distributed as dist
from task_losses import JPEGLoss
from task_losses.integrations.torchmetrics import TaskLossMetric
rank, meeting, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
metric = TaskLossMetric(JPEGLoss())
for index, batch in enumerate(torch.load(data)):
    if index % 2 == rank:
        metric.update(*batch)
print(metric.compute().item())
dist.destroy_process_group()
"""
    data, meeting = tmp_path / "batches.pt", f"file://{tmp_path}/meeting"
    torch.save(batches, data)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), meeting, data],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert float(output) == pytest.approx(mean(JPEGLoss(), batches).item(), rel=1e-6)
