"""The strict interpreter catches planted bugs, and only bugs."""

import re

import pytest
import torch

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

pytestmark = pytest.mark.interpreter


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n if MASKED else i < i + 1
    tl.store(out + i, tl.load(x + i, mask=mask) * tl.load(y + i, mask=mask) + tl.load(x + i, mask=mask), mask=mask)


@triton.jit
def fill_kernel(out, first, BLOCK: tl.constexpr):
    tl.store(out + first + tl.arange(0, BLOCK), tl.zeros((BLOCK,), tl.float32))


@triton.jit
def same_place_kernel(out):
    tl.store(out, tl.program_id(0).to(tl.float32))


@triton.jit
def neighbour_kernel(x, out):
    p = tl.program_id(0)
    tl.store(x + p, tl.load(x + p) + 1)
    tl.store(out + p, tl.load(x + (p + 1) % tl.num_programs(0)))


@triton.jit
def last_block_kernel(partial, count, out, N: tl.constexpr):
    """The last program to arrive sums what the others left: right only with memory fences, and never deterministic."""
    p = tl.program_id(0)
    tl.store(partial + p, p.to(tl.float32))
    if tl.atomic_add(count, 1) == tl.num_programs(0) - 1:
        tl.store(out, tl.sum(tl.load(partial + tl.arange(0, N)), 0))


@triton.jit
def twice_kernel(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i // 2, i.to(tl.float32))


@triton.jit
def ticket_kernel(count, out):
    tl.store(out + tl.program_id(0), tl.atomic_add(count, 1))


@triton.jit
def accumulate_kernel(x, total, bins, BLOCK: tl.constexpr):
    v = tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(total, tl.sum(v, 0))
    tl.atomic_add(bins + tl.arange(0, BLOCK), v)


@triton.jit
def counter_read_kernel(count, out):
    p = tl.program_id(0)
    tl.atomic_add(count, 1.0)
    tl.store(out + p, tl.load(count))


@triton.jit
def cast_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty))


@triton.jit
def functions_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(out + i, tl.where(v > 0.5, tl.maximum(v * 0.25, v - 1.0), tl.abs(-v)))


@triton.jit
def sum_kernel(x, out, BLOCK: tl.constexpr):
    tl.store(out, tl.sum(tl.load(x + tl.arange(0, BLOCK)), 0))


@triton.jit
def dot_kernel(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    d = tl.dot(tl.load(a + m * K + k[None, :]), tl.load(b + k[:, None] * N + n), input_precision=PRECISION)
    tl.store(out + m * N + n, d)


@triton.jit
def strided_kernel(x, out, stride, M: tl.constexpr, N: tl.constexpr):
    """Reads one tensor in several programs, each writing its own rows: no bug."""
    p, n = tl.program_id(0), tl.arange(0, N)
    weights = tl.load(x + n)
    for row in range(M):
        r = p * M + row
        tl.store(out + r * stride + n, tl.load(x + r * N + n) * weights)


def random_values(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_catches_reads_beyond_the_end():
    x = random_values(250)
    with pytest.raises(
        InterpreterError, match=re.escape("6 of 64 lanes read outside the float32 argument of shape (250,)")
    ):
        add_kernel[(4,)](x, torch.zeros(256), torch.zeros(256), 250, 64, False)


def test_catches_writes_beyond_the_end():
    with pytest.raises(InterpreterError, match=r"out of bounds.*written outside"):
        fill_kernel[(1,)](torch.zeros(250), 0, 256)


def test_catches_writes_before_the_start():
    whole = torch.zeros(64)
    with pytest.raises(InterpreterError, match=r"3 of 16 lanes written outside.*-3 elements from its start"):
        fill_kernel[(1,)](whole[8:40], -3, 16)


def test_catches_a_pointer_that_strays_into_another_argument():
    """Both tensors are views of one memory, so every address belongs to some argument."""
    whole = torch.zeros(512)
    with pytest.raises(InterpreterError, match=r"read outside the float32 argument of shape \(250,\)"):
        add_kernel[(4,)](whole[:250], whole[:256], torch.zeros(256), 250, 64, False)


def test_masked_lanes_may_lie_anywhere():
    x, y, out = random_values(250), random_values(250), torch.zeros(250)
    add_kernel[(4,)](x, y, out, 250, 64, True)
    assert torch.equal(out, x * y + x)


def test_catches_programs_that_write_one_place():
    with pytest.raises(InterpreterError, match=r"race.*has written an element.*another program has written"):
        same_place_kernel[(2,)](torch.zeros(1))


def test_one_program_may_write_a_place_again():
    out = torch.zeros(1)
    same_place_kernel[(1,)](out)
    same_place_kernel[(1,)](out)  # and another launch


def test_catches_reading_what_another_program_writes():
    with pytest.raises(InterpreterError, match=r"race"):
        neighbour_kernel[(4,)](torch.zeros(4), torch.zeros(4))


def test_catches_the_last_block_pattern():
    with pytest.raises(InterpreterError, match=r"race.*has read an element.*another program has written"):
        last_block_kernel[(8,)](torch.zeros(8), torch.zeros(1, dtype=torch.int32), torch.zeros(1), 8)


def test_catches_a_store_that_writes_a_place_twice():
    with pytest.raises(InterpreterError, match="race: one store writes"):
        twice_kernel[(1,)](torch.zeros(16), 16)


def test_catches_plain_reads_of_what_others_update_atomically():
    with pytest.raises(InterpreterError, match="race"):
        counter_read_kernel[(4,)](torch.zeros(1), torch.zeros(4))


def test_atomics_of_several_programs_are_no_race():
    x, total, bins = random_values(512), torch.zeros(1), torch.zeros(64)
    accumulate_kernel[(8,)](x, total, bins, 64)
    torch.testing.assert_close(total[0], x.sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bins, x.view(8, 64).sum(0))


@pytest.mark.parametrize("programs", [2, 3, 16])
def test_programs_do_not_run_in_their_natural_order(programs):
    count, out = torch.zeros(1, dtype=torch.int32), torch.zeros(programs, dtype=torch.int32)
    ticket_kernel[(programs,)](count, out)
    assert sorted(out.tolist()) == list(range(programs))
    assert out.tolist() != list(range(programs))


def test_shared_reads_and_rows_of_their_own_are_no_race():
    x, out = random_values(6, 16), torch.full((6, 20), float("nan"))
    strided_kernel[(3,)](x, out, 20, 2, 16)
    assert torch.equal(out[:, :16], x * x[0])
    assert out[:, 16:].isnan().all()


def test_bfloat16_arithmetic_is_torchs():
    """Triton multiplies in float32 and rounds each result, as torch does."""
    x, y, out = (
        random_values(256, dtype=torch.bfloat16),
        random_values(256).flip(0).bfloat16(),
        torch.zeros(256).bfloat16(),
    )
    add_kernel[(4,)](x, y, out, 256, 64, True)
    assert torch.equal(out, x * y + x)


def test_bfloat16_functions_are_torchs():
    x, out = random_values(256, dtype=torch.bfloat16), torch.zeros(256).bfloat16()
    functions_kernel[(1,)](x, out, 256)
    assert torch.equal(out, torch.where(x > 0.5, torch.maximum(x * 0.25, x - 1.0), (-x).abs()))


@pytest.mark.parametrize("source", [torch.float32, torch.float64, torch.float16, torch.int32])
def test_casts_to_bfloat16_round_to_nearest_even(source):
    x = (random_values(4096) * 1000).to(source)
    if source.is_floating_point:
        x[:3] = torch.tensor([float("inf"), float("-inf"), 0.0])
        x[3:5] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])  # ties
    out = torch.zeros(4096, dtype=torch.bfloat16)
    cast_kernel[(1,)](x, out, 4096)
    assert torch.equal(out, x.bfloat16())


def test_nan_survives_the_cast():
    out = torch.zeros(2, dtype=torch.bfloat16)
    cast_kernel[(1,)](torch.tensor([float("nan"), 1.0]), out, 2)
    assert out[0].isnan()
    assert out[1] == 1


@pytest.mark.parametrize("target", [torch.float32, torch.float64, torch.float16])
def test_casts_from_bfloat16_are_exact(target):
    x, out = random_values(256, dtype=torch.bfloat16), torch.zeros(256, dtype=target)
    cast_kernel[(1,)](x, out, 256)
    assert torch.equal(out, x.to(target))


def test_refuses_bfloat16_sums():
    with pytest.raises(InterpreterError, match=r"use .to\(tl.float32\) first"):
        sum_kernel[(1,)](random_values(64, dtype=torch.bfloat16), torch.zeros(1), 64)


def dot(a, b, precision):
    out = torch.full((a.shape[0], b.shape[1]), float("nan"), dtype=torch.promote_types(a.dtype, torch.float32))
    dot_kernel[(1,)](a, b, out, a.shape[0], b.shape[1], a.shape[1], precision)
    return out


def test_bfloat16_dot_is_that_of_its_values():
    a, b = random_values(32, 16, dtype=torch.bfloat16), random_values(16, 32, dtype=torch.bfloat16)
    torch.testing.assert_close(dot(a, b, "ieee"), a.float() @ b.float())


def test_tf32_dot_has_ten_bits():
    a, b = random_values(32, 16), random_values(16, 32)
    exact = a.double() @ b.double()
    scale = a.double().abs() @ b.double().abs()  # the bound of a sum of products, each factor off by 2^-11 or less
    error = ((dot(a, b, "tf32") - exact).abs() / scale).max().item()
    assert 2**-16 < error <= 2 * 2**-11
    assert ((dot(a, b, "ieee") - exact).abs() / scale).max().item() < 2**-20
    rounded = torch.tensor([[1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 3.0]]).repeat(4, 1)
    assert dot(rounded, torch.eye(4), "tf32")[0].tolist() == [1 + 2**-10, 1.0, -1 - 2**-10, 3.0]


def test_float64_dot_is_exact():
    a, b = random_values(16, 16, dtype=torch.float64), random_values(16, 16, dtype=torch.float64).T.contiguous()
    torch.testing.assert_close(dot(a, b, "tf32"), a @ b, rtol=1e-14, atol=1e-14)


def test_refuses_a_version_it_does_not_know(monkeypatch):
    import strict_interpreter

    monkeypatch.setattr(triton, "__version__", "3.10.0")
    with pytest.raises(RuntimeError, match=r"Triton 3\.10\.0 is not known.*Install one of these"):
        strict_interpreter.install()


def test_new_memory_is_nan():
    assert torch.empty(7).isnan().all()
