"""The released weights are what the manifest says, and each has learnt its own task's artefacts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss
from task_losses.weights import manifest, serialize_weights
from training.bench.reaction import TASKS, artefacts, at_one_size, photographs, random_losses, reactions
from training.config import Config

LOSSES = {"sr": SRLoss, "denoise": DenoiseLoss, "jpeg": JPEGLoss}
WEIGHTS = Path(__file__).parents[1] / "task_losses" / "weights"


@pytest.fixture(scope="module")
def measured():
    """Reactions of the released losses, and of networks of the same shape with random weights."""
    images = photographs(side=160)
    released = {task: reactions(kind(), images) for task, kind in LOSSES.items()}
    return released, [reactions(loss, images) for loss in random_losses(5)]


@pytest.mark.parametrize("task", TASKS)
def test_each_loss_reacts_more_to_its_own_artefacts_than_random_networks_do(measured, task):
    released, random = measured
    assert released[task][task] > sum(row[task] for row in random) / len(random)


@pytest.mark.parametrize("task", TASKS)
def test_the_losses_differ(task):
    """Compared by how they rank the same errors: their gradients point different ways."""
    image = photographs()[0][..., :96, :96]
    for artefact in artefacts(image).values():
        gradients = []
        for kind in LOSSES.values():
            pred = at_one_size(image, artefact).requires_grad_()
            kind()(pred, image).backward()
            gradients.append(pred.grad.flatten())
        own = list(LOSSES).index(task)
        for other in {0, 1, 2} - {own}:
            assert torch.cosine_similarity(gradients[own], gradients[other], dim=0) < 0.95


@pytest.mark.parametrize("task", TASKS)
def test_the_file_is_the_manifests(task):
    entry = manifest()["weights"][task]
    loss = LOSSES[task]()
    data = (WEIGHTS / entry["filename"]).read_bytes()
    assert (loss.weights_sha256, len(data)) == (entry["sha256"], entry["size"])
    assert loss.weights_info["task"] == task
    for key in ("architecture", "image", "code_commit", "versions"):
        assert loss.weights_info[key] == entry[key]
    # Weights of a tree with uncommitted changes could not be made again.
    assert len(entry["code_commit"]) == 40


@pytest.mark.parametrize("task", TASKS)
def test_saving_the_tensors_again_gives_the_same_bytes(task):
    from task_losses.weights import embedded_weights

    weights = embedded_weights(task)
    data = (WEIGHTS / manifest()["weights"][task]["filename"]).read_bytes()
    assert serialize_weights(weights.tensors, weights.architecture, weights.info) == data


@pytest.mark.parametrize("task", TASKS)
def test_the_image_is_free_and_the_cost_known(task):
    entry = manifest()["weights"][task]
    assert entry["image"]["name"] == "skimage:chelsea"
    assert "CC0" in entry["image"]["licence"]
    assert 0 < entry["cost"]["seconds"] < 600


@pytest.mark.parametrize("task", TASKS)
def test_the_command_gives_the_recorded_settings(task, tmp_path):
    entry = manifest()["weights"][task]
    command = [sys.executable, *shlex.split(entry["command"])[1:], "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=WEIGHTS.parents[1])
    recorded = LOSSES[task]().weights_info["config"]
    assert Config.from_dict(json.loads(done.stdout)) == Config.from_dict(recorded)


@pytest.mark.slow  # minutes: trains a loss anew
@pytest.mark.parametrize("task", TASKS)
def test_the_command_gives_the_released_weights(task, tmp_path):
    """To rounding: other processors and torch versions sum in another order, and training amplifies that."""
    from training import export, train
    from training.run_folder import RunFolder

    flags = shlex.split(manifest()["weights"][task]["command"])[3:]
    assert train.main([*flags, "--out", str(tmp_path)]) == 0
    again = TaskLoss(export.export(RunFolder(tmp_path)))
    images = photographs()
    first, second = reactions(LOSSES[task](), images), reactions(again, images)
    assert second[task] == pytest.approx(first[task], rel=0.15)
