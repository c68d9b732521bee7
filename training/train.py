"""Trains the discriminators of a task-specific loss on ONE image.

    python training/train.py --task jpeg      # the released recipe, into runs/jpeg
    python training/export.py runs/jpeg       # runs/jpeg/jpeg.safetensors

Phase 1 of Mustafa et al., "Training a Task-Specific Image Reconstruction Loss", WACV 2022 (arXiv 2103.14616). Scale by
scale, from coarse to fine, a discriminator learns to tell the level of the image from what the task's distortion
makes of it and, in the paper's form, a generator that is trained against it restores. See docs/method.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import_module("training")  # before torch: it says how torch's threads wait

import torch

from task_losses.texts import take_any_name
from training.config import INDIFFERENT, Config, add_flags, given_settings, task_of
from training.distortions import make_distortion
from training.draws import drawn
from training.images import resize_clipped, start_of
from training.material import Material, changes
from training.progress import Progress, seconds_of
from training.recipes import FORMS, settings
from training.run_folder import RunFolder
from training.run_state import RunState
from training.scale import Scale
from training.scaling import draw_examples
from training.sweep import check_alike, check_sizes, read_sweep
from training.threads import use_threads
from training.together import Training, train_together
from training.trial import remarks
from training.updates import updates_of

EXAMPLES = """\
examples:
  a built-in distortion, and a photograph of your own:
    python -m training.train --task webp --webp-quality 10 50 --image photo.jpg
  a function of your own, in my_module.py of the current folder:
    python -m training.train --task rain --distortion my_module:add_rain --image photo.jpg
  a program, and every other time a blur:
    python -m training.train --task scan --image photo.jpg \\
        --distortion "cwebp -q $((10 + {seed} % 50)) {in} -o {out}" motion
"""

MakeScale = Callable[[Config, int, torch.device], Scale]


class Run(NamedTuple):
    """Settings, a folder, what a checkpoint left, and what is learnt from if it is open already."""

    config: Config
    folder: RunFolder
    checkpoint: dict[str, Any] | None = None
    material: Material | None = None

    def opened(self) -> Material:
        """What the run learns from: its checkpoint's, or what its settings name.

        Raises:
            ValueError, ImportError: see :meth:`training.material.Material.of`.
        """
        if self.material is not None:
            return self.material
        return Material.of(self.config) if self.checkpoint is None else Material.loaded(self.checkpoint["material"])

    def open(self) -> None:
        """Makes the folder, or continues its logs.

        Raises:
            FileExistsError: it holds a run that is not to be continued.
            BlockingIOError: another process writes there.
        """
        if self.checkpoint is None:
            self.folder.create(self.config)
        else:
            done = self.checkpoint["scale"] * self.config.steps + self.checkpoint["step"]
            self.folder.resume_logs(self.config, done)


def train(run: Run, kernels: str, make_scale: MakeScale = Scale, show_progress: bool = True) -> Training:
    """Phase 1, or what a checkpoint left of it.

    Where it says ``yield``, the critic is updated: by :mod:`training.updates`, together with those of other runs.

    Args:
        kernels: what makes the updates, for the record.
        make_scale: for another treatment of the critics.

    Raises:
        FloatingPointError: a loss is not finite any more.
    """
    config, folder = run.config, run.folder
    device = torch.device(device_name(config.device))
    material = run.opened()
    levels = material.levels
    distort = make_distortion(config)
    at = RunState.of(config, material, kernels, run.checkpoint)
    pixels = [level[0, 0].numel() for level in levels]
    progress = Progress(
        pixels,
        config.steps,
        at.scale,
        at.step,
        show_progress,
        apart=seconds_of(distort, levels) if show_progress else None,
    )
    run.folder.ending(progress.close)

    for scale in range(at.scale, config.scales):
        progress.begin(scale)
        networks = make_scale(config, scale, device)
        if at.networks is not None:  # a checkpoint's, or the coarser scale's
            networks.load_state(at.networks, same_scale=at.step > 0)
        level, height, width = levels[scale].to(device), *levels[scale].shape[2:]
        real = networks.shown(level)
        start = resize_clipped(at.coarser, (height, width)) if config.upscale else levels[scale]
        updates = [config.critic_updates] * (config.steps - at.step) + [0]  # the last draw is for the preview
        draws = drawn(distort, start, at.source, updates, ahead=device.type == "cuda")

        for step in range(at.step, config.steps):
            distorted, mixes, randomness = next(draws)
            fake = networks.fake(distorted.to(device, non_blocking=True), level)
            networks.begin_step(step)
            for mix in mixes:
                judged = yield networks.request(real, fake, mix)
            assert judged is not None
            folder.log(scale * config.steps + step, scale, networks.losses(judged, real, fake))
            progress.step(scale)
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                at.scale, at.step, at.networks = scale, step + 1, networks.state()
                at.save(folder, config, randomness)

        ((distorted, _, randomness),) = draws
        attempt = networks.attempt(distorted.to(device), level).cpu()
        folder.save_preview(scale, {"level": levels[scale], "distorted": distorted, "adversary": attempt})
        start = start_of(scale, material.below, levels, config)  # without what a generator made of the coarser one
        at.examples.append(draw_examples(config, start, levels[scale]).distorted)
        at.finished.append({name: value.cpu() for name, value in networks.outcome().items()})
        # With a generator the next scale builds on its output, otherwise on the true level.
        at.coarser = attempt if config.generator else levels[scale]
        at.scale, at.step, at.networks = scale + 1, 0, networks.state()
        at.save(folder, config, randomness)
    progress.close()
    folder.save_curves()


def train_runs(runs: Sequence[Run], make_scale: MakeScale = Scale) -> None:
    """Runs side by side; each ends with the same weights as by itself. Their folders are closed, however it ends.

    Raises:
        ValueError: the back end that they ask for cannot be used here.
        FloatingPointError: see :func:`train`.
    """
    with ExitStack() as ending:
        for run in runs:
            ending.callback(run.folder.close)
        _train_runs(runs, make_scale)


def _train_runs(runs: Sequence[Run], make_scale: MakeScale) -> None:
    torch.backends.cudnn.allow_tf32 = False  # second derivatives feel TF32's 10-bit mantissa
    config = runs[0].config
    use_threads(config.threads or None)
    update, reason = updates_of(config, torch.device(device_name(config.device)))
    print(f"kernels: {reason}", file=sys.stderr)
    kernels = reason.split(":")[0]
    train_together([train(run, kernels, make_scale, index == 0) for index, run in enumerate(runs)], update)


def device_name(name: str) -> str:
    """The device that a setting means.

    Raises:
        ValueError: it is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no CUDA device; leave the flag out or use --device cpu")
    try:
        torch.ones((), device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each kind of device
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"--device {name} cannot be used here ({reason}); leave the flag out or use --device cpu"
        ) from error
    return name


def prepare(arguments: argparse.Namespace) -> list[Run]:
    """The runs that a command line asks for: one, or those of ``--batch-runs``.

    Raises:
        ValueError, OSError: settings, folders and checkpoints do not fit together.
    """
    given = given_settings(arguments)
    out = Path(arguments.out or f"runs/{given.get('task', Config.task) if arguments.batch_runs else task_of(given)}")
    if arguments.batch_runs is None:
        return [prepare_run(out, given, arguments, arguments.resume)]
    entries = read_sweep(Path(arguments.batch_runs))
    # A stop may have come between two folders: what has none yet begins beside what goes on.
    begun = {name: RunFolder(out / name).begun for name in entries}
    runs = [
        prepare_run(
            out / name, {**given, **own}, arguments, arguments.resume and (begun[name] or not any(begun.values()))
        )
        for name, own in entries.items()
    ]
    check_alike({name: run.config for name, run in zip(entries, runs, strict=True)})
    return runs


def prepare_run(path: Path, given: dict[str, Any], arguments: argparse.Namespace, resume: bool) -> Run:
    """One run; a resumed one takes its settings from its folder, and where it is computed from ``given``.

    One that was stopped before its first checkpoint begins again.
    """
    folder = RunFolder(path)
    if not resume:
        task = task_of(given)
        return Run(Config(**settings(task, {**given, "task": task}, arguments.recipe)), folder)
    if folder.begun and not arguments.dry_run:
        folder.lock()  # before the checkpoint is read: nobody may be ahead of it
    checkpoint = None
    if folder.begun and not folder.checkpoint_path.exists():
        config = folder.load_config()
        print(f"{path} was stopped before its first checkpoint: it begins again", file=sys.stderr)
    else:
        checkpoint = folder.load_checkpoint()
        config = Config.from_dict(json.loads(checkpoint["config"]))
    changed = {name: value for name, value in given.items() if getattr(config, name) != value}
    if other := {name: value for name, value in changed.items() if name not in INDIFFERENT}:
        raise ValueError(f"the run in {path} was started with other settings than {other}: leave them out to resume")
    return Run(replace(config, **changed), folder, checkpoint)


def examined(run: Run) -> Run:
    """A run with what it learns from, after all checks that need no folder; what is strange is said.

    Raises:
        ValueError, ImportError: it cannot work, or cannot go on as it began.
    """
    config, material = run.config, run.opened()
    updates_of(config, torch.device(device_name(config.device)))
    distort = make_distortion(config)
    if run.checkpoint is not None:
        of_image, of_distortion = changes(config, material)
        if of_distortion is not None:
            raise ValueError(
                f"{of_distortion} since the run in {run.folder.path} began: bring back what it was, or train anew in "
                "another folder"
            )
        if of_image is not None:
            print(f"warning: {of_image}; the run goes on with the one that it began with", file=sys.stderr)
    elif config.distortion is not None:
        start = start_of(config.scales - 1, material.below, material.levels, config)
        name = ", ".join(config.distortions)
        for remark in remarks(name, distort, start, needed=not config.upscale):
            print(f"warning: {name}: {remark}", file=sys.stderr)
    return run._replace(material=material)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        usage="%(prog)s [--task TASK] [--distortion WHAT ...] [--image FILE] [other options]",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_run = parser.add_argument_group("the run")
    of_run.add_argument("--out", metavar="FOLDER", help="of the run [runs/TASK]")
    of_run.add_argument("--resume", action="store_true", help="continue the run in --out after its newest checkpoint")
    of_run.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    of_run.add_argument(
        "--recipe",
        choices=FORMS,
        default=FORMS[0],
        help="where settings come from that no other flag names: recommended is the released recipe of sr, denoise and "
        "jpeg, and for other tasks what serves these best; paper is the paper's form [%(default)s]",
    )
    of_run.add_argument(
        "--batch-runs",
        metavar="FILE",
        help="several runs at once, each into a folder of its name in --out: JSON, a name and settings of its own for "
        "each; other flags are for all",
    )
    add_flags(parser)
    take_any_name()
    arguments = parser.parse_args(argv)
    runs: list[Run] = []
    try:
        runs = prepare(arguments)
        if arguments.dry_run:
            for run in runs:
                print(run.config.to_json())
            return 0
        runs = [examined(run) for run in runs]  # fail before a folder is made
        check_sizes({run.folder.path.name: run.opened().levels for run in runs})
        for run in runs:
            run.open()
        train_runs(runs)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped{_how_to_go_on(runs, arguments)}", file=sys.stderr)
        return 130
    finally:
        for run in runs:
            run.folder.close()
    for run in runs:
        print(f"done: {run.folder.path}; next: python training/export.py {run.folder.path}")
    return 0


def _how_to_go_on(runs: Sequence[Run], arguments: argparse.Namespace) -> str:
    if not any(run.folder.begun for run in runs):
        return ""
    out = arguments.out or runs[0].folder.path
    again = f" --batch-runs {arguments.batch_runs}" if arguments.batch_runs else ""
    return f"; continue with --resume --out {out}{again}"


if __name__ == "__main__":
    sys.exit(main())
