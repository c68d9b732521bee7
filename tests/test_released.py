"""The released weights are what the manifest says, and each has learnt its own task's artefacts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from task_losses import TaskLoss
from task_losses.losses import LOSSES
from task_losses.pyramid import resize
from task_losses.weights import manifest, serialize_weights
from training.bench.ablation.recognition import PHOTOGRAPHS, photographs, random_losses, recognition
from training.bench.study.ours import recipe_of
from training.builtin.codecs import jpeg
from training.config import INDIFFERENT, Config
from training.export import recommendation
from training.images import open_image
from training.scaling import examples_of

WEIGHTS = Path(__file__).parents[1] / "task_losses" / "weights"


@pytest.fixture(scope="module")
def images():
    """Photographs that no released weight was trained on."""
    return [open_image(name)[0] for name in PHOTOGRAPHS]


@pytest.mark.parametrize("task", LOSSES)
def test_each_critic_knows_its_own_distortion_on_other_photographs(images, task):
    recipe = recipe_of(LOSSES[task]())
    by_chance = [recognition(loss, recipe, images) for loss in random_losses(5)]
    assert sum(by_chance) / 5 < 0.7
    assert recognition(LOSSES[task](), recipe, images) > 0.9


@pytest.mark.parametrize("task", LOSSES)
def test_the_losses_differ(task):
    """Compared by how they rank the same errors: their gradients point different ways."""
    image = photographs()[0][..., :96, :96]
    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    for changed in (noisy, jpeg(image, 10), resize(resize(image, (48, 48)), (96, 96))):
        gradients = []
        for kind in LOSSES.values():
            pred = changed.clone().requires_grad_()
            kind()(pred, image).backward()
            assert pred.grad is not None
            gradients.append(pred.grad.flatten())
        own = list(LOSSES).index(task)
        for other in {0, 1, 2} - {own}:
            assert torch.cosine_similarity(gradients[own], gradients[other], dim=0) < 0.98


@pytest.mark.parametrize("task", LOSSES)
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


@pytest.mark.parametrize("task", LOSSES)
def test_the_manifest_recommends_the_weight_that_an_export_would_measure(task):
    """Files of v4 do not say it."""
    loss = LOSSES[task]()
    config = recipe_of(loss)
    *_, finest = examples_of(config)
    layers = [loss._weights.layers(scale) for scale in range(config.scales)]
    found, said = recommendation(layers, loss.architecture, config, finest), manifest()["weights"][task]
    assert found["weight"] == pytest.approx(said["weight_beside_l1"]["weight"], rel=0.05)
    assert found["measured_on"] == said["weight_beside_l1"]["measured_on"]


@pytest.mark.parametrize("task", LOSSES)
def test_saving_the_tensors_again_gives_the_same_bytes(task):
    from task_losses.weights import embedded_weights

    weights = embedded_weights(task)
    data = (WEIGHTS / manifest()["weights"][task]["filename"]).read_bytes()
    assert serialize_weights(weights.tensors, weights.architecture, weights.info) == data


@pytest.mark.parametrize("task", LOSSES)
def test_the_image_is_free_and_the_cost_known(task):
    entry = manifest()["weights"][task]
    assert entry["image"]["name"] == "skimage:chelsea"
    assert "CC0" in entry["image"]["licence"]
    assert 0 < entry["cost"]["seconds"] < 600


@pytest.mark.parametrize("task", LOSSES)
def test_the_command_gives_the_recorded_settings(task, tmp_path):
    entry = manifest()["weights"][task]
    command = [sys.executable, *shlex.split(entry["command"])[1:], "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=WEIGHTS.parents[1])
    recorded = LOSSES[task]().weights_info["config"]
    assert Config.from_dict(json.loads(done.stdout)) == Config.from_dict(recorded)
    assert not recorded.keys() & set(INDIFFERENT)  # the same bytes, wherever they were computed


@pytest.mark.slow  # minutes: trains a loss anew
@pytest.mark.parametrize("task", LOSSES)
def test_the_command_gives_the_released_weights(task, tmp_path):
    """To rounding: other processors and torch versions sum in another order, and training amplifies that."""
    from training import export, train
    from training.run_folder import RunFolder

    flags = shlex.split(manifest()["weights"][task]["command"])[2:]  # after python and the script
    assert train.main([*flags, "--out", str(tmp_path)]) == 0
    again = TaskLoss(export.export(RunFolder(tmp_path)))
    image = photographs()[0]
    blurred = resize(resize(image, (128, 128)), (256, 256))
    assert again(blurred, image).item() == pytest.approx(LOSSES[task]()(blurred, image).item(), rel=0.15)
