"""The Wiener filter: the linear filter that restores a distorted image best.

What a restoration network is trained against is not the distortion but what is left after restoring: detail that
averaging has taken, and artefacts too strong to remove. The best linear restoration has both, costs no training, and
as a fake it teaches the critic to see them. (The paper's generator has this role too, learnt; docs/method.md.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-5  # of the pixels' mean square: keeps the equations solvable in flat images


def wiener_restored(distorted: Tensor, image: Tensor, side: int) -> Tensor:
    """The image's least-squares estimate from windows of its distorted version, all channels together.

    Args:
        distorted, image: (1, 3, H, W), same shape.
        side: of the window, odd; borders are replicated. 0 leaves the distorted image as it is.

    Returns:
        (1, 3, H, W); each channel is an affine function of the ``3 * side**2`` values in the window.
    """
    if side == 0:
        return distorted
    padded = F.pad(distorted, (side // 2,) * 4, mode="replicate")
    windows = F.unfold(padded, side)[0]
    windows = torch.cat([windows, torch.ones_like(windows[:1])])
    squares, products = (windows @ windows.T).double(), (windows @ image[0].flatten(1).T).double()
    squares.diagonal().add_(RIDGE * squares.diagonal().mean())
    weights = torch.linalg.solve_ex(squares, products).result.to(distorted.dtype)  # no host waits for its check
    restored: Tensor = weights.T @ windows
    return restored.view_as(image)
