"""Whatever computes the critic's steps, the loss that comes out is the same within the noise of training."""

import pytest
import torch

from task_losses import TaskLoss
from training import export, train
from training.images import open_image
from training.objectives import Objective
from training.run_folder import RunFolder
from training.updates import choose

SMALL = ["--task", "denoise", "--scales", "4", "--longest-side", "64", "--channels", "16", "--steps", "60"]
RECIPES = {
    "wgan-gp": ["--objective", "wgan-gp", "--upscale", "--image-share", "0.5"],
    "hinge": [],
}


def trained(folder, recipe, kernels, seed):
    flags = [*SMALL, *RECIPES[recipe], "--kernels", kernels, "--seed", str(seed)]
    assert train.main([*flags, "--out", str(folder)]) == 0
    return TaskLoss(export.export(RunFolder(folder)))


def values(loss):
    """Of three changes of a photograph that no critic has seen."""
    image = open_image("skimage:astronaut")[0][..., :128, :128]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    return torch.stack([loss(changed, image) for changed in (image + 0.1 * noise, blurred, 0.9 * image)])


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["reference", "native"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_differ_less_between_back_ends_than_between_seeds(tmp_path, recipe, kernels):
    try:
        choose(kernels, torch.device("cpu"), (16,), Objective())
    except ValueError as reason:
        pytest.skip(str(reason))
    plain, same, other = (
        values(trained(tmp_path / f"{name}-{seed}", recipe, name, seed))
        for name, seed in (("autograd", 0), (kernels, 0), ("autograd", 1))
    )
    between_back_ends, between_seeds = (same / plain - 1).abs().max().item(), (other / plain - 1).abs().max().item()
    assert between_back_ends < min(0.1, between_seeds)
