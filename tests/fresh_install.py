"""The project's wheel in a fresh environment that shares every other package with this one."""

import os
import site
import subprocess
import sys
from pathlib import Path


def run(*command, **options) -> str:
    """What a command printed. Fails if it did."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def build_wheel(project: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment in which the wheel is installed."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # A path entry, not a copy of torch. Editable installs are path files of their own and are not followed here.
    shared = [path for path in sys.path if path in site.getsitepackages() or Path(path).name == "site-packages"]
    (packages / "shared.pth").write_text("\n".join(shared))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    return python
