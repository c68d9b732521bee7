"""The house: which room may know which, read from the imports alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A module may import from its own room and from those earlier in this list. An entry is a module or a folder; a folder
# with entries of its own for some of its modules has the others.
ROOMS = (
    "task_losses",
    "training.networks",
    "training.objectives",
    "training.adam",
    "training.provenance",
    "training.cache",
    "training.kernels",
    "training",  # the training itself: updates, train, export, ...
    "training.bench",  # what several rooms of the benchmark use
    "training.bench.cost",
    "training.bench.study",
    "training.bench.report",
    "training.bench.ablation",
    "training.bench.device",
    "training.demo",
    "training.judge",
)
BENCHMARK = [room for room in ROOMS if room.startswith("training.bench") and (ROOT / room.replace(".", "/")).is_dir()]


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in ("task_losses", "training"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, known: frozenset[str]) -> Iterator[str]:
    """Modules among ``known`` that a source names in imports, also inside of functions and by importlib.

    Packages that are only passed on the way to a module do not count.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports here are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names if {name, node.module} & known)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (value for word in node.args if (value := getattr(word, "value", None)) in known)


def room_of(module: str) -> int:
    inside = (room for room in ROOMS if f"{module}.".startswith(f"{room}."))
    return ROOMS.index(max(inside, key=len))


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Module -> the modules that it imports."""
    known = frozenset(modules())
    return {name: frozenset(imports(path.read_text("utf-8"), known)) for name, path in modules().items()}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_later_one(room: str) -> None:
    back = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        for target in sorted(targets)
        if ROOMS[room_of(module)] == room and room_of(target) > room_of(module)
    ]
    assert not back, f"of {room}: {back}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter(arrows()).prepare()  # raises CycleError, which names the circle


def test_the_wheel_does_not_know_the_training() -> None:
    of_the_wheel = {module: targets for module, targets in arrows().items() if module.startswith("task_losses")}
    assert of_the_wheel
    assert not {m: targets for m, targets in of_the_wheel.items() if any(t.startswith("training") for t in targets)}


def test_every_way_to_import_is_seen() -> None:
    known = frozenset({"training", "training.train", "training.updates", "training.config"})
    source = """
import training.train
from training import updates
def later():
    from training.config import Config
    importlib.import_module("training.train")
import torch
"""
    assert sorted(imports(source, known)) == ["training.config", "training.train", "training.train", "training.updates"]
    assert room_of("training.kernels.cpu.native") < room_of("training.updates") < room_of("training.bench.authors")
    assert room_of("training.networks") < room_of("training.kernels") < room_of("training.bench.cost.speed")


@pytest.mark.parametrize("room", BENCHMARK)
def test_a_room_of_the_benchmark_says_what_it_is_for_and_names_its_commands(room: str) -> None:
    folder = ROOT / room.replace(".", "/")
    says = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    commands = [path.stem for path in folder.glob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8")]
    missing = [name for name in commands if (room if name == "__main__" else name) not in says]
    assert says
    assert not missing, f"{room} does not say: {missing}"
