"""Many trainings on the processors of one machine, or of many: a sweep on Ray.

    python -m training.on_ray sweep.json --out runs/sweep --cpus 2            # this machine
    python -m training.on_ray sweep.json --out /shared/sweep --address auto   # a cluster; all its nodes see the folder
        [--gpus 0.25] [--retries 3] [--metric my_module:function [--highest]]

The file is that of ``training/train.py --batch-runs``: a name and settings of its own for each training. Each is one
process with a folder of its name, goes on after its newest checkpoint when its node or itself fails, and is exported.
The same command continues a sweep that was stopped. OUT/results.csv and OUT/results.png hold what came of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    importlib.import_module("training")  # before torch: it says how torch's threads wait

import torch

from task_losses.files import write_file
from task_losses.texts import take_any_name
from training.config import add_flags, given_settings
from training.distortions import make_distortion
from training.export import export
from training.images import open_image
from training.provenance import ROOT
from training.recipes import FORMS
from training.run_folder import RunFolder
from training.sweep import read_sweep
from training.sweep_results import Result, unseen, write_results
from training.threads import available
from training.train import Run, prepare_run, train_runs


def open_trial(path: Path, given: dict[str, Any], recipe: str, look: bool = False) -> Run:
    """A training that begins, or goes on if it was begun in its folder.

    Args:
        look: without the folder's lock, to see that it can.

    Raises:
        ValueError: its settings are wrong, or others than those it was begun with.
    """
    return prepare_run(path, given, argparse.Namespace(recipe=recipe, dry_run=look), RunFolder(path).begun)


def trial(path: Path, given: dict[str, Any], recipe: str, metric: str | None, node: str) -> Result:
    """Trains, exports and measures what the folder does not hold yet.

    Args:
        metric: ``module:function`` that takes the path of a weight file.
        node: where this runs, for the record.

    Raises:
        What training, exporting and the metric raise.
    """
    run, done = open_trial(path, given, recipe), path / "result.json"
    try:
        if done.exists():
            result = Result(**json.loads(done.read_text(encoding="utf-8")))
            if result.metric == metric:
                return result
        run.open()
        begun = run.checkpoint["scale"] * run.config.steps + run.checkpoint["step"] if run.checkpoint else 0
        with (path / "attempts.txt").open("a", encoding="utf-8") as file:
            file.write(f"from step {begun} on node {node}\n")
        train_runs([run])
    finally:
        run.folder.close()
    weights = export(run.folder)
    value = float(find(metric)(weights)) if metric else None
    attempts = (path / "attempts.txt").read_text(encoding="utf-8").splitlines()
    result = Result(weights.name, metric, value, len(attempts))
    write_file(done, json.dumps(result._asdict()).encode())
    return result


def find(metric: str) -> Callable[[Path], float]:
    """The function that a metric's name means.

    Raises:
        ValueError: there is none.
    """
    module, _, name = metric.partition(":")
    try:
        function: Callable[[Path], float] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import the metric {metric!r}: {error}; expected module:function") from error
    return function


def sweep(
    trials: Mapping[str, dict[str, Any]], out: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Result], dict[str, str]]:
    """Runs trials on Ray.

    Returns:
        Results, and for those that failed why.
    """
    import ray

    connect(arguments.address)
    # A cluster may grow.
    if not any(has(node, arguments) for node in ray.nodes()):
        print(f"no node has {arguments.cpus} CPUs and {arguments.gpus} GPUs yet: waiting for one", file=sys.stderr)

    # A process for each: a training sets threads and seeds for the whole of it.
    @ray.remote(  # type: ignore[untyped-decorator, unused-ignore]
        num_cpus=arguments.cpus,
        num_gpus=arguments.gpus,
        max_retries=arguments.retries,
        retry_exceptions=True,
        max_calls=1,
    )
    def start(folder: Path, path: Path, given: dict[str, Any]) -> Result:
        os.chdir(folder)  # relative paths mean the same everywhere
        return trial(path, given, arguments.recipe, arguments.metric, ray.get_runtime_context().get_node_id())

    waiting = {start.remote(Path.cwd(), out / name, given): name for name, given in trials.items()}
    results, failed = {}, {}
    try:
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting))
            name = waiting.pop(ready)
            try:
                results[name] = ray.get(ready)
                print(f"done: {out / name}", file=sys.stderr)
            except ray.exceptions.RayError as error:
                failed[name] = str(getattr(error, "cause", None) or error)
                print(f"failed: {out / name}: {failed[name]}", file=sys.stderr)
    finally:
        ray.shutdown()
    return results, failed


def connect(address: str | None) -> None:
    """Joins a cluster, whose processes then find this checkout; without an address, one of this machine alone."""
    import ray

    where = {"address": address} if address else {"address": "local", "num_cpus": available()}
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    ray.init(**where, runtime_env={"env_vars": environment}, logging_level="warning", log_to_driver=False)


def check_room(arguments: argparse.Namespace) -> None:
    """That this machine can hold one trial, if it is to be alone.

    Raises:
        ValueError: it would wait for ever.
    """
    for flag, wanted, there in (
        ("--cpus", arguments.cpus, available()),
        ("--gpus", arguments.gpus, torch.cuda.device_count()),
    ):
        if not arguments.address and wanted > there:
            raise ValueError(f"{flag} {wanted:g}, but this machine has {there}; ask for less, or name a cluster")


def has(node: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether a node of Ray's list is alive and large enough for one trial."""
    there = node["Resources"]
    return bool(node["Alive"] and there.get("CPU", 0) >= arguments.cpus and there.get("GPU", 0) >= arguments.gpus)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.on_ray",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sweep", type=Path, help='JSON: {"NAME": {"seed": 1}, ...}; other flags are for all')
    add("--out", type=Path, required=True, help="folder of the folders; on a cluster every node must see it")
    add("--address", help="a Ray cluster: auto, or HOST:PORT [this machine alone]")
    add("--cpus", type=float, default=1, help="processors for each training [%(default)s]")
    add("--gpus", type=float, default=0, help="GPUs for each; 0.25 puts four on one [%(default)s]")
    add("--retries", type=int, default=3, help="how often a training that fails is continued [%(default)s]")
    add("--metric", help="module:function that takes the path of a weight file and returns a number")
    add("--highest", action="store_true", help="the best has the highest metric [the lowest]")
    add("--recipe", choices=FORMS, default=FORMS[0], help="as for training/train.py [%(default)s]")
    add_flags(parser)
    take_any_name()
    arguments = parser.parse_args(argv)
    try:
        check_room(arguments)
        out = arguments.out.resolve()
        given = {"threads": max(1, int(arguments.cpus)), **given_settings(arguments)}
        trials = {name: {**given, **own} for name, own in read_sweep(arguments.sweep).items()}
        if arguments.metric:
            find(arguments.metric)
        for name, settings in trials.items():  # fail before anything starts
            config = open_trial(out / name, settings, arguments.recipe, look=True).config
            open_image(config.image), make_distortion(config)
        results, failed = sweep(trials, out, arguments)
        elsewhere = unseen(out, results)
        results, failed = {name: results[name] for name in results if name not in elsewhere}, failed | elsewhere
        out.mkdir(parents=True, exist_ok=True)
        print(write_results(out, read_sweep(arguments.sweep), results, failed, arguments.highest))
    except ModuleNotFoundError as error:
        print(f"error: {error}; Ray comes with the extra sweep: pip install -e '.[sweep]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the newest checkpoints", file=sys.stderr)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
