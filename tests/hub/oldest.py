"""Run the Hub tests with the oldest huggingface_hub that pyproject.toml allows: python tests/hub/oldest.py [PYTEST ...]

The client comes from the package index, into an environment of its own; everything else is shared with this one.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    found = re.search(r'"huggingface-hub>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit('pyproject.toml names no oldest huggingface-hub; expected "huggingface-hub>=VERSION"')
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = next(path for path in Path(folder).glob("*/python*") if path.stem == "python")
        wanted = f"huggingface-hub=={found[1]}"
        print(f"with {wanted}", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wanted], check=True)
        purelib = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(purelib, check=True, capture_output=True, text=True).stdout.strip())
        shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "shared.pth").write_text("\n".join(shared))  # comes after the environment's own
        return subprocess.run([python, "-m", "pytest", "tests/hub", *sys.argv[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
