"""What the documentation shows, runs."""

import argparse
import re
from pathlib import Path

import pytest

from training.config import add_flags, given_settings
from training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
# Pages whose Python blocks other tests run: the page -> the file that does.
ELSEWHERE = {
    "docs/frameworks.md": "tests/frameworks/test_frameworks.py",
    "docs/hub.md": "tests/hub/test_hub_page.py",
}
SHOWN = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "training/README.md", "examples/README.md")
]
SHOWN += sorted((ROOT / "docs").rglob("*.md"))
# A block of code that no test runs stands below a comment: <!-- fragment: why -->.
BLOCK = re.compile(
    r"^(?:<!-- fragment: (?P<why>[^>]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(path):
    return list(BLOCK.finditer(path.read_text(encoding="utf-8")))


EXAMPLES = [
    pytest.param(block["code"], id=f"{path.name}-{number}")
    for path in SHOWN
    if path.relative_to(ROOT).as_posix() not in ELSEWHERE
    for number, block in enumerate(blocks(path))
    if block["language"] == "python" and not block["why"]
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "example", "exec"), {"__name__": "example"})


def test_python_is_called_python_and_what_runs_nowhere_says_why():
    """No block escapes by another name, and a reason is a reason."""
    for path in SHOWN:
        text = path.read_text(encoding="utf-8")
        assert text.count("```") == 2 * len(blocks(path)), f"{path.name}: a block without an end"
        for block in blocks(path):
            if block["why"]:
                assert len(block["why"].split()) >= 3, block[0]
            elif block["language"] not in ("python", "bash", "yaml", "toml", "json"):
                assert not re.search(r"^(?:import|from|def|class) |\w\(.*\)", block["code"], re.MULTILINE), block[0]


def test_blocks_that_other_tests_run_are_named_there():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "frameworks").glob("*.py"))
    for section in re.split(r"^## ", (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.partition("\n")[0]
        for language in re.findall(r"^```(\w+)$", section, re.MULTILINE):
            assert re.search(rf'"{title}"', source), f"no test runs the {language} of {title}"
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "training/README.md", "tests/README.md")
]
PAGES.append(ROOT / "examples" / "README.md")
PAGES += sorted((ROOT / "docs").rglob("*.md"))
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


def test_mentions_of_pages_are_links():
    """A page that is named can be clicked."""
    bare = {}
    for page in PAGES:
        code_and_links = r"^```.*?^```$|^ {4}.*?$|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|<!--.*?-->"
        text = re.sub(code_and_links, "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        if found := re.findall(r"\b[\w/]+\.md\b", text):
            bare[str(page.relative_to(ROOT))] = found
    assert not bare


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
