"""Which settings of a released recipe are changed, one at a time, by the question that each answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.bench.ablation.altered import Altered, released

# Each alteration is what is changed of the task's released recipe: settings, or attributes of Altered.
QUESTIONS: dict[str, list[dict[str, Any]]] = {
    "adversary": [
        {"wiener": 0},
        {"wiener": 5},
        {"wiener": 9},
        {"upscale": True},
        {"upscale": True, "wiener": 0},
        {"generator": True, "wiener": 0, "upscale": True},
    ],
    "statistics": [{"shared_norm": False}],
    "steps": [{"steps": 25}, {"steps": 50}, {"steps": 100}, {"steps": 200}, {"steps": 400}],
    "updates": [{"critic_updates": 3, "steps": 34}],
    "width": [{"channels": (width,)} for width in (8, 24, 32, 48, 64)],
    "finest": [{"channels": (width,) * 7 + (last,)} for width, last in ((32, 24), (32, 16), (24, 16), (16, 32))],
    "pyramid": [
        {"longest_side": 120},
        {"longest_side": 280},
        {"scales": 6},
        {"scales": 4},
        {"scales": 5, "ratio": 0.6},
        {"scales": 4, "ratio": 0.5},
    ],
    "form": [
        {"taps": (1, 4, 5), "distance": "squared"},
        {"taps": (1, 4, 5), "distance": "absolute"},
        {"taps": (1, 4), "distance": "absolute"},
        {"taps": (0, 4), "distance": "squared"},
        {"taps": (0, 4), "distance": "absolute"},
        {"taps": (0, 1, 4), "distance": "squared"},
        {"taps": (4,), "distance": "squared"},
        {"taps": (1,), "distance": "squared"},
        {"taps": (0, 2), "distance": "squared"},
        {"taps": (0, 3), "distance": "squared"},
    ],
    "share": [{"image_share": share} for share in (0.1, 0.25, 0.5, 0.75, 0.97)],
    "texture": [  # its pull is no question: the dial is
        *({"texture_taps": taps} for taps in ((), (1,), (2,), (3,), (4,), (1, 4), (3, 4), (1, 2, 4))),
        *({"texture_skips": skips} for skips in (0, 2)),
    ],
    "pattern": [{"periods": ()}, {"periods": (3, 4)}, *({"periodic_weight": g} for g in (0.01, 0.3, 3.0))],
    "exponent": [{"image_exponent": exponent} for exponent in (1.0, 1.5, 1.75, 2.0)],
    "range": [{"input_range": (-1.0, 1.0)}],
    "penalty": [{"penalty_weight": 0.01}, {"penalty_weight": 1.0}, {"penalty_weight": 10.0}],
    "strength": [
        {"jpeg_quality": (10, 10)},
        {"jpeg_quality": (5, 15)},
        {"jpeg_quality": (20, 60)},
        {"noise_sigma": (25.0, 25.0)},
        {"noise_sigma": (5.0, 25.0)},
        {"noise_sigma": (40.0, 80.0)},
    ],
    "image": [{"image": f"skimage:{name}"} for name in ("astronaut", "coffee", "rocket")],
    # The first is the released recipe itself, trained again: what other kernels and versions make of it.
    "seed": [{"anew": True}, *({"seed": seed} for seed in (1, 2, 3))],
    "objective": [
        {"objective": "hinge", "spectral_norm": True},
        {"objective": "hinge", "spectral_norm": False},
        {"objective": "wgan-gp", "spectral_norm": False},
    ],
    "average": [{"average": 0.9}, {"average": 0.98}],
    "normalisation": [{"unit_features": True}],
    "weights": [
        *({"scale_growth": growth} for growth in (0.5, 0.71, 1.41, 2.0)),
        {"equal_scales": True},
        {"tap_weights": (1.0, 3.0)},
        {"tap_weights": (3.0, 1.0)},
    ],
    "resolution": [{"resolution": "full"}],
}
OF_ONE_TASK = {"jpeg_quality": "jpeg", "noise_sigma": "denoise"}


def alterations(task: str, question: str, images: Sequence[Path] = ()) -> Iterator[tuple[dict[str, Any], Altered]]:
    """What is changed, and the result; what the recipe has already is left out.

    Args:
        images: files that the question ``image`` tries too.
    """
    recipe = released(task)
    further = [{"image": str(path)} for path in images if question == "image"]
    for changes in [*QUESTIONS[question], *further]:
        if any(OF_ONE_TASK.get(name, task) != task for name in changes):
            continue
        if changes.keys() & {"image_share", "image_exponent"} and 0 not in recipe.taps:  # no image to speak of
            continue
        try:
            altered = Altered.of(recipe, changes)
        except ValueError as error:  # such as super-resolution from a level that was not upscaled
            print(f"{task} {changes}: left out: {error}", file=sys.stderr)
            continue
        if altered != Altered(recipe):
            yield changes, altered
