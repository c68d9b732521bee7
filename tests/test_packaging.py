"""The wheel: what it holds, and that it works elsewhere without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fresh_install import build_wheel, install, run

from task_losses.losses import LOSSES
from task_losses.weights import MANIFEST

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_are_made_of_the_files_alone(wheel, tmp_path):
    """Byte for byte, whatever the folder, its age, the rights of its files, the time zone, the language."""
    here, there = tmp_path / "here", tmp_path / "some where" / "else"
    for folder in (here, there):
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv", "runs", "__pycache__"))
    for path in there.rglob("*"):
        os.utime(path, (10**9, 10**9))
        path.chmod(path.stat().st_mode & 0o700)
    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0"}
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    run(*build, tmp_path / "one", "--sdist", here, umask=0o022)
    run(*build, tmp_path / "two", there, umask=0o077, env=os.environ | elsewhere)  # the wheel by way of the sdist
    (sdist,) = (tmp_path / "one").iterdir()
    made = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert made == {sdist.name: sdist.read_bytes(), wheel.name: wheel.read_bytes()}


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    assert wheel.stat().st_size < 5_000_000
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"task_losses", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert "task_losses/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_carries_the_manifest_and_its_files(wheel):
    archive = zipfile.ZipFile(wheel)
    assert archive.read(f"task_losses/{MANIFEST}") == (ROOT / MANIFEST).read_bytes()
    entries = json.loads((ROOT / MANIFEST).read_text())["weights"]
    assert set(entries) == set(LOSSES)
    files = {f"task_losses/weights/{entry['filename']}" for entry in entries.values()}
    assert files == {name for name in archive.namelist() if name.endswith(".safetensors")}


def test_the_readme_in_the_wheel_has_no_link_that_is_dead_on_a_package_index(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    readme = archive.read(name).decode().partition("\n\n")[2]
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert len(links) > 20
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", readme)
    assert pictures
    assert all("/raw/main/docs/images/" in picture for picture in pictures)


def test_the_installed_wheel_works_offline(wheel, tmp_path):
    python = install(wheel, tmp_path)
    done = subprocess.run([python, ROOT / "tests" / "use_installed.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout) > 0
