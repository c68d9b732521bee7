"""Uses the installed package without a network, outside of a checkout: python tests/use_installed.py

Any attempt to reach a network ends it: a connection is an error, not something to catch and go on.
"""

import os
import socket
import sys
import tempfile


def refuse(*arguments, **options):
    print("a connection was attempted", flush=True)
    os._exit(3)


for owner, name in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
    setattr(owner, name, refuse)
os.chdir(tempfile.gettempdir())

import torch

import task_losses

x = torch.rand(2, 3, 64, 48, requires_grad=True)
y = torch.rand(2, 3, 64, 48)
for loss in (task_losses.SRLoss, task_losses.DenoiseLoss, task_losses.JPEGLoss):
    loss(pretrained=True)(x, y).backward()
assert "site-packages" in task_losses.__file__, f"this is a checkout, not the installed package: {task_losses.__file__}"
assert x.grad is not None
total = x.grad.abs().sum().item()
print(total)
sys.exit(0 if total > 0 else 1)
