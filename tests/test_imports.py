"""Which module of the package may know which: no circles, and nothing of the training."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import task_losses
from task_losses.losses import LOSSES, TaskLoss, loss_class

PACKAGE = Path(task_losses.__file__).parent


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever it does: also inside functions and for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if (PACKAGE.parent / f"{name.replace('.', '/')}.py").is_file()]
            yield from modules or [str(node.module)]


GRAPH = {f"task_losses.{path.stem}": set(imported(path)) for path in PACKAGE.glob("*.py")}


def test_no_module_imports_itself_over_others() -> None:
    inner = {name: {other for other in others if other in GRAPH} for name, others in GRAPH.items()}
    assert sum(map(len, inner.values())) > len(inner), "a graph without arrows proves nothing"
    TopologicalSorter(inner).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", GRAPH)
def test_the_package_knows_nothing_of_the_training(name: str) -> None:
    assert not {other for other in GRAPH[name] if other.split(".")[0] in ("training", "tests")}


def test_each_loss_stands_under_its_own_task_and_is_public() -> None:
    for task, kind in LOSSES.items():
        assert kind.task == task
        assert getattr(task_losses, kind.__name__) is kind
        assert loss_class(task) is kind
    assert loss_class("rain") is loss_class(None) is TaskLoss
