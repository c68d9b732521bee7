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
    for path in (ROOT / "README.md", ROOT / "docs" / "usage.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    exec(compile(example, "example", "exec"), {"__name__": "example"})


PAGES = [ROOT / "README.md", ROOT / "training" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "training" / "bench" / "results").glob("*.md"))
SOURCES = sorted(path for folder in ("task_losses", "training") for path in (ROOT / folder).rglob("*.py"))


def texts(paths):
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def test_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), ROOT / "training" / "README.md", ROOT / "tests" / "README.md", *ROOT.glob("docs/*.md")]
    broken = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_what_contributing_tells_to_change_is_there():
    """Each place: a file, and the names in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"^- `([\w/]+\.py)`: (.*)$", text, re.MULTILINE)
    assert len(places) >= 5
    for file, what in places:
        content = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", what):
            assert re.search(rf"\b{name}\b", content), f"CONTRIBUTING.md tells to change {name} in {file}"


def test_an_addition_touches_at_most_four_places():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How to add")[2].partition("\n## ")[0]
    for recipe in re.split(r"^\*\*", text, flags=re.MULTILINE)[1:]:
        assert len(re.findall(r"^- ", recipe, re.MULTILINE)) <= 4, recipe
