"""The networks of one scale: the critic, in the paper's form the generator, and their optimizers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from training.adam import adam, descend, load_moments, set_rate
from training.config import Config
from training.networks import Discriminator, Generator, Network
from training.objectives import Critic, generator_loss, spectrally_normalised
from training.updates import Judged, Request
from training.wiener import wiener_restored


class Scale:
    """The networks of one scale and their optimizers.

    Args:
        scale: number of it, 0 for the coarsest.
        device: of the networks.
    """

    def __init__(self, config: Config, scale: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.rate: float | None = None  # as the optimizers have it, so that no device must be asked
        width = config.architecture.channels[scale]
        with torch.random.fork_rng(devices=[]):  # the same initial weights, wherever a run was resumed
            torch.manual_seed(config.seed * 1000 + scale)
            self.critic = Discriminator(width).to(device)
            self.networks: dict[str, Network] = {"discriminator": self.critic}
            if config.generator:
                self.networks["generator"] = Generator(width).to(device)
        self.optimizers = {
            name: adam(network.parameters(), config.lr, config.betas) for name, network in self.networks.items()
        }

    def shown(self, image: Tensor) -> Tensor:
        """An image in [0, 1] on the device, as the networks take it: in their range."""
        low, high = self.config.input_range
        return low + (high - low) * image

    def fake(self, distorted: Tensor, level: Tensor) -> Tensor:
        """The distorted level as the adversary receives it: restored by the Wiener filter, in the networks' range.

        Args:
            distorted, level: (1, 3, H, W) in [0, 1], on the device.
        """
        return self.shown(wiener_restored(distorted, level, self.config.wiener))

    def begin_step(self, step: int) -> None:
        """Sets the learning rate of a step, by the number of steps made before it at this scale."""
        config = self.config
        rate = config.lr * (config.lr_decay if step >= int(config.lr_decay_at * config.steps) else 1)
        if rate != self.rate:
            for optimizer in self.optimizers.values():
                set_rate(optimizer, rate)
            self.rate = rate

    def request(self, real: Tensor, fake: Tensor, mix: float) -> Request:
        """The update that the critic needs; with a generator the fake is what it makes of ``fake``."""
        if "generator" in self.networks:
            with torch.no_grad():
                fake = self.networks["generator"](fake)
        return Request(self.critic, self.optimizers["discriminator"], real, fake, mix, self.config.critic_objective)

    def losses(self, judged: Judged, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """A step's losses by name, after the generator's updates where there is one."""
        losses = {"critic_distance": judged.distance}
        if self.config.objective == "wgan-gp":
            losses["gradient_penalty"] = judged.penalty
        return losses | (self._update_generator(real, fake) if "generator" in self.networks else {})

    def _update_generator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        config, generator = self.config, self.networks["generator"]
        low, high = config.input_range
        weight = config.reconstruction_weight * (2 / (high - low)) ** 2  # stated for images in [-1, 1]
        parameters = list(generator.parameters())
        for _ in range(config.generator_updates):
            made = generator_loss(self._acting_critic(), real, generator(fake), weight, config.shared_norm)
            descend(self.optimizers["generator"], parameters, torch.autograd.grad(made.total, parameters))
        return {"adversarial": made.adversarial, "reconstruction": made.reconstruction}

    def _acting_critic(self) -> Critic:
        """The critic with the weights that it is trained to act with."""
        if not self.config.spectral_norm:
            return self.critic
        return partial(functional_call, self.critic, spectrally_normalised(dict(self.critic.named_parameters())))

    @torch.no_grad()
    def attempt(self, distorted: Tensor, level: Tensor) -> Tensor:
        """What the adversary makes of the distorted level, in [0, 1]; arguments as for :meth:`fake`."""
        made = self.fake(distorted, level)
        if "generator" in self.networks:
            made = self.networks["generator"](made)
        low, high = self.config.input_range
        return ((made - low) / (high - low)).clamp(0, 1)

    def outcome(self) -> dict[str, Tensor]:
        """The state of the critic that the loss is made from."""
        state = self.critic.state_dict()
        return spectrally_normalised(state) if self.config.spectral_norm else state

    def state(self) -> dict[str, Any]:
        networks = {name: network.state_dict() for name, network in self.networks.items()}
        return {**networks, "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()}}

    def load_state(self, state: dict[str, Any], same_scale: bool) -> None:
        """Takes up a scale where it was left, or starts from the coarser scale's networks where widths match."""
        inherits = self.config.inherit and (
            state["discriminator"]["last.weight"].shape == self.critic.last.weight.shape
        )
        for name, network in self.networks.items():
            if same_scale or inherits:
                network.load_state_dict(state[name])
            if same_scale:
                load_moments(self.optimizers[name], state["optimizers"][name])
