"""What the documentation shows, runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "usage.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example):
    exec(compile(example, "example", "exec"), {"__name__": "example"})


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "training" / "README.md", *(ROOT / "docs").glob("*.md")]
    broken = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
        for target in re.findall(r"\b((?:docs|training|task_losses|tests)/[\w/.-]+\.(?:md|py))\b", text):
            if not (ROOT / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken
