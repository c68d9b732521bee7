"""Trains the losses' discriminators; ``task_losses`` needs none of it."""

import os
import sys

# OpenMP reads it once, when torch is loaded: on a busy machine threads that spin at barriers take several times the
# processor time of those that work (docs/kernels.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A notebook names here what draws into it, also for the commands that it starts. Where their environment lacks that,
# matplotlib refuses to be imported; and they draw into files alone.
_drawing = os.environ.get("MPLBACKEND", "")
if "IPython" not in sys.modules and (_drawing in ("inline", "ipympl", "widget") or _drawing.startswith("module://")):
    del os.environ["MPLBACKEND"]
