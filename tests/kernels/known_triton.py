"""Which versions of Triton the tests of the kernels know. tests/README.md has what each of them passed."""

from __future__ import annotations

import importlib
import importlib.util

# The dev extra in pyproject.toml has the same bounds. Before 3.5 the interpreter has no product of float64 matrices.
VERSIONS = ("3.5", "3.6", "3.7", "3.8", "3.9")


def unknown() -> str | None:
    """Why kernels are neither interpreted nor compiled in tests here: the version of Triton. None if it is known."""
    if importlib.util.find_spec("triton") is None:
        return "the kernels' compiler, triton, is not installed"
    version: str = importlib.import_module("triton").__version__
    if ".".join(version.split(".")[:2]) in VERSIONS:
        return None
    return (
        f"Triton {version} is not known: the strict interpreter replaces internals of Triton {VERSIONS[0]} to "
        f"{VERSIONS[-1]}. Install one of these, or add the version to tests/kernels/known_triton.py if all of "
        "tests/kernels then passes"
    )
