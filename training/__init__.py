"""Trains the losses' discriminators; ``task_losses`` needs none of it."""

import os
from importlib.util import find_spec

# OpenMP reads it once, when torch is loaded: on a busy machine threads that spin at barriers take several times the
# processor time of those that work (docs/kernels.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A notebook names here what draws into it. In another environment that may be missing, and matplotlib then refuses to
# be imported. Nothing in this package draws into notebooks.
_drawing = os.environ.get("MPLBACKEND", "")
if _drawing.startswith("module://") and find_spec(_drawing.removeprefix("module://").split(".")[0]) is None:
    del os.environ["MPLBACKEND"]
