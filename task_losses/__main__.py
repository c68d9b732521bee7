"""The command line: ``python -m task_losses`` or ``task-losses``. See docs/cli.md.

Exit codes: 0 fine; 1 the weights are missing, damaged or out of reach; 2 the command or its pictures are wrong; 130
interrupted; 141 whoever read the output has gone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from task_losses import TaskLoss, WeightsError, WeightsUnavailable, __version__
from task_losses.architecture import Architecture
from task_losses.hub_options import HubOptions
from task_losses.levels import Selection
from task_losses.losses import LOSSES, RESOLUTIONS
from task_losses.origin import facts
from task_losses.pictures import PictureError
from task_losses.scores import Pair, Score, compare, compare_all, pairs_of, write_csv
from task_losses.sources import is_published, load_weights, pinned_weights
from task_losses.texts import printable, take_any_name
from task_losses.weights import Weights, embedded_weights, manifest

WEIGHTS_FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    take_any_name()
    try:
        try:
            options = _parser().parse_args(arguments)
            result: int = options.run(options)
        finally:
            sys.stdout.flush()
    except (WeightsError, ValueError) as error:
        print(f"task-losses: {printable(str(error))}", file=sys.stderr)
        return WEIGHTS_FAILED if isinstance(error, WeightsError) else WRONG_USE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return result


def score(options: argparse.Namespace) -> int:
    """Compares two pictures, or the pictures of two folders."""
    folders = [path for path in (options.reference, options.image) if path.is_dir()]
    if len(folders) == 1:
        raise PictureError(f"{folders[0]} is a folder and the other is not: compare two pictures or two folders")
    loss = _loss(options)
    if folders:
        return _score_folders(options, loss)
    found = compare(loss, Pair(options.image.stem, options.reference, options.image, options.map), str(options.image))
    if options.csv is not None:
        write_csv(options.csv, [found], loss.scales)
    if options.json:
        print(json.dumps({**_content(found), **_identity(loss)}, indent=2))
        return 0
    print(f"{found.loss:.6g}")
    for scale, share in found.per_scale.items():
        print(f"  scale {scale}  {share:.6g}{_end_of_pyramid(scale, loss.architecture)}")
    left_out = sorted(set(loss.scales) - set(found.per_scale))
    if left_out:
        print(f"  scales {left_out} left out: at their level the picture is too small")
    return 0


def _score_folders(options: argparse.Namespace, loss: TaskLoss) -> int:
    pairs, alone = pairs_of(options.reference, options.image, options.map)
    result = compare_all(loss, pairs)
    if alone:
        print(f"task-losses: in one folder only, and left out: {printable(', '.join(alone))}", file=sys.stderr)
    for name, reason in result.failed.items():
        print(f"task-losses: {printable(f'{name}: {reason}')}", file=sys.stderr)
    if not result.scores:
        return WRONG_USE
    if options.csv is not None:
        write_csv(options.csv, result.scores, loss.scales)
    if options.json:
        content = {"mean": result.mean, "pictures": [{"name": s.name, **_content(s)} for s in result.scores]}
        print(json.dumps({**content, "left_out": alone, "failed": result.failed, **_identity(loss)}, indent=2))
    else:
        print(f"{result.mean:<12.6g}  mean of {len(result.scores)}, worst first:")
        for one in result.scores:
            print(f"{one.loss:<12.6g}  {printable(one.name)}")
    return WRONG_USE if result.failed else 0


def _content(score: Score) -> dict[str, Any]:
    return {"loss": score.loss, "per_scale": score.per_scale, "size": list(score.size)}


def info(options: argparse.Namespace) -> int:
    """Says what weights are in use. What only their file says stands apart, and cannot look like the rest."""
    if options.task is None and options.weights is None:
        losses = [loss() for loss in LOSSES.values()]
    else:
        losses = [_loss(options)]
    contents = [describe(loss) for loss in losses]
    if options.json:
        print(
            json.dumps([{**said, **known} for known, said in contents], indent=2)
        )  # in this order: nobody is believed
        return 0
    for number, (known, said) in enumerate(contents):
        if number:
            print()
        _print_table(known)
        print("the file says of itself:")
        _print_table(facts(said), prefix="  ")
    return 0


def describe(loss: TaskLoss) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a loss's weights, their identity and cost; and what their file says of itself."""
    said = {key: value for key, value in loss.weights_info.items() if key not in ("schema", "architecture", "task")}
    architecture = loss.architecture
    known = {
        **_identity(loss),
        "channels": list(architecture.channels),
        "smallest_side": architecture.receptive_field,
        "smallest_side_for_all_scales": Selection(architecture, (0,), "pyramid").smallest_side,
        "range": "[0, 1], others by data_range",
        "weight_for_your_network": "task_losses.weight_for(loss, pred, target) measures it on your images",
        "multiply_adds_per_pixel": {rule: _multiply_adds(architecture, rule) for rule in RESOLUTIONS},
    }
    entry = manifest()["weights"].get(loss.weights_info["task"], {})
    if entry.get("sha256") == loss.weights_sha256:  # a released file: the manifest knows how it was made
        known |= {"weight_beside_l1": entry["weight_beside_l1"]}
        known |= {"command": entry["command"], "training_cost": entry["cost"]}
    return known, said


def download(options: argparse.Namespace) -> int:
    """Fetches weights from the Hub into its cache, for machines without network."""
    hub_options = HubOptions(cache_dir=options.cache_dir)
    if options.repository is not None:
        weights = load_weights(options.repository, options.task, options.revision, hub_options)
        print(f"{weights.info['task']:<8} {weights.source}  sha256 {weights.sha256}")
        return 0
    if options.revision is not None:
        raise ValueError("--revision belongs to a repository; the released weights' revision is pinned")
    for task in [options.task] if options.task else LOSSES:
        if not is_published():
            weights = embedded_weights(task)
            note = "inside the package; this version is not on the Hub, there is nothing to download"
        else:
            weights = pinned_weights(task, hub_options)
            note = "was in the cache" if weights.source == "cache" else "downloaded"
        print(f"{task:<8} sha256 {weights.sha256}  {note}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Checks every copy of the weights that is here: hash, names, shapes, finite values."""
    result = 0
    for name, load, expected in _copies(options):
        try:
            print(f"ok      {name}  sha256 {load().sha256}")
        except WeightsError as error:
            if isinstance(error, WeightsUnavailable) and not expected:
                print(f"absent  {name}")
                continue
            print(f"FAILED  {name}: {error}")
            result = WEIGHTS_FAILED
    return result


def _copies(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Weights], bool]]:
    """What is to be verified: its name, its loader, and whether it has to be there."""
    if options.weights is not None:
        yield options.weights, partial(load_weights, _source(options.weights), options.task), True
        return
    cached = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    for task in [options.task] if options.task else LOSSES:
        yield f"{task}, in the package", partial(embedded_weights, task), True
        if is_published():
            yield f"{task}, in the cache of the Hub", partial(pinned_weights, task, cached), False


def _identity(loss: TaskLoss) -> dict[str, Any]:
    return {"task": loss.weights_info["task"], "source": loss.weights_source, "sha256": loss.weights_sha256}


def _loss(options: argparse.Namespace) -> TaskLoss:
    if options.task is None and options.weights is None:
        raise ValueError(f"say which loss: --task {'|'.join(LOSSES)}, or --weights PATH")
    resolution = getattr(options, "resolution", "pyramid")
    kind = TaskLoss if options.task is None else LOSSES[options.task]
    dial = {name: value for name in ("texture", "fidelity") if (value := getattr(options, name, None)) is not None}
    return kind(True if options.weights is None else _source(options.weights), resolution=resolution, **dial)


def _source(name: str) -> str | Path:
    """What ``--weights`` names: a file or folder that is there, otherwise what the constructor makes of the string."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if "/" not in name and not name.endswith(".safetensors"):
        raise ValueError(f"--weights {name}: there is no such file or folder here, and a Hub repository is owner/repo")
    return name


def _multiply_adds(architecture: Architecture, resolution: str) -> int:
    """Per pixel of one image, away from its borders. A loss looks at two images."""
    total = 0.0
    for scale in range(architecture.scales):
        down = architecture.scales - 1 - scale if resolution == "pyramid" else 0
        area = architecture.ratio ** (2 * down)
        total += area * sum(9 * inputs * outputs for inputs, outputs in architecture.layer_shapes(scale))
    return round(total)


def _end_of_pyramid(scale: int, architecture: Architecture) -> str:
    return {0: "  (coarsest)", architecture.scales - 1: "  (finest)"}.get(scale, "")


def _print_table(content: dict[str, Any], prefix: str = "") -> None:
    for key, value in content.items():
        name = f"{prefix}{printable(key.replace('_', ' '), 200)}"
        if isinstance(value, dict):
            _print_table(value, prefix=f"{name}, ")
        else:
            print(f"{name:<36}  {printable(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="task-losses", description="Losses for image restoration, on two pictures.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--task", choices=LOSSES, help="the released weights of a task")
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--weights", metavar="PATH", help="weights of your own: a file, a folder or owner/repo")
    form = argparse.ArgumentParser(add_help=False)
    form.add_argument("--json", action="store_true", help="print JSON")
    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument("--cache-dir", metavar="DIR", help="another cache than the Hub's usual one")

    command = commands.add_parser("score", parents=[which, own, form], help="distance of a picture from its reference")
    command.add_argument("reference", type=Path, help="a picture, or a folder of pictures")
    command.add_argument("image", type=Path, help="a picture, or a folder of pictures of the same names")
    command.add_argument(
        "--map",
        metavar="OUT.png",
        type=Path,
        help="write a picture of where the distance comes from; of folders, a folder",
    )
    command.add_argument(
        "--csv", metavar="OUT.csv", type=Path, help="write a table: name, loss and shares of the scales"
    )
    command.add_argument("--resolution", choices=RESOLUTIONS, default="pyramid", help="default: %(default)s")
    command.add_argument("--texture", type=float, help="the dial of the texture term; default: as recommended")
    command.add_argument("--fidelity", type=float, help="factor of the image's own term; default: 1")
    command.set_defaults(run=score)

    command = commands.add_parser("info", parents=[which, own, form], help="which weights are in use, and their origin")
    command.set_defaults(run=info)

    command = commands.add_parser("download", parents=[which, cache], help="fetch weights from the Hub into its cache")
    command.add_argument("repository", nargs="?", metavar="owner/repo", help="default: the released weights")
    command.add_argument("--revision", help="branch, tag or commit of the repository")
    command.set_defaults(run=download)

    command = commands.add_parser("verify", parents=[which, own, cache], help="check the copies of the weights here")
    command.set_defaults(run=verify)
    return parser


if __name__ == "__main__":
    sys.exit(main())
