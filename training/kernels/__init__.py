"""Kernels of the training: one operation per file, with its plain form in torch, its Triton kernels and its launcher.

Triton is optional: every module here imports without it.
"""
