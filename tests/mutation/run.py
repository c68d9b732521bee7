"""Whether the tests would notice: python tests/mutation/run.py task_losses/terms.py. Needs `pip install cosmic-ray`.

cosmic-ray changes one place of a file at a time, like ``<`` to ``<=`` or ``2`` to ``3``. For each change, or for some
drawn at random, a child of this process runs the file's tests until one fails. Changes that no test notices are
printed. No file is written. A child begins with all modules of others imported, which is most of a short test's time.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "task_losses/losses.py": ["tests/test_losses.py", "tests/test_terms.py", "tests/test_images.py"],
    "task_losses/discriminator.py": ["tests/test_losses.py", "tests/test_untrusted.py", "tests/test_images.py"],
    "task_losses/terms.py": ["tests/test_terms.py", "tests/test_losses.py", "tests/test_images.py"],
    "task_losses/pyramid.py": ["tests/test_losses.py::TestPyramid", "tests/test_pyramid.py"],
    "task_losses/weights.py": [
        "tests/test_untrusted.py",
        "tests/test_controls.py",
        "tests/test_losses.py::TestBadInput",
    ],
    "training/objectives.py": ["tests/training/test_objectives.py"],
    "training/export.py": ["tests/training/test_export.py", "tests/training/test_scaling.py"],
}
MEMORY = 8 * 2**30  # bytes that a child may ask for


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", choices=TESTS)
    parser.add_argument("--most", type=int, help="changes to try, drawn at random [all]")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no other change after these [no end]"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    importlib.import_module("pytest")
    source = Path(options.file).read_text(encoding="utf-8")
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as names:
        if not passes(options.file, source, 3600, names.name):
            raise SystemExit(f"the tests of {options.file} fail as it is: {' '.join(TESTS[options.file])}")
        limit = round(10 + 5 * (time.monotonic() - start))
        for name in names.read().split():
            with suppress(Exception):
                importlib.import_module(name)
    changes = list(mutants(source))
    random.Random(0).shuffle(changes)
    tried, survived = 0, []
    for changed in changes[: options.most]:
        if time.monotonic() - start > options.seconds:
            break
        tried += 1
        if passes(options.file, changed, limit):
            survived.append(changed)
            sys.stdout.write(difference(source, changed) + "\n")
            sys.stdout.flush()
    noticed = tried - len(survived)
    sys.stdout.write(
        f"{options.file}: {len(changes)} changes, {tried} tried, {noticed} noticed: {noticed / max(tried, 1):.1%}\n"
    )


def mutants(source: str) -> Iterator[str]:
    """The file with one change each. Those that change annotations alone are left out: nothing evaluates them."""
    import parso  # noqa: F401 (cosmic-ray's modules import each other in a circle otherwise)
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    same = meaning(source)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        occurrence = 0
        while (changed := mutate_code(source, operator(), occurrence)) is not None:
            occurrence += 1
            if meaning(changed) != same:
                yield changed


def meaning(source: str) -> str:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def difference(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


class _Changed(SourceFileLoader):
    """Loads one module from a text instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.source, self.path, "exec", dont_inherit=True)
        return code


class _Finder(MetaPathFinder):
    def __init__(self, name: str, loader: Loader, path: Path) -> None:
        self.name, self.loader, self.path = name, loader, path

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self.loader) if fullname == self.name else None


def passes(file: str, source: str, limit: int, names: str | None = None) -> bool:
    """Whether a file's tests pass within some seconds with this text in its place.

    Args:
        names: a file for the names of the modules of others that they import.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        signal.alarm(limit)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        name = file.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, _Finder(name, _Changed(name, str(ROOT / file), source), ROOT / file))
        import pytest

        # Tests of the import start processes of their own, which read the file as it is.
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", "not import", *TESTS[file]]))
        if names is not None:
            files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
            others = [name for name, place in files.items() if place and not Path(place).is_relative_to(ROOT)]
            Path(names).write_text(" ".join(others), encoding="utf-8")
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
