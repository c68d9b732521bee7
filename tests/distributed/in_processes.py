"""What one of several processes does; test_distributed.py starts them.

    torchrun --nproc-per-node N in_processes.py FOLDER

Each process computes the truth by itself, as one process with the whole batch, and compares what it got with the
others. It writes FOLDER/RANK.json: case -> "", or why it was skipped, or what went wrong.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from task_losses import JPEGLoss

PER_PROCESS = 2  # images
ROUNDING = 1e-5  # of the largest number
Case = Callable[[Path], None]
CASES: dict[str, Case] = {}


def case(check: Case) -> Case:
    CASES[check.__name__] = check
    return check


class Inside(nn.Module):
    """A network that computes its own loss, as a wrapped training step does."""

    def __init__(self, loss: bool = True) -> None:
        super().__init__()
        self.network = network()
        if loss:
            self.loss = JPEGLoss()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.loss(self.network(image), target)
        return value


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    """The whole batch: the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    count = PER_PROCESS * dist.get_world_size()
    return torch.rand(count, 3, 40, 36, generator=generator), torch.rand(count, 3, 40, 36, generator=generator)


def mine(images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    rank = dist.get_rank()
    part = slice(PER_PROCESS * rank, PER_PROCESS * (rank + 1))
    return images[0][part], images[1][part]


def truth(*batches: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Gradients of one process that sees whole batches, added up over them."""
    model, loss = network(), JPEGLoss()
    for image, target in batches:
        loss(model(image), target).backward()
    return gradients(model)


def gradients(model: nn.Module) -> list[Tensor]:
    found = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        whole = parameter.grad
        found.append(whole.full_tensor() if hasattr(whole, "full_tensor") else whole)
    return found


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        error, largest = (one - other).abs().max().item(), other.abs().max().item()
        assert one.dtype == other.dtype
        assert error <= ROUNDING * largest, f"{error} of {largest}"


def untouched(loss: nn.Module) -> None:
    for found, original in zip(loss.buffers(), JPEGLoss().buffers(), strict=True):
        assert torch.equal(found, original)


@case
def inside_ddp(folder: Path) -> None:
    wrapped = DistributedDataParallel(Inside())
    wrapped(*mine(batch())).backward()
    same(gradients(wrapped.module.network), truth(batch()))
    untouched(wrapped.module.loss)


@case
def outside_of_ddp_nothing_of_it_is_synchronised(folder: Path) -> None:
    wrapped, loss = DistributedDataParallel(network()), JPEGLoss()
    image, target = mine(batch())
    loss(wrapped(image), target).backward()
    same(gradients(wrapped.module), truth(batch()))
    assert not wrapped.modules_buffers


@case
def gradients_accumulated_over_three_batches(folder: Path) -> None:
    wrapped = DistributedDataParallel(Inside())
    batches = [batch(seed) for seed in (1, 2, 3)]
    for index, whole in enumerate(batches):
        with nullcontext() if index == 2 else wrapped.no_sync():
            wrapped(*mine(whole)).backward()
    same(gradients(wrapped.module.network), truth(*batches))


@case
def ddp_with_static_graph_and_gradients_as_views(folder: Path) -> None:
    wrapped = DistributedDataParallel(Inside(), static_graph=True, gradient_as_bucket_view=True)
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(*mine(batch())).backward()
    same(gradients(wrapped.module.network), truth(batch()))


@case
def an_average_of_weights(folder: Path) -> None:
    """EMA of a module that holds the loss: the network's weights are averaged, the loss stays as it is."""
    wrapped = DistributedDataParallel(Inside())
    averaged = AveragedModel(wrapped.module, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    alone = network()
    expected = [parameter.detach().clone() for parameter in alone.parameters()]
    loss, alone_optimizer = JPEGLoss(), torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(3):
        image, target = batch(step)
        for model, optimiser in ((wrapped, optimizer), (alone, alone_optimizer)):
            optimiser.zero_grad()
            (loss(alone(image), target) if model is alone else wrapped(*mine((image, target)))).backward()
            optimiser.step()
        averaged.update_parameters(wrapped.module)
        now = [parameter.detach() for parameter in alone.parameters()]
        expected = now if step == 0 else [0.5 * a + 0.5 * b for a, b in zip(expected, now, strict=True)]
        expected = [tensor.clone() for tensor in expected]
    assert isinstance(averaged.module, Inside)
    same([parameter.detach() for parameter in averaged.module.network.parameters()], expected)
    untouched(averaged.module.loss)
    without = AveragedModel(Inside(loss=False))
    without.load_state_dict(averaged.state_dict(), strict=True)


@case
def converted_to_synchronised_batch_norm(folder: Path) -> None:
    """SyncBatchNorm itself needs a GPU; the conversion must find nothing in the loss."""
    model = Inside()
    model.network.append(nn.BatchNorm2d(3))
    kinds = [type(module) for module in model.loss.modules()]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.network[-1], nn.SyncBatchNorm)
    assert [type(module) for module in converted.loss.modules()] == kinds
    untouched(converted.loss)


@case
def fully_sharded_from_the_meta_device(folder: Path) -> None:
    fully_shard = fsdp2().fully_shard

    with torch.device("meta"):
        model = Inside()
    for part in (*model.network, model):
        fully_shard(part, mesh=mesh())
    model.to_empty(device="cpu")
    state = {f"network.{name}": tensor for name, tensor in network().state_dict().items()}
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
    model(*mine(batch())).backward()
    same(gradients(model.network), truth(batch()))
    untouched(model.loss)


@case
def fully_sharded_in_mixed_precision(folder: Path) -> None:
    """The truth: each process's part through a bfloat16 network by itself, its gradients averaged in float32."""
    fully_shard = fsdp2().fully_shard
    sharded, loss = network(), JPEGLoss()
    policy = fsdp2().MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(sharded, mesh=mesh(), mp_policy=policy)
    image, target = mine(batch())
    value = loss(sharded(image), target.bfloat16())
    value.backward()
    assert value.dtype == torch.float32

    parts = []
    for image, target in zip(*(images.split(PER_PROCESS) for images in batch()), strict=True):
        half = network().bfloat16()
        loss(half(image.bfloat16()), target.bfloat16()).backward()
        parts.append([gradient.float() for gradient in gradients(half)])
    same(gradients(sharded), [torch.stack(each).mean(dim=0) for each in zip(*parts, strict=True)])
    untouched(loss)


@case
def fully_sharded_with_the_loss_in_mixed_precision(folder: Path) -> None:
    """Sharding casts parameters. The loss has none, and keeps computing in float32 from what it is given."""
    fully_shard = fsdp2().fully_shard
    model = Inside()
    policy = fsdp2().MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mesh=mesh(), mp_policy=policy)
    value = model(*mine(batch()))
    value.backward()
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients(model.network))
    untouched(model.loss)


@case
def sharded_checkpoints_load_strictly_with_and_without_the_loss(folder: Path) -> None:
    fully_shard = fsdp2().fully_shard

    for there, here in ((True, False), (False, True)):
        path = folder / f"checkpoint-{there}"
        saved, other = Inside(loss=there), Inside(loss=here)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        for model in (saved, other):
            fully_shard(model, mesh=mesh())
        save({"model": get_model_state_dict(saved)}, checkpoint_id=path)
        state = {"model": get_model_state_dict(other)}
        load(state, checkpoint_id=path)
        set_model_state_dict(other, state["model"])  # strict by default
        read = get_model_state_dict(other, options=StateDictOptions(full_state_dict=True)).values()
        same([tensor for tensor in read if isinstance(tensor, Tensor)], list(network().state_dict().values()))
        assert not [name for name in state["model"] if "loss" in name]


@case
def wrapped_checkpoints_load_strictly_with_and_without_the_loss(folder: Path) -> None:
    wrapped = DistributedDataParallel(Inside())
    Inside(loss=False).load_state_dict(wrapped.module.state_dict(), strict=True)
    wrapped.load_state_dict({f"module.network.{name}": t for name, t in network().state_dict().items()}, strict=True)


@case
def sharded_in_the_older_way(folder: Path) -> None:
    wrap = fsdp2().FullyShardedDataParallel
    model = wrap(Inside(), device_id=torch.device("cpu"), use_orig_params=True)
    model(*mine(batch())).backward()
    with wrap.summon_full_params(model, with_grads=True):
        same(gradients(model.network), truth(batch()))
    untouched(model.loss)


@case
def copies_of_the_wrapped_module_compute_the_same(folder: Path) -> None:
    wrapped = DistributedDataParallel(Inside())
    image, target = mine(batch())
    assert torch.equal(copy.deepcopy(wrapped.module)(image, target), wrapped(image, target))


def mesh() -> Any:
    return dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))


class Skipped(Exception):
    """Says why a case cannot run here."""


def fsdp2() -> Any:
    if not hasattr(fsdp, "fully_shard"):
        raise Skipped("torch before 2.6 cannot shard on the CPU")
    return fsdp


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    outcome = {}
    for name, check in CASES.items():
        try:
            check(folder)
            outcome[name] = ""
        except Skipped as reason:
            outcome[name] = f"skipped: {reason}"
        except Exception:
            outcome[name] = traceback.format_exc()
        gc.collect()
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(outcome), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # What torch's threads do while the interpreter ends is no part of this test: at times one aborts it.
    os._exit(0)


if __name__ == "__main__":
    main()
