"""Compiles the C sources for one width of the network and the processor at hand, and keeps the library for next time.

Needed is a C compiler that knows GCC's vectors (gcc, clang), and POSIX threads; no headers of Python or torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from training.cache import kernel_cache
from training.provenance import processor

SOURCES = tuple(Path(__file__).with_name(f"{name}.c") for name in ("winograd", "thin", "norm", "spectral", "pool"))
HEADERS = tuple(Path(__file__).with_name(f"{name}.h") for name in ("critic", "lanes", "pool"))
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-pthread")
MOST_CHANNELS = 128  # winograd.c keeps its blocks of tiles on the stack


class Unavailable(RuntimeError):
    """The compiled operations cannot be had on this machine; the message says why."""


def compiled(width: int) -> Path:
    """The library for a width, from the cache or fresh from the compiler.

    Raises:
        Unavailable: the width is no multiple of 8 or above 128, there is no compiler, or it failed.
    """
    if width % 8 or not 0 < width <= MOST_CHANNELS:
        raise Unavailable(
            f"the compiled operations take multiples of 8 channels up to {MOST_CHANNELS}, the network has {width}"
        )
    named = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if named is None:
        raise Unavailable("there is no C compiler: install gcc or clang, or name yours in the variable CC")
    try:
        compiler = [*shlex.split(named), *FLAGS, f"-DWIDTH={width}"]
        version = _run([*shlex.split(named), "--version"])
        sources = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
        made_of = [*sources, version, *compiler, platform.machine(), processor(), _instruction_sets()]
        path = kernel_cache() / f"critic-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
        digest = path.with_suffix(".sha256")
        if not _is_whole(path, digest):
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a kill leaves no half library
                library, fresh = Path(folder) / path.name, Path(folder) / digest.name
                _run([*compiler, "-shared", *map(str, SOURCES), "-lm", "-o", str(library)])
                fresh.write_text(hashlib.sha256(library.read_bytes()).hexdigest(), encoding="ascii")
                os.replace(library, path)
                os.replace(fresh, digest)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise Unavailable(f"compiling with {named} failed: {error} {said[-500:]}".strip()) from error
    return path


def _is_whole(path: Path, digest: Path) -> bool:
    """Whether a library is the one that was written: loading one that lost its end kills the process."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _instruction_sets() -> str:
    """Those that Linux names: "native" code of one machine may crash another whose processor has the same name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
