"""A study's folder as the benchmark leaves it, with made-up scores, for the tests of what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.bench.study.restoration import Recipe

BASE = {"psnr": 25.0, "ssim": 0.7, "stlpips": 0.27, "cvvdp": 7.7, "flip": 0.1, "pattern": 1.0, "dots": 1.0}
IMAGES = 12


def write_cell(
    folder: Path,
    task: str,
    loss: str,
    *,
    ratio: float | None = None,
    seed: int = 0,
    identity: str = "",
    level: int = 4,
    recipe: Recipe | None = None,
    noise: float = 0.0,
    **better: float,
) -> Path:
    """Writes the result of one cell.

    Args:
        noise: spread over images of what ``better`` adds.
        better: metric -> what is added to a score that all cells share.
    """
    image_scores = np.random.default_rng(0).normal(0, 1, IMAGES)
    own = np.random.default_rng(sum(map(ord, f"{task}{loss}{ratio}{seed}"))).normal(0, noise, IMAGES)
    scores = {
        f"image{i}": {
            name: float(BASE[name] + 0.1 * BASE[name] * image_scores[i] + better.get(name, 0.0) + own[i])
            for name in BASE
        }
        for i in range(IMAGES)
    }
    result: dict[str, Any] = {
        "config": {
            "task": task,
            "loss": loss,
            "ratio": ratio,
            "seed": seed,
            "identity": identity or loss,
            "recipe": (recipe or Recipe()).settings,
            "start": "0",
        },
        "evaluations": {"crop256": {str(level): scores}},
        "seconds": 0.4,
        "loss_seconds": {"vgg": 0.9, "l1": 0.001}.get(loss, 0.2),
        "loss_memory_mb": 31.0,
        "curve": [{"step": step, "psnr": 25 + step / 1e4, "stlpips": 0.27 - step / 1e5} for step in (0, 150, 300)],
    }
    path = folder / "cells" / f"{task}-{loss}-{ratio}-s{seed}-{identity}.json".replace(":", "_")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path
