"""Plain PyTorch: a small denoiser, trained with L1, then with L1 and DenoiseLoss.

python examples/train_pytorch.py            # about a minute on a CPU
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from task_losses import DenoiseLoss, weight_for

SIGMA = 25 / 255


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image, (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255


def batch(image: Tensor, count: int, side: int = 96) -> tuple[Tensor, Tensor]:
    """Noisy and clean patches."""
    height, width = image.shape[-2:]
    corners = [(int(torch.randint(height - side, ())), int(torch.randint(width - side, ()))) for _ in range(count)]
    clean = torch.cat([image[..., y : y + side, x : x + side] for y, x in corners])
    return clean + SIGMA * torch.randn_like(clean), clean


class Denoiser(nn.Module):
    """Says what is noise; the rest is the image."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        middle = [layer for _ in range(3) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
        self.noise = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), *middle, nn.Conv2d(channels, 3, 3, padding=1)
        )

    def forward(self, noisy: Tensor) -> Tensor:
        restored: Tensor = noisy - self.noise(noisy)
        return restored


def train(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        noisy, clean = batch(image, 4)
        optimizer.zero_grad()
        loss(network(noisy), clean).backward()
        optimizer.step()


def report(name: str, network: nn.Module, image: Tensor, perceptual: DenoiseLoss) -> None:
    torch.manual_seed(1)  # the same noise for all
    noisy = image + SIGMA * torch.randn_like(image)
    with torch.no_grad():
        restored = network(noisy)
        psnr = -10 * torch.log10(F.mse_loss(restored.clamp(0, 1), image))
        print(f"{name:>20}: PSNR {psnr:.2f} dB, DenoiseLoss {perceptual(restored, image):.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps with L1, and then with both")
    steps = parser.parse_args().steps

    torch.manual_seed(0)
    training, test = photograph("coffee"), photograph("astronaut")[..., :256, 128:384]
    network, perceptual = Denoiser(), DenoiseLoss()

    train(network, F.l1_loss, training, steps, lr=1e-3)
    report("L1", network, test, perceptual)

    # After some training with L1 alone: how much of the loss pulls as hard as L1 does?
    noisy, clean = batch(training, 4)
    weight = weight_for(perceptual, network(noisy).detach(), clean)
    print(f"weight beside L1: {weight:.1f}")

    def both(restored: Tensor, clean: Tensor) -> Tensor:
        value: Tensor = F.l1_loss(restored, clean) + weight * perceptual(restored, clean)
        return value

    train(network, both, training, steps, lr=3e-4)
    report("L1 and DenoiseLoss", network, test, perceptual)


if __name__ == "__main__":
    main()
