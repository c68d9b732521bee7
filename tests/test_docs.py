"""What the documentation shows, runs."""

import argparse
import re
from pathlib import Path

import pytest

from training.config import add_flags, given_settings
from training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "usage.md", ROOT / "docs" / "images.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    exec(compile(example, "example", "exec"), {"__name__": "example"})


PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "training/README.md", "tests/README.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PAGES += sorted((ROOT / "training" / "bench" / "results").glob("*.md"))
SOURCES = sorted(path for folder in ("task_losses", "training") for path in (ROOT / folder).rglob("*.py"))


def texts(paths):
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def missing_paths(text):
    """Paths from the top of the repository that it does not hold."""
    found = re.findall(r"\b((?:docs|training|task_losses|tests)/[\w/.-]+\.(?:md|py|c|h|json|svg|png))\b", text)
    return [path for path in found if not (ROOT / path).exists()]


def missing_files(text):
    """Names of source files in backticks that no folder of the repository holds."""
    return [name for name in re.findall(r"`(\w+\.(?:py|c|h))`", text) if name not in FILES]


def missing_modules(text):
    """Names like training.bench.cost.speed, perhaps with something that the module defines, that there are not."""
    return [name for name in re.findall(r"\b(training(?:\.\w+)+)", text) if not is_there(name)]


FILES = {path.name for folder in ("task_losses", "training", "tests") for path in (ROOT / folder).rglob("*.*")}


def is_there(name):
    place, rest = ROOT, name.split(".")
    while rest and (place / rest[0]).is_dir():
        place, rest = place / rest[0], rest[1:]
    if not rest:
        return True
    if (place / f"{rest[0]}.py").exists():
        place, rest = place / f"{rest[0]}.py", rest[1:]
    else:
        place = place / "__init__.py"
    text = place.read_text(encoding="utf-8") if place.exists() else ""
    return not rest or re.search(rf"^(?:def|class)? ?{rest[0]}\b", text, re.MULTILINE) is not None


@pytest.mark.parametrize("missing", [missing_paths, missing_files, missing_modules])
def test_what_the_documentation_and_docstrings_name_is_there(missing):
    found = {name: missing(text) for name, text in texts([*PAGES, *SOURCES]).items()}
    assert not {name: names for name, names in found.items() if names}


def test_names_of_what_is_gone_are_found():
    assert missing_paths("see training/gone.py and training/train.py") == ["training/gone.py"]
    assert missing_files("`gone.py`, `train.py`") == ["gone.py"]
    names = "training.gone training.bench.gone training.objectives.gone training.objectives.critic_loss training.train"
    assert missing_modules(names) == ["training.gone", "training.bench.gone", "training.objectives.gone"]


def test_the_page_of_the_weights_shows_the_recipes():
    """As flags: what each task changes of the defaults, and nothing else."""
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for task, recipe in RECIPES.items():
        (row,) = re.findall(rf"^\| {task} \|(.*)\|$", text, re.MULTILINE)
        parser = argparse.ArgumentParser()
        add_flags(parser)
        assert given_settings(parser.parse_args(row.strip(" `").split())) == recipe
