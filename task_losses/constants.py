"""Tensors that follow from sizes or from frozen weights: made once, kept as long as they are of use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

LIMIT = 32 * 2**20  # bytes of all constants by size together


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Constant = TypeVar("Constant", bound=Sized)
Value = TypeVar("Value")


class BySize:
    """Constants that follow from sizes, dtype and device. Those not used for longest go first.

    What a CUDA graph is captured with stays, because the graph reads it again at each replay.

    Args:
        limit: bytes that they may take together, without those of captured graphs.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._captured: dict[Hashable, Any] = {}
        self._lock = Lock()  # DataParallel computes in threads

    def get(self, key: Hashable, make: Callable[[], Constant]) -> Constant:
        """The constant of a key. ``make`` computes it on the CPU in any case, in float64, and moves it then."""
        if not keeps():
            return make()
        with self._lock:
            kept: Constant | None = self._captured.get(key, self._kept.get(key))
            if kept is not None and key in self._kept:
                self._kept.move_to_end(key)
        if kept is None:
            # A tensor born in inference mode could not serve a later training step.
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                kept = make()
            with self._lock:
                self._kept[key] = kept
                while self.nbytes > self.limit and len(self._kept) > 1:
                    self._kept.popitem(last=False)
        if _capturing():
            with self._lock:
                self._captured[key] = kept
                self._kept.pop(key, None)
        return kept

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes, without what captured graphs hold."""
        return sum(constant.nbytes for constant in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept) + len(self._captured)


class ByWeights:
    """Values that follow from tensors of a module: made anew when one is replaced or written to.

    They live beside the module, not in it, so that neither copies nor files of it hold them, and as long as it.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[torch.nn.Module, dict[Hashable, tuple[Any, Any]]] = WeakKeyDictionary()

    def get(self, owner: torch.nn.Module, key: Hashable, sources: Sequence[Tensor], make: Callable[[], Value]) -> Value:
        if not keeps() or any(source.is_inference() for source in sources):
            return make()
        state = [(source, source._version) for source in sources]
        kept = self._kept.setdefault(owner, {})
        if key in kept:
            before, value = kept[key]
            if all(a is b and m == n for (a, m), (b, n) in zip(before, state, strict=True)):
                found: Value = value
                return found
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        kept[key] = (state, made)
        return made


def _capturing() -> bool:
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and torch.cuda.is_current_stream_capturing()


def keeps() -> bool:
    """Whether a tensor made now can serve later: not one that is traced, or that a mode makes without data."""
    return not torch.compiler.is_compiling() and type(torch.empty(0, device="cpu")) is Tensor
