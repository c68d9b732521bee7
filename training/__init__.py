"""Trains the losses' discriminators; ``task_losses`` needs none of it."""

import os

# OpenMP reads it once, when torch is loaded: on a busy machine threads that spin at barriers take several times the
# processor time of those that work (docs/kernels.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
