"""Reads files that ``torch.save`` wrote before torch 1.6 without unpickling them.

Such a file is five pickles (magic number, protocol, system, the saved object, the keys of its storages) followed by
the raw numbers. A pickle is a program that may call anything Python can import. This reader is no unpickler with a
filter: it walks over the opcodes itself, knows only the few that a saved network needs, and has nothing to call.
Classes come out as :class:`Node`, a name and a state; functions are names compared with the two that rebuild tensors.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from task_losses.texts import printable, shown

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {"torch.FloatStorage": torch.float32, "torch.LongStorage": torch.int64}
ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
MOST_AXES = 4  # of a tensor: a convolution's weights have four


class LegacyFormatError(ValueError):
    """The bytes are not what this reader takes. Nothing in them was run."""


@dataclass
class Node:
    """An instance of a class that was never imported.

    Attributes:
        name: full name of the class, as the file spells it.
        state: its attributes.
    """

    name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    """A name that the file wants to import. It stays a name."""

    name: str


def read_legacy(data: bytes, classes: Collection[str]) -> Any:
    """The object in a legacy torch file: lists, dicts, numbers, strings, tensors on the CPU, and nodes.

    Args:
        data: the whole file.
        classes: full names of the classes whose instances may appear; they are not imported.

    Raises:
        LegacyFormatError: another format, a damaged file, or one that asks for anything not named here.
    """
    if data.startswith(b"PK"):
        raise LegacyFormatError(
            "this is a zip archive, the format of torch 1.6 and later; expected the older format of five pickles. "
            "Save it again with torch.save(..., _use_new_zipfile_serialization=False)"
        )
    stream = io.BytesIO(data)
    try:
        return _read(stream, _Machine(classes, limit=len(data)))
    except LegacyFormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise LegacyFormatError(
            f"not a legacy torch file, or a damaged one, near byte {stream.tell()} of {len(data)}: "
            f"{type(error).__name__}: {printable(str(error), 300)}; download it again and compare its sha256"
        ) from error


def _read(stream: io.BytesIO, machine: _Machine) -> Any:
    magic, protocol, system = (machine.run(stream) for _ in range(3))
    if (
        magic != MAGIC
        or protocol != PROTOCOL
        or not isinstance(system, dict)
        or system.get("little_endian") is not True
    ):
        raise LegacyFormatError(
            f"expected the magic number {MAGIC:#x}, protocol {PROTOCOL} and a little-endian system, "
            f"found {shown(magic)}, {shown(protocol)}, {shown(system)}; this is not a legacy torch file"
        )
    result = machine.run(stream)
    keys = machine.run(stream)
    if (
        not isinstance(keys, list)
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(machine.storages)
    ):
        raise LegacyFormatError("the list of storages does not fit the tensors in the file; download the file again")
    for key in keys:
        storage = machine.storages[key]
        size = storage.numel() * storage.element_size()
        count = int.from_bytes(stream.read(8), "little")
        raw = stream.read(size)
        if count != storage.numel() or len(raw) != size:
            raise LegacyFormatError(
                f"storage {shown(key)} must hold {storage.numel()} numbers, found {count} in {len(raw)} of {size} "
                "bytes; the file is cut short or damaged: download it again"
            )
        if raw:
            storage.copy_(torch.frombuffer(bytearray(raw), dtype=storage.dtype))
    if rest := len(stream.read()):
        raise LegacyFormatError(f"{rest} bytes follow the last storage, expected none; download the file again")
    return result


class _Machine:
    """The part of the pickle machine that a saved network needs.

    Tensors are views of storages that exist from their first mention and are filled when their numbers are read.

    Args:
        classes: names that may be instantiated.
        limit: the storages may not need more bytes than this, the size of the file.
    """

    def __init__(self, classes: Collection[str], limit: int) -> None:
        self.storages: dict[str, Tensor] = {}
        self._classes = frozenset(classes)
        self._allowed = self._classes | set(STORAGES) | {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER}
        self._room = limit

    def run(self, stream: io.BytesIO) -> Any:
        """The object of the pickle at the stream's position; the stream then stands behind it."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for opcode, argument, position in pickletools.genops(stream):
            match opcode.name:
                case "PROTO" if argument == 2:
                    pass
                case "STOP":
                    (result,) = stack
                    return result
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                    stack.append(argument)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    items = [stack.pop() for _ in range(count)]
                    stack.append(tuple(reversed(items)))
                case "TUPLE":
                    items, stack = stack, marks.pop()
                    stack.append(tuple(items))
                case "APPENDS":
                    items, stack = stack, marks.pop()
                    _expect(stack[-1], list).extend(items)
                case "APPEND":
                    item = stack.pop()
                    _expect(stack[-1], list).append(item)
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    _set_items(stack[-1], items)
                case "SETITEM":
                    items = [stack.pop(), stack.pop()]
                    _set_items(stack[-1], items[::-1])
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(self._name(argument.replace(" ", ".")))
                case "BINPERSID":
                    stack.append(self._persistent(stack.pop()))
                case "NEWOBJ":
                    arguments = stack.pop()
                    stack.append(self._new(stack.pop(), arguments))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(self._rebuild(stack.pop(), arguments))
                case "BUILD":
                    state = stack.pop()
                    _expect(stack[-1], Node).state = _expect(state, dict)
                case _:
                    raise LegacyFormatError(
                        f"the opcode {opcode.name} ({shown(argument)}) at byte {position} is refused: "
                        "a saved network does not need it. Do not load this file by other means"
                    )
        raise AssertionError("pickletools ends every pickle with STOP or raises")

    def _name(self, name: str) -> _Global:
        if name not in self._allowed:
            raise LegacyFormatError(
                f"the file asks for {shown(name)}, which is refused: a file of discriminators needs only "
                f"{', '.join(sorted(self._allowed))}. Do not load this file by other means"
            )
        return _Global(name)

    def _persistent(self, identity: Any) -> _Global | Tensor:
        match identity:
            case ("module", _Global() as cls, str(), str()):  # the class's source code follows, of no interest
                return cls
            case ("storage", _Global(name), str(key), str(), int(count), None) if name in STORAGES:
                return self._storage(key, STORAGES[name], count)
        raise LegacyFormatError(f"unexpected persistent id {shown(identity)}; expected a class or a storage")

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self.storages:
            self._room -= count * dtype.itemsize
            if count < 0 or self._room < 0:
                raise LegacyFormatError(f"storage {shown(key)} of {shown(count)} numbers does not fit into the file")
            self.storages[key] = torch.zeros(count, dtype=dtype)
        storage = self.storages[key]
        if storage.dtype != dtype or storage.numel() != count:
            raise LegacyFormatError(f"storage {shown(key)} is declared twice, differently")
        return storage

    def _new(self, cls: Any, arguments: Any) -> Node:
        if isinstance(cls, _Global) and cls.name in self._classes and arguments == ():
            return Node(cls.name)
        raise LegacyFormatError(f"refused to make {shown(cls)} from {shown(arguments)}")

    def _rebuild(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case _Global(name="collections.OrderedDict"), ():
                return {}
            case (
                _Global(name="torch._utils._rebuild_tensor_v2"),
                (Tensor() as storage, int(offset), tuple(size), tuple(stride), bool(), {**hooks}),
            ) if not hooks:
                return _view(storage, offset, size, stride)
            case _Global(name="torch._utils._rebuild_parameter"), (Tensor() as tensor, bool(), {**hooks}) if not hooks:
                return tensor
        raise LegacyFormatError(f"refused to call {shown(function)} with {shown(arguments)}")


def _view(storage: Tensor, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
    """A contiguous tensor in a storage. Saved weights have no other layout."""
    fits = len(size) == len(stride) <= MOST_AXES
    if not fits or not all(type(number) is int and 0 <= number < 2**31 for number in (offset, *size, *stride)):
        raise LegacyFormatError(f"refused to make a tensor of shape {shown(size)}, strides {shown(stride)}")
    count = math.prod(size)
    expected = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    if offset + count > storage.numel() or stride != expected:
        raise LegacyFormatError(
            f"a tensor of shape {shown(size)}, strides {shown(stride)} at {offset} is not a contiguous part of its "
            f"storage of {storage.numel()} numbers"
        )
    return storage[offset : offset + count].view(size)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise LegacyFormatError(f"expected a {kind.__name__}, found {shown(value)}")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    keys = items[::2]
    if len(items) % 2 or not all(type(key) is str for key in keys):
        raise LegacyFormatError(f"expected names and values for a dict, found {shown(items)}")
    _expect(target, dict).update(zip(keys, items[1::2], strict=True))
