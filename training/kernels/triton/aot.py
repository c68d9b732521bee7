"""Compiles every kernel ahead of time for every architecture, without a GPU, and checks what came out.

    python -m training.kernels.triton.aot --check   # the gate, and the table against the table
    python -m training.kernels.triton.aot --write   # makes the table

The gate finds what the interpreter cannot: values spilled to memory, too much shared memory, tensor
cores that are not used.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.kernels.triton.configs import ARCHITECTURES
from training.kernels.triton.loss_variants import loss_variants
from training.kernels.triton.optional import TRITON_INSTALLED, interpreted
from training.kernels.triton.variants import Variant, variants

TABLE = Path(__file__).parents[2] / "bench" / "results" / "kernels_aot.md"
MAX_STACK = 16  # bytes of a thread


@dataclass(frozen=True)
class Multiprocessor:
    """What the programs on one multiprocessor share (CUDA C++ Programming Guide, table of compute capabilities).

    Attributes:
        block_shared: bytes of shared memory that one program may take.
        shared: bytes that all programs together may take; each takes 1024 more than it asks for.
        warps: resident at most.
        programs: resident at most.
        tensor_core: opcodes that use tensor cores.
    """

    block_shared: int
    shared: int
    warps: int
    programs: int
    tensor_core: tuple[str, ...]

    def occupancy(self, registers: int, shared: int, warps: int) -> float:
        """Resident warps over the most there can be, limited by registers, shared memory and programs."""
        register_unit, registers_in_all = 256, 65536  # a warp's registers come in units, the same on all of these
        of_warp = -(-registers * 32 // register_unit) * register_unit
        by_registers = registers_in_all // of_warp // warps
        by_shared = self.shared // (shared + 1024)
        return min(by_registers, by_shared, self.warps // warps, self.programs) * warps / self.warps


MULTIPROCESSORS = {
    80: Multiprocessor(166912, 167936, 64, 32, ("HMMA",)),
    86: Multiprocessor(101376, 102400, 48, 16, ("HMMA",)),
    89: Multiprocessor(101376, 102400, 48, 24, ("HMMA",)),
    90: Multiprocessor(232448, 233472, 64, 32, ("HGMMA", "HMMA")),
    100: Multiprocessor(232448, 233472, 64, 32, ("UTCHMMA", "HMMA")),
    120: Multiprocessor(101376, 102400, 48, 24, ("HMMA",)),
}


@dataclass(frozen=True)
class Compiled:
    """What one variant became on one architecture.

    Attributes:
        registers: of a thread.
        stack, local: bytes of a thread, in memory.
        shared: bytes of a program.
        opcodes: how often each machine instruction occurs.
    """

    variant: Variant
    architecture: int
    registers: int
    stack: int
    local: int
    shared: int
    opcodes: Counter[str]

    def faults(self) -> list[str]:
        """Why it must not be used, in words; empty where it may."""
        limits = MULTIPROCESSORS[self.architecture]
        spills = self.opcodes["LDL"] + self.opcodes["STL"]
        found = []
        if self.local or spills:
            found.append(f"{self.local} bytes of local memory and {spills} instructions that use it, expected none")
        if self.stack > MAX_STACK:
            found.append(f"{self.stack} bytes of stack, expected at most {MAX_STACK}")
        if self.shared > limits.block_shared:
            found.append(f"{self.shared} bytes of shared memory, there are {limits.block_shared}")
        if self.variant.tensor_core and not any(self.opcodes[name] for name in limits.tensor_core):
            found.append(
                f"no tensor core instruction ({' or '.join(limits.tensor_core)}), though the variant claims one"
            )
        advice = "use a smaller tile, fewer stages or more warps, or take back the claim"
        return [f"{self.variant.name} on sm_{self.architecture}: {fault}; {advice}" for fault in found]

    def row(self) -> str:
        """Its line of the table."""
        occupancy = MULTIPROCESSORS[self.architecture].occupancy(self.registers, self.shared, self.variant.warps)
        shown = (
            "HMMA",
            "HGMMA",
            "UTCHMMA",
            "FFMA",
            "DFMA",
            "LDG",
            "STG",
            "LDGSTS",
            "LDS",
            "STS",
            "LDSM",
            "SHFL",
            "BAR",
        )
        opcodes = " ".join(f"{name}:{self.opcodes[name]}" for name in shown if self.opcodes[name])
        cells = [
            self.variant.name,
            f"sm_{self.architecture}",
            str(self.variant.warps),
            str(self.registers),
            str(self.stack),
            str(self.local),
            str(self.shared),
            f"{occupancy:.0%}",
            str(self.opcodes.total()),
            opcodes,
        ]
        return f"| {' | '.join(cells)} |"


def all_variants() -> list[Variant]:
    """The variants of every kernel.

    Raises:
        ValueError: two variants have one name.
    """
    found = variants() + loss_variants()
    names = Counter(variant.name for variant in found)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"several variants are called {', '.join(repeated)}: a name must tell them apart")
    return found


def compile_variant(variant: Variant, architecture: int) -> Compiled:
    """Compiles for an architecture, which need not be there.

    Raises:
        ValueError: the signature and the constants are not the kernel's parameters.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.kernel.arg_names)
    given = {**variant.signature, **variant.constexprs}
    if set(given) != set(names) or len(given) != len(variant.signature) + len(variant.constexprs):
        raise ValueError(
            f"{variant.name}: the signature {sorted(variant.signature)} and the constants {sorted(variant.constexprs)} "
            f"must together name each parameter of the kernel once: {names}"
        )
    source = ASTSource(
        fn=variant.kernel,
        signature={name: variant.signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in variant.constexprs.items()},
        # torch aligns its memory to 16 bytes at least, and the just-in-time compiler looks and makes use of it.
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if given[name] in _pointers(variant)},
    )
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    if variant.registers is not None:
        options["maxnreg"] = variant.registers
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        listing = _tool("nvdisasm", "-c", str(cubin))
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resources for {variant.name} on sm_{architecture}, but: {usage}")
    registers, stack, local = map(int, found.groups())
    opcodes = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", listing, re.MULTILINE))
    return Compiled(variant, architecture, registers, stack, local, kernel.metadata.shared, opcodes)


def _pointers(variant: Variant) -> set[str]:
    return {name for name in variant.signature.values() if name.startswith("*")}


def _tool(name: str, *arguments: str) -> str:
    """Runs one of the CUDA tools that come with Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(keys: list[tuple[str, int]], processes: int) -> list[Compiled]:
    """Compiles variants, given by name and architecture, several at a time."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        measured = pool.map(_measure, keys)
        return [
            Compiled(_by_name()[name], architecture, *m) for (name, architecture), m in zip(keys, measured, strict=True)
        ]


@functools.cache
def _by_name() -> dict[str, Variant]:
    return {variant.name: variant for variant in all_variants()}


def _measure(key: tuple[str, int]) -> tuple[int, int, int, int, Counter[str]]:
    """In a process of the pool; kernels themselves cannot be sent between processes."""
    one = compile_variant(_by_name()[key[0]], key[1])
    return one.registers, one.stack, one.local, one.shared, one.opcodes


HEADER = """\
# Kernels, compiled ahead of time

Made by `python -m training.kernels.triton.aot --write` with Triton {version}; `--check` fails where it no
longer holds. Of a thread: registers, stack and local memory in bytes. Of a program: warps and shared memory in
bytes. Occupancy is arithmetic from these: resident warps over the most that a multiprocessor holds. Opcodes are
counts of machine instructions, in all and of some kinds: HMMA, HGMMA and UTCHMMA are tensor core instructions.

| kernel | architecture | warps | registers | stack | local | shared | occupancy | instructions | opcodes |
|---|---|---|---|---|---|---|---|---|---|
"""


def table_rows(text: str) -> dict[tuple[str, str], str]:
    """The rows of a table by kernel and architecture."""
    lines = [line for line in text.splitlines() if re.search(r"\| sm_\d+ \|", line)]
    return {(line.split(" | ")[0].removeprefix("| "), line.split(" | ")[1]): line for line in lines}


def drift(compiled: list[Compiled], text: str, complete: bool) -> list[str]:
    """Where a table no longer says what the kernels compile to, in words.

    Args:
        text: the table's file.
        complete: whether everything was compiled, so that other rows of the table are stale.
    """
    written = table_rows(text)
    rows = {(one.variant.name, f"sm_{one.architecture}"): one.row() for one in compiled}
    changed = [key for key, row in rows.items() if written.get(key) != row]
    stale = [key for key in written if key not in rows] if complete else []
    found = [f"{' on '.join(key)}: is {rows[key]}, the table has {written.get(key, 'nothing')}" for key in changed]
    return found + [f"{' on '.join(key)}: in the table, but no kernel's variant" for key in stale]


def table(compiled: list[Compiled], keep: dict[tuple[str, str], str], version: str) -> str:
    """The table's file: rows of what was compiled, and of other variants those that are to be kept."""
    rows = keep | {(one.variant.name, f"sm_{one.architecture}"): one.row() for one in compiled}
    order = [(variant.name, f"sm_{arch}") for variant in all_variants() for arch in variant.architectures]
    return HEADER.format(version=version) + "".join(f"{rows[key]}\n" for key in order if key in rows)


def recorded_version(text: str) -> str | None:
    """The Triton that made a table: with another one the numbers differ, and only the gate can hold."""
    found = re.search(r"with Triton (\S+);", text)
    return found[1] if found else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.kernels.triton.aot", description=(__doc__ or "").split("\n\n")[0]
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="the gate, and the table against drift")
    action.add_argument("--write", action="store_true", help="write the table, or the rows of what is compiled")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--representative", action="store_true", help="one or two variants of each kernel")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that compile at once [all cores]")
    parser.add_argument("--archs", type=int, nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    arguments = parser.parse_args(argv)
    if not TRITON_INSTALLED or interpreted():
        print("error: needs triton, and TRITON_INTERPRET unset: pip install triton", file=sys.stderr)
        return 2
    partial = bool(arguments.only or arguments.representative or len(arguments.archs) < len(ARCHITECTURES))
    text = TABLE.read_text() if TABLE.exists() else ""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what a later Triton will ask for

    import triton

    keys = [
        (variant.name, architecture)
        for variant in all_variants()
        for architecture in variant.architectures
        if arguments.only in variant.name
        and (variant.representative or not arguments.representative)
        and architecture in arguments.archs
    ]
    if not keys:
        print("error: no variant fits --only, --representative and --archs", file=sys.stderr)
        return 2
    compiled = compile_all(keys, arguments.processes)
    faults = [fault for one in compiled for fault in one.faults()]
    if arguments.write:
        keep = table_rows(text) if partial and recorded_version(text) == triton.__version__ else {}
        TABLE.write_text(table(compiled, keep, triton.__version__))
        print(f"{TABLE}: {len(compiled)} rows written")
    else:
        if recorded_version(text) == triton.__version__:
            found = drift(compiled, text, complete=not partial)
            faults += [f"drift: {line}; run --write, and look at what changed" for line in found]
        else:
            print(
                f"the table is of Triton {recorded_version(text)}, this is {triton.__version__}: the gate alone holds"
            )
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(compiled)} compiled, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
