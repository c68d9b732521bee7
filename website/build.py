"""Builds the site of the documentation: ``python website/build.py OUT``.

The pages are those of ``docs/``, and the few of ``PAGES`` that stand elsewhere in the repository. They link to each
other as files of the repository do, so that they can be read there too. Here these links become links between pages;
what is no page of the site, a source file for example, becomes a link into the repository.

The generator is Zensical. It is maintained; Material for MkDocs, whose look it has, is not any more. It reads plain
Markdown, checks every link and anchor (``--strict``), makes the API page from the docstrings, and its pages ask no
other host for fonts or scripts. Sphinx would be the choice for pages that run code while they are built; here the
tests run it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
# Pages that stand outside of docs/: file in the repository -> page.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "training/README.md": "training.md",
    "tests/README.md": "tests.md",
    "training/bench/results/quality.md": "all_results.md",
}
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[^\n]*$)", re.DOTALL | re.MULTILINE)


def repository() -> str:
    """The address that pyproject.toml gives."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (address,) = re.findall(r'^Repository = "(.*)"$', text, re.MULTILINE)
    return str(address)


def page_of(file: str) -> str | None:
    """The page, or other file of the site, that a file of the repository becomes."""
    return PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)


def with_links_of_the_site(text: str, file: str) -> str:
    """The text of a page with its links as the site has them.

    Raises:
        ValueError: a link leads to nothing.
    """
    page = page_of(file)
    assert page is not None

    def link(found: re.Match[str]) -> str:
        begin, target, end = found.groups()
        place = (ROOT / file).parent / target
        if not place.exists():
            raise ValueError(f"{file}: there is no {target}")
        inside = place.resolve().relative_to(ROOT.resolve()).as_posix()
        there = page_of(inside)
        if there is None or place.is_dir():
            return f"{begin}{repository()}/{'tree' if place.is_dir() else 'blob'}/main/{inside}{end}"
        return begin + Path(os.path.relpath(there, Path(page).parent)).as_posix() + end

    parts = FENCE.split(text)  # what stands in fences is code
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def prepare(folder: Path) -> None:
    """Writes the generator's settings and pages into a folder."""
    pages = folder / "docs"
    shutil.copytree(ROOT / "docs", pages)
    shutil.copytree(HERE / "theme", pages / "theme")
    for file in [*PAGES, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]:
        text = (ROOT / file).read_text(encoding="utf-8")
        (pages / str(page_of(file))).write_text(with_links_of_the_site(text, file), encoding="utf-8")
    for name in ("zensical.toml", "docstrings.py"):
        shutil.copy(HERE / name, folder)


def build(out: Path) -> None:
    """Builds the site into a folder, which is replaced.

    Raises:
        ValueError: a link of a page leads to nothing.
        subprocess.CalledProcessError: the generator found a fault; it has said which.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": places}, check=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / "site", out)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python website/build.py", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the site; what is there is replaced")
    try:
        build(parser.parse_args(arguments).out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
