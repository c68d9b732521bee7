"""Trains the discriminators of a task-specific loss on ONE image.

    python -m training.train --task jpeg --out runs/jpeg
    python -m training.export runs/jpeg

Phase 1 of Mustafa et al., "Training a Task-Specific Image Reconstruction Loss", WACV 2022 (arXiv 2103.14616). Scale by
scale, from coarse to fine, a discriminator learns to tell the level of the image from what the task's distortion
makes of the coarser level: upscaled, distorted and, in the paper's form, restored by a generator that is trained
against it. See docs/method.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from collections.abc import Generator as Course
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from training.adam import adam, descend, load_moments, set_rate
from training.config import Config, add_flags, given_settings
from training.distortions import make_adversary, make_distortion, uniform
from training.images import open_image, pyramid, resize_clipped
from training.networks import Discriminator, Generator, Network
from training.objectives import Critic, generator_loss, spectrally_normalised
from training.provenance import machine
from training.run_folder import RunFolder
from training.sweep import check_alike, read_sweep
from training.updates import Judged, Request, updates_of

# Settings, folder, and what a checkpoint left.
Run = tuple[Config, RunFolder, "dict[str, Any] | None"]


def train(config: Config, folder: RunFolder, checkpoint: dict[str, Any] | None = None) -> None:
    """Runs phase 1, or what a checkpoint left of it, into a folder that is open for logging."""
    train_together([(config, folder, checkpoint)])


def train_together(
    runs: Sequence[Run],
    make_scale: Callable[[Config, int, torch.device], Scale] | None = None,
) -> None:
    """Several runs, whose critics are updated together; each ends with the same weights as by itself.

    Args:
        make_scale: from settings, scale and device, for another treatment of the critics; None: :class:`Scale`.

    Raises:
        ValueError: the back end that they ask for cannot be used here.
        FloatingPointError: a loss is not finite any more.
    """
    torch.backends.cudnn.allow_tf32 = False  # the penalty's second derivatives feel TF32's 10-bit mantissa
    config = runs[0][0]
    update, reason = updates_of(config, torch.device(device_name(config.device)))
    print(f"kernels: {reason}", file=sys.stderr)
    kernels = reason.split(":")[0]
    courses = [course(*run, kernels, make_scale or Scale, show_progress=index == 0) for index, run in enumerate(runs)]
    answers: list[Judged | None] = [None] * len(courses)
    while courses:
        requests, going = [], []
        for current, answer in zip(courses, answers, strict=True):
            with contextlib.suppress(StopIteration):  # this one has ended
                requests.append(current.send(answer))
                going.append(current)
        courses, answers = going, [*update(requests)]


def course(
    config: Config,
    folder: RunFolder,
    checkpoint: dict[str, Any] | None,
    kernels: str,
    make_scale: Callable[[Config, int, torch.device], Scale],
    show_progress: bool = True,
) -> Course[Request, Judged | None, None]:
    """One run of phase 1: yields the critic's updates that it needs, and wants their losses sent back.

    Args:
        kernels: what makes the updates, for the record.
        make_scale: see :func:`train_together`.
    """
    device = torch.device(device_name(config.device))
    source, _ = open_image(config.image, config.image_licence)
    levels = pyramid(source, config.scales, config.ratio, config.longest_side)
    distort = make_adversary(config)
    draws = torch.Generator().manual_seed(config.seed)
    origin, begun = machine() | {"kernels": kernels, "seconds": 0.0}, time.monotonic()

    finished: list[dict[str, Tensor]] = []
    coarser, *levels = levels
    scale, step, state = 0, 0, None
    if checkpoint is not None:
        finished, coarser, scale, step, state = (
            checkpoint[key] for key in ("finished", "coarser", "scale", "step", "state")
        )
        draws.set_state(checkpoint["draws"])
        origin["seconds"] = json.loads(checkpoint["origin"])["seconds"]

    pixels = [level.shape[2] * level.shape[3] for level in levels]
    progress = tqdm(
        total=config.steps * sum(pixels),  # a step's time grows with its pixels: so "left" is honest
        initial=config.steps * sum(pixels[:scale]) + step * sum(pixels[scale : scale + 1]),
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
        mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file wants few lines
        disable=not show_progress,
    )

    def save(state: dict[str, Any]) -> None:
        """Keeps everything that a resumed run needs to go on as if it had never stopped."""
        spent = origin | {"seconds": round(origin["seconds"] + time.monotonic() - begun, 1)}
        content = {"finished": finished, "coarser": coarser, "scale": scale, "step": step, "state": state}
        folder.save_checkpoint({**content, "draws": draws.get_state(), "origin": json.dumps(spent)}, config)

    while scale < config.scales:
        progress.set_description(f"scale {scale + 1}/{config.scales}")
        current = make_scale(config, scale, device)
        if state is not None:  # a checkpoint's, or the coarser scale's
            current.load_state(state, same_scale=step > 0)
        real = levels[scale]
        start = resize_clipped(coarser, (real.shape[2], real.shape[3])) if config.upscale else real
        shown = current.received(real)

        while step < config.steps:
            distorted = distort(start, real, draws)
            losses = yield from current.step(shown, current.received(distorted), step, draws)
            folder.log(scale * config.steps + step, scale, losses)
            step += 1
            rate = progress.format_dict.get("rate") or 0
            progress.set_postfix_str(f"{rate / pixels[scale]:.1f} steps/s", refresh=False)
            progress.update(pixels[scale])
            if step % config.checkpoint_every == 0 and step < config.steps:
                save(current.state())

        distorted = distort(start, real, draws)
        attempt = current.attempt(distorted).cpu()
        folder.save_preview(scale, (real, distorted, attempt))
        # With a generator the next scale builds on its output, otherwise on the true level.
        coarser = attempt if config.generator else real
        state = current.state()
        finished.append({name: value.cpu() for name, value in current.outcome().items()})
        scale, step = scale + 1, 0
        save(state)
    progress.close()
    folder.save_curves()
    folder.close()


class Scale:
    """The networks of one scale and their optimisers."""

    def __init__(self, config: Config, scale: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.rate: float | None = None  # as the optimizers have it, so that no device must be asked
        width = config.architecture.channels[scale]
        with torch.random.fork_rng(devices=[]):  # the same initial weights, wherever a run was resumed
            torch.manual_seed(config.seed * 1000 + scale)
            self.networks: dict[str, Network] = {"discriminator": Discriminator(width)}
            if config.generator:
                self.networks["generator"] = Generator(width)
        self.optimizers = {
            name: adam(network.to(device).parameters(), config.lr, config.betas)
            for name, network in self.networks.items()
        }

    def step(
        self, real: Tensor, distorted: Tensor, step: int, draws: torch.Generator
    ) -> Course[Request, Judged | None, dict[str, Tensor]]:
        """One step of the adversaries: yields the critic's updates that it needs, returns the losses.

        Args:
            real, distorted: (1, 3, H, W), as :meth:`received` gives them.
            step: number of steps made at this scale, which decides the learning rate.
        """
        config = self.config
        rate = config.lr * (config.lr_decay if step >= int(config.lr_decay_at * config.steps) else 1)
        if rate != self.rate:
            for optimizer in self.optimizers.values():
                set_rate(optimizer, rate)
            self.rate = rate
        critic, generator = self.networks["discriminator"], self.networks.get("generator")
        assert isinstance(critic, Discriminator)

        fake, judged = distorted, None
        for _ in range(config.critic_updates):
            if generator is not None:
                with torch.no_grad():
                    fake = generator(distorted)
            mix = uniform(0, 1, draws)
            judged = yield Request(critic, self.optimizers["discriminator"], real, fake, mix, config.critic_objective)
        assert judged is not None
        losses = {"critic_distance": judged.distance, "gradient_penalty": judged.penalty}
        if generator is not None:
            low, high = config.input_range
            weight = config.reconstruction_weight * (2 / (high - low)) ** 2  # stated for images in [-1, 1]
            for _ in range(config.generator_updates):
                made = generator_loss(self._acting_critic(), real, generator(distorted), weight, config.shared_norm)
                self._update_generator(made.total)
            losses |= {"adversarial": made.adversarial, "reconstruction": made.reconstruction}
        return losses

    def _update_generator(self, loss: Tensor) -> None:
        parameters = list(self.networks["generator"].parameters())
        descend(self.optimizers["generator"], parameters, torch.autograd.grad(loss, parameters))

    @torch.no_grad()
    def attempt(self, distorted: Tensor) -> Tensor:
        """What the adversary makes of the distorted level, in [0, 1]."""
        if "generator" in self.networks:
            low, high = self.config.input_range
            distorted = (self.networks["generator"](self.received(distorted)) - low) / (high - low)
        return distorted.clamp(0, 1)

    def outcome(self) -> dict[str, Tensor]:
        """The state of the critic that the loss is made from."""
        state = self.networks["discriminator"].state_dict()
        return spectrally_normalised(state) if self.config.spectral_norm else state

    def _acting_critic(self) -> Critic:
        """The critic with the weights that it is trained to act with."""
        critic = self.networks["discriminator"]
        if not self.config.spectral_norm:
            return critic
        return partial(functional_call, critic, spectrally_normalised(dict(critic.named_parameters())))

    def state(self) -> dict[str, Any]:
        networks = {name: network.state_dict() for name, network in self.networks.items()}
        return {**networks, "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()}}

    def load_state(self, state: dict[str, Any], same_scale: bool) -> None:
        """Takes up a scale where it was left, or starts from the coarser scale's networks where widths match."""
        inherits = self.config.inherit and (
            state["discriminator"]["last.weight"].shape == self.networks["discriminator"].last.weight.shape
        )
        for name, network in self.networks.items():
            if same_scale or inherits:
                network.load_state_dict(state[name])
            if same_scale:
                load_moments(self.optimizers[name], state["optimizers"][name])

    def received(self, image: Tensor) -> Tensor:
        """An image in [0, 1] on the CPU, as the networks take it: in their range, on their device."""
        low, high = self.config.input_range
        image = low + (high - low) * image
        if self.device.type == "cuda":
            image = image.pin_memory()  # from other memory the copy would wait for the device
        return image.to(self.device, non_blocking=True)


def device_name(name: str) -> str:
    """The device that a setting means.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no CUDA device; leave the flag out or use --device cpu")
    return name


def prepare(arguments: argparse.Namespace) -> list[Run]:
    """The runs that a command line asks for: one, or those of ``--batch-runs``.

    Raises:
        ValueError, OSError: settings, folders and checkpoints do not fit together.
    """
    given = given_settings(arguments)
    out = Path(arguments.out or f"runs/{given.get('task', Config.task)}")
    if arguments.batch_runs is None:
        return [prepare_run(out, given, arguments.resume)]
    entries = read_sweep(Path(arguments.batch_runs))
    runs = [prepare_run(out / name, {**given, **own}, arguments.resume) for name, own in entries.items()]
    check_alike({name: config for name, (config, _, _) in zip(entries, runs, strict=True)})
    return runs


def prepare_run(path: Path, given: dict[str, Any], resume: bool) -> Run:
    folder = RunFolder(path)
    if not resume:
        return Config(**given), folder, None
    checkpoint = folder.load_checkpoint()
    config = Config.from_dict(json.loads(checkpoint["config"]))
    here = {name: given[name] for name in ("device", "kernels") if name in given}
    if replace(config, **given) != replace(config, **here):
        changed = {k: v for k, v in given.items() if getattr(config, k) != v and k not in here}
        raise ValueError(f"the run in {path} was started with other settings than {changed}: leave them out to resume")
    return replace(config, **here), folder, checkpoint


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", help="folder of the run [runs/TASK]")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out after its newest checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.add_argument(
        "--batch-runs",
        metavar="FILE",
        help="several runs at once, each into a folder of its name in --out: JSON, a name and settings of its own for "
        "each; other flags are for all",
    )
    add_flags(parser)
    arguments = parser.parse_args(argv)
    try:
        runs = prepare(arguments)
        if arguments.dry_run:
            for config, _, _ in runs:
                print(config.to_json())
            return 0
        for config, _, _ in runs:  # fail before a folder is made
            open_image(config.image), make_distortion(config)
            updates_of(config, torch.device(device_name(config.device)))
        for config, folder, checkpoint in runs:
            if checkpoint is None:
                folder.create(config)
            else:
                folder.resume_logs(config, checkpoint["scale"] * config.steps + checkpoint["step"])
        train_together(runs)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = f" --batch-runs {arguments.batch_runs}" if arguments.batch_runs else ""
        print(f"\nstopped; continue with --resume --out {arguments.out or runs[0][1].path}{again}", file=sys.stderr)
        return 130
    for _, folder, _ in runs:
        print(f"done: {folder.path}; next: python -m training.export {folder.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
