"""Makes the sound seed of each target anew: python tests/fuzz/make_seeds.py. What fuzzing found lies beside them."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from legacy_writer import legacy_file  # noqa: E402

from task_losses.architecture import Architecture  # noqa: E402
from task_losses.weights import describe, serialize_weights, tensor_shapes  # noqa: E402
from training import train  # noqa: E402
from training.bench.authors import AuthorsLoss  # noqa: E402
from training.config import Config  # noqa: E402
from training.run_folder import RunFolder  # noqa: E402


def sound() -> dict[str, bytes]:
    """Target -> the smallest input that it takes."""
    torch.manual_seed(0)
    form = Architecture(channels=(1,), depth=2, taps=(1, 2))
    tensors = {name: torch.randn(shape) / 3 for name, shape in tensor_shapes(form).items()}
    file = serialize_weights(tensors, form, {"task": "jpeg", "image": {"name": "cat.png"}, "license": "MIT"})
    entry = describe(file, "jpeg.safetensors")
    picture = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(picture, "png")
    return {
        "weights": file,
        "manifest": json.dumps({"schema": 1, "revision": None, "weights": {"jpeg": entry}}).encode(),
        "legacy": legacy_file(list(AuthorsLoss((1,)).discriminators)),
        "picture": picture.getvalue(),
        "checkpoint": checkpoint(),
        "configuration": json.dumps(asdict(Config())).encode(),
    }


def checkpoint() -> bytes:
    """That of a training in the middle."""
    small = "--scales 1 --longest-side 17 --channels 1 --steps 2 --checkpoint-every 1 --kernels autograd"
    found, honest = [], RunFolder.save_checkpoint

    def save(self: RunFolder, content: dict[str, Any], config: Config) -> None:
        honest(self, content, config)
        found.append(self.checkpoint_path.read_bytes())

    RunFolder.save_checkpoint = save  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        train.main([*small.split(), "--task", "denoise", "--out", folder])
    return found[len(found) // 2]


def main() -> None:
    for target, data in sound().items():
        folder = HERE / "seeds" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sound").write_bytes(data)
    with zipfile.ZipFile(HERE / "seeds" / "checkpoint" / "sound") as archive:
        (pickle,) = (entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        (HERE / "seeds" / "checkpoint" / "pickle").write_bytes(archive.read(pickle))


if __name__ == "__main__":
    main()
