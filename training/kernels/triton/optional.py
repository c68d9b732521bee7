"""Triton where it is installed. Kernels take ``jit`` and ``tl`` from here, so that their files import anywhere."""

from task_losses.fused.optional import TRITON_INSTALLED, interpreted, jit, tl

__all__ = ["TRITON_INSTALLED", "interpreted", "jit", "tl"]
