"""No network: the pixels of a noisy image follow a loss's gradient to the reference.

    python examples/optimise_pixels.py --task sr --out pixels.png       # half a minute on a CPU

Papers on perceptual losses show this to tell what a loss sees: what it does not see stays as it was. The picture holds
the start, the result and the reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from task_losses import DenoiseLoss, JPEGLoss, SRLoss

LOSSES = {"sr": SRLoss, "denoise": DenoiseLoss, "jpeg": JPEGLoss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=LOSSES, default="sr")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("pixels.png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    reference = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float()[..., :192, 144:336] / 255
    start = (reference + 0.2 * torch.randn_like(reference)).clamp(0, 1)
    pixels, loss = start.clone().requires_grad_(), LOSSES[options.task]()
    optimizer = torch.optim.Adam([pixels], lr=0.01)
    for step in range(options.steps + 1):
        value = loss(pixels, reference)
        if step % max(1, options.steps // 5) == 0:
            psnr = -10 * torch.log10(F.mse_loss(pixels.detach(), reference))
            print(f"step {step:4}: {type(loss).__name__} {value.item():.5f}, PSNR {psnr:.2f} dB")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    row = torch.cat([start, pixels.detach().clamp(0, 1), reference], dim=-1)[0]
    Image.fromarray((row * 255).round().byte().permute(1, 2, 0).numpy()).save(options.out)
    print(f"start, result, reference: {options.out}")


if __name__ == "__main__":
    main()
