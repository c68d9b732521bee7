"""Writes files as torch did before 1.6, in the layout of the authors' releases, for testing their reader."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.bench.authors import AuthorsDiscriminator, Block
from training.legacy_pickle import MAGIC, PROTOCOL, Node

SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
HOOKS = ("backward_hooks", "forward_hooks", "forward_pre_hooks", "state_dict_hooks", "load_state_dict_pre_hooks")


NAMES = {AuthorsDiscriminator: "WDiscriminator", Block: "ConvBlock"}  # in the module SinGAN.models


def legacy_parts(content: Any) -> list[bytes]:
    """The five pickles and the raw storages of a file that holds ``content``."""
    with _renamed():
        stream = io.BytesIO()
        pickler = _Pickler(stream)
        pickler.dump(content)
    keys = list(pickler.storages)
    raw = b"".join(
        tensor.numel().to_bytes(8, "little") + tensor.numpy().tobytes() for tensor in pickler.storages.values()
    )
    return [_dump(MAGIC), _dump(PROTOCOL), _dump(SYSTEM), stream.getvalue(), _dump(keys), raw]


def legacy_file(discriminators: Sequence[nn.Module]) -> bytes:
    """A file like the authors': a list of whole discriminators in evaluation mode."""
    return b"".join(legacy_parts(list(discriminators)))


def state_dict(node: Node, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a module that the reader has read, under the names that its module gives them."""
    result = {f"{prefix}{k}": v for kind in ("_parameters", "_buffers") for k, v in node.state[kind].items()}
    for name, child in node.state["_modules"].items():
        result |= state_dict(child, f"{prefix}{name}.")
    return result


def _dump(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=2)
        self.storages: dict[str, Tensor] = {}
        self.classes: set[type] = set()

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, nn.Module) and value not in self.classes:
            self.classes.add(value)  # with its source at its first mention, and plainly from then on
            return ("module", value, "models.py", "class source code")
        if isinstance(value, _Storage):
            self.storages[value.key] = value.tensor
            kind = {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage}[value.tensor.dtype]
            return ("storage", kind, value.key, "cuda:0", value.tensor.numel(), None)
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return copyreg.__newobj__, (type(value),), _old_state(value)  # type: ignore[attr-defined]
        if isinstance(value, nn.Parameter):
            return torch._utils._rebuild_parameter, (value.data, value.requires_grad, OrderedDict())
        if isinstance(value, Tensor):
            flat = _Storage(str(1000 + len(self.storages)), value.detach().contiguous().flatten())
            arguments: tuple[Any, ...] = (
                flat,
                0,
                tuple(value.shape),
                value.contiguous().stride(),
                False,
                OrderedDict(),
            )
            return torch._utils._rebuild_tensor_v2, arguments
        return NotImplemented


class _Storage:
    def __init__(self, key: str, tensor: Tensor) -> None:
        self.key, self.tensor = key, tensor


def _old_state(module: nn.Module) -> dict[str, Any]:
    """The attributes that a module had when the authors saved theirs, and its plain ones."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str, tuple, list, Tensor))}
    state: dict[str, Any] = {key: value for key, value in plain.items() if not key.startswith("_")}
    state |= {f"_{name}": OrderedDict(getattr(module, f"_{name}")) for name in HOOKS}
    children = {"LeakyRelu" if name == "activation" else name: child for name, child in module.named_children()}
    state |= {"_parameters": OrderedDict(module._parameters), "_buffers": OrderedDict(module._buffers)}
    return state | {"_modules": OrderedDict(children)}


@contextmanager
def _renamed() -> Iterator[None]:
    """Our classes under the names that the authors' have: pickle looks them up and writes them."""
    modules = {"SinGAN": types.ModuleType("SinGAN"), "SinGAN.models": types.ModuleType("SinGAN.models")}
    originals = {cls: (cls.__module__, cls.__qualname__) for cls in NAMES}
    for cls, name in NAMES.items():
        cls.__module__, cls.__qualname__ = "SinGAN.models", name
        setattr(modules["SinGAN.models"], name, cls)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for cls, original in originals.items():
            cls.__module__, cls.__qualname__ = original
