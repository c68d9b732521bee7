"""A version of Triton that the tests do not know is a reason to skip them, not to fail."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from known_triton import VERSIONS, unknown

triton = pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

ROOT = Path(__file__).parents[2]

# Pretends to be a later Triton, in a process of its own.
LATER = """
import sys, pytest, triton
triton.__version__ = "3.99.0"
sys.exit(pytest.main(["-rs", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("version", "known"), [("3.5.1", True), ("3.9.0+git", True), ("3.4.0", False), ("3.50", False)]
)
def test_knows_by_major_and_minor(monkeypatch, version, known):
    monkeypatch.setattr(triton, "__version__", version)
    assert (unknown() is None) == known


def test_another_version_is_skipped_with_its_reason():
    files = ["tests/kernels/test_strict_interpreter.py", "tests/kernels/test_aot.py"]
    done = subprocess.run([sys.executable, "-c", LATER, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Triton 3\.99\.0 is not known: .* Install one of these", done.stdout)
    assert re.search(r"^\d+ skipped(, \d+ deselected)? in", done.stdout, re.MULTILINE), done.stdout


def test_the_dev_extra_asks_for_what_is_known():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ((low, high),) = re.findall(r'"triton>=3\.(\d+),<3\.(\d+);', text)
    assert tuple(f"3.{minor}" for minor in range(int(low), int(high))) == VERSIONS
