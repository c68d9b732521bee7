"""The critic's update written out: :mod:`.reference` in plain torch, ``cpu/`` in C, ``triton/`` for CUDA devices.

Each makes the losses, the gradients of all parameters and the statistics of one step, and knows nothing of training.
What chooses among them is :mod:`training.updates`. A new kernel needs its plain form beside it, and a test that holds
the two together in float64 (tests/kernels).
"""
