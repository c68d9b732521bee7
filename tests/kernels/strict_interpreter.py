"""A stricter Triton interpreter, for tests.

Triton's interpreter runs kernels on the CPU, one program after the other, but it forgives what a GPU does not and gets
some arithmetic wrong. After :func:`install`, in a process that was started with ``TRITON_INTERPRET=1``:

- bfloat16 arithmetic, dots and casts are right (upstream computes on the raw 16 bits and truncates casts);
  reductions, scans and atomics of bfloat16 are refused;
- ``tl.dot(..., input_precision="tf32")`` rounds float32 operands to tf32, as the tensor cores do;
- each unmasked lane of a load, store or atomic must lie inside the very tensor argument that its pointer comes from;
- an element that one program writes may not be touched by another program of the same launch, atomics with atomics
  excepted, nor be written twice by one store;
- programs run in a shuffled order.

A violation raises ``triton.runtime.errors.InterpreterError`` at the launch. This module replaces methods of
Triton's interpreter, so it refuses versions that it was not tested with (``known_triton.py``).
"""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
import triton.language as tl
from known_triton import unknown
from triton.runtime import interpreter

Builder = interpreter.InterpreterBuilder
TensorHandle = interpreter.TensorHandle
_launch: Launch | None = None


def install() -> None:
    """Makes the interpreter of this process strict, once and for all.

    Raises:
        RuntimeError: an untested version of Triton, or ``TRITON_INTERPRET`` came too late.
    """
    if complaint := unknown():
        raise RuntimeError(complaint)
    if not isinstance(tl.sum, interpreter.InterpretedFunction):
        raise RuntimeError("Triton was imported without TRITON_INTERPRET=1: set it before the process starts")
    if getattr(Builder, "strict", False):
        return
    Builder.strict = True
    _read_scalars()
    _correct_bfloat16()
    _round_tf32()
    _watch_memory()
    _shuffle_programs()


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _read_scalars() -> None:
    """Triton before 3.7 makes Python's integers from arrays of one element in a way that NumPy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor, *scope):
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _is_bfloat16(value) -> bool:
    """Comparisons keep their operands' type but hold booleans, so the data must be looked at too."""
    return isinstance(value, TensorHandle) and value.dtype == tl.bfloat16 and value.data.dtype == np.uint16


def _widen(value):
    if not _is_bfloat16(value):
        return value
    return TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _narrow(data: np.ndarray) -> TensorHandle:
    """Rounds to bfloat16, to nearest, ties to even."""
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return TensorHandle(np.where(np.isnan(data), np.uint16(0x7FC0), rounded).reshape(data.shape), tl.bfloat16)


def _correct_bfloat16() -> None:
    def through_float32(method):
        @functools.wraps(method)
        def corrected(self, *arguments):
            if not any(map(_is_bfloat16, arguments)):
                return method(self, *arguments)
            result = method(self, *map(_widen, arguments)).data
            return TensorHandle(result, tl.bfloat16) if result.dtype == np.bool_ else _narrow(result)

        return corrected

    for name in ("binary_op", "unary_op", "ternary_op", "create_fma", "create_rsqrt", "create_erf"):
        setattr(Builder, name, through_float32(getattr(Builder, name)))

    Builder.get_bf16 = lambda self, value: _narrow(np.array([value], np.float32))  # Triton before 3.9 has none
    cast, convert, dot = Builder.cast_impl, Builder.create_fp_to_fp, Builder.create_dot

    def corrected_cast(self, source, target):
        if source.dtype.scalar == target.scalar:
            return source
        wide = _widen(source)
        if target.scalar == tl.bfloat16:
            return _narrow(wide.data.astype(np.float32))
        return wide if wide.dtype == target.scalar else cast(self, wide, target)

    def corrected_convert(self, source, target, rounding):
        if tl.bfloat16 in (source.dtype.scalar, target.scalar) and rounding != interpreter._ir.ROUNDING_MODE.RTZ:
            return corrected_cast(self, source, target)
        return convert(self, source, target, rounding)

    def corrected_dot(self, a, b, *rest):
        return dot(self, _widen(a), _widen(b), *rest)

    Builder.cast_impl, Builder.create_fp_to_fp, Builder.create_dot = corrected_cast, corrected_convert, corrected_dot

    def refuse(owner, name, of):
        method = getattr(owner, name)

        @functools.wraps(method)
        def guarded(self, *arguments):
            if any(map(_is_bfloat16, of(arguments))):
                raise TypeError(
                    f"{name} of bfloat16, which this interpreter computes wrongly: use .to(tl.float32) first"
                )
            return method(self, *arguments)

        setattr(owner, name, guarded)

    for operation in (interpreter.ReduceOps, interpreter.ScanOps):
        refuse(operation, "apply_impl", lambda arguments: (tensor.handle for tensor in arguments[0]))
    refuse(Builder, "create_atomic_rmw", lambda arguments: arguments)


def _round_tf32() -> None:
    dot = Builder.create_dot

    def rounded(handle):
        """To 10 bits of mantissa, to nearest, ties away from zero, as cvt.rna.tf32.f32 does."""
        if handle.dtype.scalar != tl.float32:
            return handle
        bits = np.ascontiguousarray(handle.data).view(np.uint32)
        return TensorHandle(((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32), tl.float32)

    def tf32_dot(self, a, b, d, precision, *rest):
        if precision == interpreter._ir.INPUT_PRECISION.TF32:
            a, b = rounded(a), rounded(b)
        return dot(self, a, b, d, precision, *rest)

    Builder.create_dot = tf32_dot


# --- memory -----------------------------------------------------------------------------------------------------------


class _Argument(tl.pointer_type):
    """The type of an argument's pointers, which arithmetic hands on: so an access knows where its pointer is from."""

    def __init__(self, plain: tl.pointer_type, tensor: torch.Tensor, memory: Memory) -> None:
        super().__init__(plain.element_ty, plain.address_space, plain.const)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self.label = f"the {str(tensor.dtype).removeprefix('torch.')} argument of shape {tuple(tensor.shape)}"
        self.start = tensor.data_ptr()
        self.end = self.start + (extent if tensor.numel() else 0) * tensor.element_size()
        self.memory = memory


class Memory:
    """Who read, wrote and atomically updated each byte of one storage, however many arguments are views of it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.base = storage.data_ptr()
        self.users = {kind: np.full(storage.nbytes(), NOBODY, np.int32) for kind in CONFLICTS}


NOBODY, SEVERAL = -1, -2
# What may not meet, on one element, which access of another program.
CONFLICTS = {"read": ("written", "updated"), "written": ("read", "written", "updated"), "updated": ("read", "written")}


class Launch:
    """The program that runs and the memory of its launch."""

    def __init__(self) -> None:
        self.program = 0
        self.where = (0, 0, 0)
        self.memories: dict[int, Memory] = {}

    def admit(self, plain: tl.pointer_type, tensor: torch.Tensor) -> _Argument:
        storage = tensor.untyped_storage()
        return _Argument(plain, tensor, self.memories.setdefault(storage.data_ptr(), Memory(storage)))

    def access(self, kind: str, pointers: TensorHandle, mask: TensorHandle) -> None:
        """Checks one load ("read"), store ("written") or atomic ("updated") of the program, and records it.

        Raises:
            IndexError: a lane outside the argument that its pointer comes from.
            RuntimeError: another program touches the same element, so that the order of programs decides.
            TypeError: a pointer that comes from no argument.
        """
        addresses, active = np.broadcast_arrays(pointers.data, mask.data)
        addresses = addresses[active.astype(bool)].astype(np.int64)
        if addresses.size == 0:
            return
        argument = pointers.dtype
        if not isinstance(argument, _Argument):
            raise TypeError(
                f"a pointer that no tensor argument gave is {kind}: use the arguments' pointers, without casts"
            )
        size = max(1, argument.element_ty.primitive_bitwidth // 8)
        outside = (addresses < argument.start) | (addresses + size > argument.end)
        if outside.any():
            raise IndexError(
                f"out of bounds: {outside.sum()} of {addresses.size} lanes {kind} outside {argument.label}, the first "
                f"{(addresses[outside][0] - argument.start) // size} elements from its start, in program {self.where}"
            )
        users, elements = argument.memory.users, addresses - argument.memory.base
        if kind == "written" and np.unique(elements).size != elements.size:
            raise RuntimeError(f"race: one store writes an element of {argument.label} twice, in program {self.where}")
        # The first and the last byte stand for the element: views of other element types overlap in one of them.
        for place in {0, size - 1}:
            for other in CONFLICTS[kind]:
                before = users[other][elements + place]
                if ((before != NOBODY) & (before != self.program)).any():
                    raise RuntimeError(
                        f"race: program {self.where} has {kind} an element of {argument.label} that another program "
                        f"has {other} in the same launch"
                    )
            before = users[kind][elements + place]
            alone = (before == NOBODY) | (before == self.program)
            users[kind][elements + place] = np.where(alone, self.program, SEVERAL)


def _watch_memory() -> None:
    begin, convert = interpreter.GridExecutor._init_args_hst, interpreter._implicit_cvt
    load, store = Builder.create_masked_load, Builder.create_masked_store
    update, exchange = Builder.create_atomic_rmw, Builder.create_atomic_cas

    def begin_launch(self, *arguments):
        global _launch
        _launch = Launch()
        return begin(self, *arguments)

    def admit(value):
        converted = convert(value)
        if hasattr(value, "data_ptr"):
            converted.handle.dtype = _launch.admit(converted.handle.dtype, interpreter._unwrap_tensor(value))
        return converted

    def watched_load(self, pointers, mask, *rest):
        _launch.access("read", pointers, mask)
        return load(self, pointers, mask, *rest)

    def watched_store(self, pointers, value, mask, *rest):
        _launch.access("written", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def watched_update(self, operation, pointers, value, mask, *rest):
        _launch.access("updated", pointers, mask)
        return update(self, operation, pointers, value, mask, *rest)

    def watched_exchange(self, pointers, *rest):
        _launch.access("updated", pointers, TensorHandle(np.ones_like(pointers.data, dtype=bool), tl.int1))
        return exchange(self, pointers, *rest)

    interpreter.GridExecutor._init_args_hst, interpreter._implicit_cvt = begin_launch, admit
    Builder.create_masked_load, Builder.create_masked_store = watched_load, watched_store
    Builder.create_atomic_rmw, Builder.create_atomic_cas = watched_update, watched_exchange


# --- order ------------------------------------------------------------------------------------------------------------


def _shuffle_programs() -> None:
    set_dimensions, set_index = Builder.set_grid_dim, Builder.set_grid_idx

    def draw_order(self, x, y, z):
        set_dimensions(self, x, y, z)
        order = list(range(x * y * z))
        random.Random(0).shuffle(order)
        # Never the natural order, however few the programs.
        self.order = order if order != sorted(order) else order[::-1]

    def next_program(self, x, y, z):
        _, height, depth = self.grid_dim
        program = self.order[(x * height + y) * depth + z]
        where = (program // (height * depth), program // depth % height, program % depth)
        set_index(self, *where)
        _launch.program, _launch.where = program, where

    Builder.set_grid_dim, Builder.set_grid_idx = draw_order, next_program
