"""Lightning: a small denoiser with DenoiseLoss in the module. Needs ``pip install lightning``.

python examples/train_lightning.py          # about a minute on a CPU
"""

from __future__ import annotations

import argparse

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from train_pytorch import Denoiser, batch, photograph

from task_losses import DenoiseLoss


class Restorer(lightning.LightningModule):
    def __init__(self, network: nn.Module, weight: float = 5.0, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.loss = DenoiseLoss(loss_weight=weight)  # moves with the module, and is in no checkpoint

    def training_step(self, images: list[Tensor], index: int) -> Tensor:
        noisy, clean = images
        restored = self.network(noisy)
        value: Tensor = F.l1_loss(restored, clean) + self.loss(restored, clean)
        self.log("train/loss", value)
        return value

    def validation_step(self, images: list[Tensor], index: int) -> None:
        noisy, clean = images
        restored = self.network(noisy)
        self.log("val/psnr", -10 * torch.log10(F.mse_loss(restored.clamp(0, 1), clean)))
        shares = self.loss.per_scale(restored, clean)
        self.log_dict({f"val/scale{scale}": share.mean() for scale, share in shares.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    lightning.seed_everything(0)
    training = DataLoader(TensorDataset(*batch(photograph("coffee"), min(400, 4 * steps))), batch_size=4, shuffle=True)
    validation = DataLoader(TensorDataset(*batch(photograph("astronaut"), 8)), batch_size=4)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Restorer(Denoiser()), training, validation)
    for name, value in trainer.callback_metrics.items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
