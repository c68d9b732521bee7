"""How kernels are started: as the loss's fused path starts its own, and watched together with it."""

from task_losses.fused.launch import Started, cdiv, kernel_dtype, launch_kernel, padded, running, watch

__all__ = ["Started", "cdiv", "kernel_dtype", "launch_kernel", "padded", "running", "watch"]
