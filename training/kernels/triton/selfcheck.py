"""The Triton update against the reference on this very machine, before anything is trained with it.

What the kernels become is decided by a compiler and a device that no test here has seen. So each device, with each
version of torch, Triton and these files, shows once that its results are the reference's; and so for each width of
critic, since another width is compiled anew. What is checked is what training will do: an update replayed from a CUDA
graph, where one can be captured. A pass is remembered in the user's cache folder; a failure is not, since installing a
compiler may cure it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses.architecture import SLOPE
from task_losses.files import write_file
from training.adam import adam
from training.cache import kernel_cache
from training.kernels import reference
from training.kernels.reference import CriticGradients
from training.kernels.triton.configs import MOST_CHANNELS, architecture, supported
from training.kernels.triton.optional import TRITON_INSTALLED
from training.networks import Discriminator
from training.objectives import Objective, spectrally_normalised

# One size at which no activation of the critic is so near LeakyReLU's kink, and no score so near the hinge's, that
# rounding could move it across, judged strictly; and one that gives every program several tiles, where a few may, which
# moves a gradient by about 0.1 %.
_SMALL, _LARGE = (13, 21), (90, 110)
_STRICT, _LOOSE = 1e-4, 2e-2
_CASES = ((_SMALL, _STRICT), (_LARGE, _LOOSE))
_CLEARANCE = 2e-5  # from the kink; rounding to float32 moves an activation by a few 1e-6
_MIX, _PENALTY_WEIGHT = 0.4, 0.1
_LR, _BETAS = 1e-2, (0.5, 0.999)  # a step too many or too few moves the parameters by more than any bound above

_DEPENDS_ON = ("adam.py", "objectives.py", "kernels/operations.py")  # beside the files of this folder

Case = tuple[tuple[int, int], float]
# Makes one update of a critic by its optimizer, from real and fake (1, 3, H, W); returns the losses before it.
Update = Callable[[Discriminator, torch.optim.Adam, Tensor, Tensor, Objective], Sequence[Tensor]]


def check(device: torch.device, channels: Sequence[int], objective: Objective) -> str | None:
    """Why the Triton update must not be used on a device, or None if it agrees with the reference there.

    Takes about a second, and the compiler's time, on the first call for a device, its versions, a width and an
    objective.

    Args:
        channels: widths of the critics.
        objective: of the critics; with what weight it has a penalty does not matter.
    """
    if not TRITON_INSTALLED:
        return "triton is not installed; it comes with torch's CUDA builds, or from `pip install triton`"
    if device.type != "cuda":
        return f"the device is {device}, not a CUDA one"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not supported(architecture(device)):
        return f"compute capability {architecture(device) / 10} has no tiles here; 8.0 or later is needed"
    if max(channels) > MOST_CHANNELS:
        return f"the kernels take at most {MOST_CHANNELS} channels, the critic has {max(channels)}"
    path = kernel_cache() / "triton-selfcheck.json"
    objective = replace(objective, penalty_weight=_PENALTY_WEIGHT)
    for width in sorted(set(channels)):
        passed, key = _read(path), _key(device, width, objective)
        if key not in passed:
            complaint = disagreement(by_kernels, device, width, objective)
            if complaint is not None:
                return complaint
            _remember(path, [*passed, key])
    return None


def by_kernels(
    critic: Discriminator, optimizer: torch.optim.Adam, real: Tensor, fake: Tensor, objective: Objective
) -> Sequence[Tensor]:
    """The update that training makes: replayed from a graph, where one can be captured."""
    from training.kernels.triton.graph import CriticIteration

    images, _, height, width = real.shape
    iteration = CriticIteration([critic], [optimizer], images, (height, width), objective)
    if real.is_cuda:
        iteration.try_capture()
    return iteration([real], [fake], [_MIX])[0].unbind()


def by_reference(
    critic: Discriminator,
    optimizer: torch.optim.Adam,
    real: Tensor,
    fake: Tensor,
    objective: Objective,
    gradients: Callable[..., CriticGradients] = reference.critic_gradients,
) -> Sequence[Tensor]:
    """The same by a function like :func:`training.kernels.reference.critic_gradients`."""
    parameters = list(critic.parameters())
    result = gradients(parameters, real, fake, _MIX, objective)
    for parameter, gradient in zip(parameters, result.parameters, strict=True):
        parameter.grad = gradient
    norms = [module for module in critic.modules() if isinstance(module, nn.BatchNorm2d)]
    members = objective.kinds if objective.shared_norm else 1
    pixels = [(real.shape[2] - 2 * depth) * (real.shape[3] - 2 * depth) for depth in range(1, len(norms) + 1)]
    reference.update_running_statistics(norms, result.statistics, [members * len(real) * each for each in pixels])
    optimizer.step()
    return result.distance, result.penalty


def disagreement(
    update: Update, device: torch.device, width: int, objective: Objective, cases: Sequence[Case] = _CASES
) -> str | None:
    """Where an update in float32 differs from the reference in float64 by more than rounding, or None.

    Args:
        width: of the critic.
        cases: size of the images, and the largest relative error allowed.
    """
    for size, bound in cases:
        right = outcome(by_reference, size, width, objective, device, torch.float64)
        try:
            result = outcome(update, size, width, objective, device, torch.float32)
            error, name = worst(result, right)
        except Exception as problem_there:  # a compiler, driver or launch that fails is a reason like any other
            return f"the kernels do not run here: {type(problem_there).__name__}: {problem_there}"
        if not error <= bound:
            return (
                f"the kernels are wrong here: {name} differs from the reference by {error:.1e} of its size, allowed "
                f"{bound:.0e} ({width} channels, images {size[0]}x{size[1]}, {objective})"
            )
    return None


class Outcome(NamedTuple):
    """What a critic's first update leaves.

    Attributes:
        values: by name, what must be the reference's.
        parameters: all of them, in one row.
        stepped: what Adam, by itself, makes of the parameters before with the gradients that the update left. Its
            steps divide by the gradient's size, so two roundings of a gradient may give opposite ones.
    """

    values: dict[str, Tensor]
    parameters: Tensor
    stepped: Tensor


def outcome(
    update: Update,
    size: tuple[int, int],
    width: int,
    objective: Objective,
    device: torch.device,
    dtype: torch.dtype,
) -> Outcome:
    """Of an update of :func:`problem`, with running statistics that begin at 0."""
    start, real, fake = problem(size, width, objective)
    critic = Discriminator(width).to(device, dtype)
    parameters = list(critic.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
        for buffer in critic.buffers():
            buffer.zero_()
    expected = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    optimizer = adam(parameters, _LR, _BETAS)
    distance, penalty = update(critic, optimizer, real.to(device, dtype), fake.to(device, dtype), objective)

    values = {"the distance": distance, "the penalty": penalty}
    for index, (parameter, copy) in enumerate(zip(parameters, expected, strict=True)):
        assert parameter.grad is not None
        copy.grad = parameter.grad.clone()
        values[f"the gradient of parameter {index}"] = copy.grad
    for block, norm in enumerate(module for module in critic.modules() if isinstance(module, nn.BatchNorm2d)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            values[f"{name} of block {block}"] = norm.get_buffer(name).double()
    torch.optim.Adam(expected, lr=_LR, betas=_BETAS).step()
    updated, stepped = (nn.utils.parameters_to_vector(each).detach() for each in (parameters, expected))
    return Outcome(values, updated, stepped)


def problem(size: tuple[int, int], width: int, objective: Objective) -> tuple[list[Tensor], Tensor, Tensor]:
    """Parameters of a critic, and images (1, 3, H, W), in float64; the same on every call."""
    drawn = (_draw(size, width, seed) for seed in itertools.count())
    return next(each for each in drawn if size != _SMALL or _clear_of_kinks(*each, objective))


def _draw(size: tuple[int, int], width: int, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    parameters = []
    for name, parameter in Discriminator(width).named_parameters():
        if parameter.dim() == 4:
            fan = parameter[0].numel()
            parameters.append(normal(parameter.shape) / fan**0.5)
        else:
            parameters.append(normal(parameter.shape) * 0.3 + ("norm.weight" in name))
    real, fake = (torch.rand(1, 3, *size, generator=draws, dtype=torch.float64) for _ in range(2))
    return parameters, real, 0.5 * fake.square()


def _clear_of_kinks(parameters: list[Tensor], real: Tensor, fake: Tensor, objective: Objective) -> bool:
    if objective.spectral_norm:
        numbered = {str(index): parameter for index, parameter in enumerate(parameters)}
        parameters = list(spectrally_normalised(numbered).values())
    *blocks, last, bias = parameters
    kinds = [real, fake, _MIX * real + (1 - _MIX) * fake][: objective.kinds]
    for x in [torch.cat(kinds)] if objective.shared_norm else kinds:
        for weight, scale, shift in zip(*(blocks[i::3] for i in range(3)), strict=True):
            u = F.batch_norm(F.conv2d(x, weight), None, None, scale, shift, training=True)
            if u.abs().min() < _CLEARANCE:
                return False
            x = F.leaky_relu(u, SLOPE)
        scores = F.conv2d(x, last, bias)
        if objective.kind == "hinge" and (scores.abs() - 1).abs().min() < _CLEARANCE:
            return False
    return True


def worst(result: Outcome, right: Outcome) -> tuple[float, str]:
    """The largest relative error of a result, by Euclidean norm, and of what it is; NaN counts as the largest.

    What must be 0 has an absolute one.
    """
    errors = [(_relative(result.values[name], value), name) for name, value in right.values.items()]
    errors.append((_relative(result.parameters, result.stepped), "what Adam made of the parameters"))
    return max(errors, key=lambda error: float("inf") if error[0] != error[0] else error[0])


def _relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a.double() - b) / (torch.linalg.vector_norm(b).item() or 1))


def _key(device: torch.device, width: int, objective: Objective) -> str:
    """Everything that a pass depends on."""
    import triton

    folder, training = Path(__file__).parent, Path(__file__).parents[2]
    sources = [*sorted(folder.glob("*.py")), *(training / name for name in _DEPENDS_ON)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    name, capability = torch.cuda.get_device_name(device), architecture(device)
    return (
        f"{name}, {capability / 10}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"triton {triton.__version__}, files {digest}, {width} channels, {objective}"
    )


def _read(path: Path) -> list[str]:
    """What has passed; nothing if the file is missing or damaged, which costs another second."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return [key for key in content if isinstance(key, str)] if isinstance(content, list) else []


def _remember(path: Path, passed: list[str]) -> None:
    """Keeps the passes; a cache that cannot be written only costs the next start a second."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(passed, indent=1).encode())
