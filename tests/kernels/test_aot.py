"""Kernels compile for every architecture without spills, and the committed table says what they compile to."""

import os
from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

import triton
import triton.language as tl
from known_triton import unknown

from task_losses.weights import manifest
from training.kernels.triton import aot
from training.kernels.triton.configs import ARCHITECTURES
from training.kernels.triton.variants import Variant

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled in the interpreter"),
    pytest.mark.skipif(unknown() is not None, reason=str(unknown())),
]


@triton.jit
def product_kernel(a, b, out, n, SIDE: tl.constexpr):
    i, k = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for step in range(n):
        place = step * SIDE * SIDE + i * SIDE + k
        total += tl.dot(tl.load(a + place), tl.load(b + place), input_precision="tf32")
    tl.store(out + i * SIDE + k, total)


PRODUCT = Variant(
    name="product",
    kernel=product_kernel,
    signature={"a": "*fp32", "b": "*fp32", "out": "*fp32", "n": "i32"},
    constexprs={"SIDE": 64},
    tensor_core=True,
)


def test_kernels_hold_the_gate_and_the_table_on_all_architectures(capsys):
    assert aot.main(["--check", "--representative"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_all_variants_hold_the_gate_and_the_table(capsys):
    assert aot.main(["--check"]) == 0, capsys.readouterr().err


def test_the_table_has_a_row_for_each_variant_and_no_other():
    text = aot.TABLE.read_text()
    rows, made_with = set(aot.table_rows(text)), aot.recorded_version(text)
    variants = {(v.name, f"sm_{architecture}") for v in aot.all_variants() for architecture in v.architectures}
    assert made_with
    if triton.__version__ == made_with:
        assert rows == variants
    else:  # an older Triton refuses some: task_losses.fused.configs.least_inner
        assert rows >= variants


def test_the_widths_of_the_released_critics_are_in_the_table():
    """As training launches them: without tensor cores. Another width is compiled anew."""
    rows = aot.table_rows(aot.TABLE.read_text())
    for entry in manifest()["weights"].values():
        for width in set(entry["architecture"]["channels"]):
            for seed in ("adjoint", "gradient"):  # WGAN-GP, hinge
                kernel = f"wgrad activation*{seed} {width}>{width} ieee "
                archs = {arch for name, arch in rows if name.startswith(kernel)}
                assert archs == {f"sm_{arch}" for arch in ARCHITECTURES}


def test_every_file_of_kernels_has_a_representative():
    files = {v.kernel.__module__ for v in aot.all_variants()}
    assert files == {v.kernel.__module__ for v in aot.all_variants() if v.representative}


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_finds_tensor_cores(architecture):
    compiled = aot.compile_variant(PRODUCT, architecture)
    assert compiled.faults() == []
    assert compiled.opcodes[{80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[architecture]] > 0


def named(name):
    return next(variant for variant in aot.all_variants() if variant.name == name)


def test_catches_a_false_claim_of_tensor_cores():
    claimed = replace(named("pack channels 32 divide True"), tensor_core=True)
    (fault,) = aot.compile_variant(claimed, 80).faults()
    assert "pack channels 32 divide True on sm_80: no tensor core instruction (HMMA)" in fault


def test_catches_spills():
    """A thread must do with 64 registers where it uses three times as many."""
    used = next(v for v in aot.all_variants() if v.name.startswith("conv3x3 adjoint>masked 32>32 tf32"))
    faults = " ".join(aot.compile_variant(replace(used, registers=64), 90).faults())
    assert "bytes of stack, expected at most 16" in faults
    assert "instructions that use it, expected none" in faults


def test_catches_too_much_shared_memory():
    greedy = replace(PRODUCT, constexprs={"SIDE": 128}, stages=4, warps=8)
    (fault,) = aot.compile_variant(greedy, 86).faults()
    assert "bytes of shared memory, there are 101376" in fault


@pytest.mark.parametrize("variant", [v for v in aot.all_variants() if v.representative], ids=lambda v: v.name)
def test_integers_may_be_one(variant):
    """The just-in-time compiler makes constants of integers that are 1, which are no tensors inside the kernel."""
    many = {"rows", "count", "pixels"}  # of a channel, at least 2: one value cannot be normalised
    ones = {name: 1 for name, of in variant.signature.items() if of == "i32" and name not in many}
    rest = {name: of for name, of in variant.signature.items() if name not in ones}
    one = replace(variant, signature=rest, constexprs={**variant.constexprs, **ones})
    assert aot.compile_variant(one, variant.architectures[-1]).registers > 0


def test_refuses_a_signature_that_is_not_the_kernels():
    with pytest.raises(ValueError, match=r"product: the signature \['a', 'b', 'n'\].*must together name"):
        aot.compile_variant(replace(PRODUCT, signature={"a": "*fp32", "b": "*fp32", "n": "i32"}), 80)


def compiled(**changes):
    return aot.Compiled(
        PRODUCT, 80, **{"registers": 128, "stack": 0, "local": 0, "shared": 0} | changes, opcodes=Counter(HMMA=3)
    )


def test_a_part_of_the_table_can_be_made_anew():
    """Rows of what was not compiled stay, in the order of the variants; stale ones go."""
    first, second = aot.all_variants()[:2]
    one = aot.Compiled(second, 80, 128, stack=0, local=0, shared=0, opcodes=Counter())
    keep = {
        (first.name, "sm_90"): "| first | sm_90 |",
        (second.name, "sm_80"): "| old |",
        ("gone", "sm_80"): "| gone |",
    }
    text = aot.table([one], keep, "3.9.0")
    assert text.removeprefix(aot.HEADER.format(version="3.9.0")).splitlines() == ["| first | sm_90 |", one.row()]


def test_notices_drift():
    text = aot.HEADER.format(version="3.9.0") + compiled().row() + "\n"
    assert aot.drift([compiled()], text, complete=True) == []
    (changed,) = aot.drift([compiled(registers=129)], text, complete=True)
    assert "product on sm_80: is | product | sm_80 | 4 | 129" in changed
    assert aot.drift([], text, complete=False) == []
    assert aot.drift([], text, complete=True) == ["product on sm_80: in the table, but no kernel's variant"]
    (missing,) = aot.drift([compiled()], aot.HEADER.format(version="3.9.0"), complete=True)
    assert "the table has nothing" in missing
    assert aot.recorded_version(text) == "3.9.0"


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "warps", "expected"),
    [
        (80, 32, 0, 4, 1.0),  # 16 programs of 4 warps: registers and warps are just enough
        (80, 128, 0, 4, 0.25),  # 4096 registers a warp, 16 warps
        (80, 129, 0, 4, 0.1875),  # 136 are taken: 15 warps, 3 programs
        (86, 32, 48 * 1024, 4, 8 / 48),  # 49 KiB with the system's own: 2 programs
        (90, 32, 232448, 8, 0.125),  # one program takes all shared memory
        (80, 16, 0, 1, 0.5),  # 32 programs at most
    ],
)
def test_occupancy(architecture, registers, shared, warps, expected):
    assert aot.MULTIPROCESSORS[architecture].occupancy(registers, shared, warps) == pytest.approx(expected)


def test_architectures_are_known():
    assert set(ARCHITECTURES) == set(aot.MULTIPROCESSORS)


@pytest.mark.parametrize("arguments", [["--check", "--only", "nothing"], ["--write", "--only", "nothing"]])
def test_refuses_senseless_flags(arguments, capsys):
    assert aot.main(arguments) == 2
    assert "--only" in capsys.readouterr().err


def test_this_process_has_the_plain_triton():
    """The interpreter that other kernel tests run in is chosen in a child process alone."""
    assert isinstance(product_kernel, triton.JITFunction)
