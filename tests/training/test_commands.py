"""Every command under training/ starts by its module's name and by its path, from any folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "training").rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text("utf-8")
)

# Commands that the documentation shows: in blocks that are indented or fenced, a line that ends in \\ goes on.
PAGES = [
    ROOT / "README.md",
    ROOT / "training" / "README.md",
    ROOT / "examples" / "README.md",
    *(ROOT / "docs").rglob("*.md"),
]
SHOWN = re.compile(r"python3? (?:-m (training[\w.]*)|(training/[\w/]+\.py))((?:[^\n|;`#]|\\\n)*)")

# One process for all, which has what takes long to import: a fork of it is each command's own fresh process. Like
# python, it runs a path with the path's folder, and a module with the current folder, in front of what is searched.
START = """
import json, os, runpy, sys
import matplotlib, numpy, PIL, safetensors, skimage, torch, tqdm

root, kind, *commands = sys.argv[1:]
# An editable install would show the modules of a checkout to every script.
elsewhere = [place for place in sys.path[1:] if not os.path.isdir(os.path.join(place, "training"))]
assert not any(name.split(".")[0] in ("training", "task_losses") for name in sys.modules)
results = {}
for command in commands:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        sys.argv = [command, "--help"]
        try:
            if kind == "path":
                sys.path = [os.path.dirname(os.path.join(root, command)), *elsewhere]
                runpy.run_path(os.path.join(root, command), run_name="__main__")
            else:
                sys.path = [root, *elsewhere]
                name = command.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            print(repr(error))
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    os.close(write)
    said = open(read, errors="replace").read()
    results[command] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
print(json.dumps(results))
"""


def run_all(kind: str, folder: Path) -> dict[str, tuple[int, str]]:
    words = [sys.executable, "-c", START, str(ROOT.resolve()), kind, *COMMANDS]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.fixture(scope="module")
def by_path(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    return run_all("path", tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def by_module(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    return run_all("module", tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.parametrize("command", COMMANDS)
def test_runs_by_its_path(command: str, by_path: dict[str, tuple[int, str]]) -> None:
    code, said = by_path[command]
    assert code == 0, said
    assert said.startswith("usage: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_runs_by_its_modules_name(command: str, by_module: dict[str, tuple[int, str]]) -> None:
    code, said = by_module[command]
    assert code == 0, said
    assert said.startswith("usage: ")


def shown_commands() -> list[tuple[str, str, list[str]]]:
    """Page, file of the command, its flags."""
    found = []
    for page in PAGES:
        for module, path, words in SHOWN.findall(page.read_text("utf-8").replace("\\\n", " ")):
            file = path or f"{module.replace('.', '/')}.py"
            file = file if (ROOT / file).is_file() else f"{module.replace('.', '/')}/__main__.py"
            found.append((page.name, file, re.findall(r"(?<![\w-])--[a-z][\w-]*", words)))
    return found


def test_commands_of_the_documentation_have_the_flags_that_it_shows(by_module: dict[str, tuple[int, str]]) -> None:
    shown = [(page, file, flag) for page, file, flags in shown_commands() for flag in flags if file in by_module]
    assert len(shown) > 60
    unknown = [entry for entry in shown if not re.search(rf"{entry[2]}(?![\w-])", by_module[entry[1]][1])]
    assert not unknown
