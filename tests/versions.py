"""Run tests with other versions: python tests/versions.py PYTHON {lowest-direct,highest} [PYTEST ...]. Needs uv.

lowest-direct takes the oldest of everything that pyproject.toml names, of what has a wheel for that Python; highest the
newest. The first line says which these are.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEETS_THEM = """
    tests/test_losses.py tests/test_pyramid.py tests/test_terms.py tests/test_pictures.py tests/test_transforms.py
    tests/test_images.py tests/test_files.py tests/training/test_export.py
""".split()  # what calls most of what changes from one version to another
SHOWN = ("torch", "huggingface_hub", "safetensors", "numpy", "pillow")


def uv(*arguments: object) -> None:
    subprocess.run(["uv", *map(str, arguments), "--quiet"], cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="a version or a path, as uv takes it")
    parser.add_argument("resolution", choices=["lowest-direct", "highest"])
    options, pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        environment, wanted = Path(folder, "venv"), Path(folder, "requirements.txt")
        uv("venv", "--python", options.python, environment)
        python = next(path for path in environment.glob("*/python*") if path.stem == "python")
        into = ("--python", python)
        # Two steps, since the project itself may be built from source and nothing else may.
        compiled = ("--resolution", options.resolution, "--extra", "test", "--no-build", "--output-file", wanted)
        uv("pip", "compile", *into, *compiled, "pyproject.toml")
        uv("pip", "install", *into, "--no-build", "--requirements", wanted)
        uv("pip", "install", *into, "--no-deps", "--editable", ".")
        versions = "import importlib.metadata as m, platform as p, sys; "
        versions += "print(p.python_version(), *map(m.version, sys.argv[1:]), sep=' | ')"
        subprocess.run([python, "-c", versions, *SHOWN], check=True)
        environ = dict(os.environ, PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")
        return subprocess.run([python, "-m", "pytest", *(pytest or MEETS_THEM)], cwd=ROOT, env=environ).returncode


if __name__ == "__main__":
    sys.exit(main())
