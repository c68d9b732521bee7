"""Is a loss worth using? Some minutes on a CPU, numbers with intervals, a picture, and one sentence.

    python -m training.judge runs/rain                       # a run that was exported
    python -m training.judge rain.safetensors --images DIR   # a weight file, on photographs of yours
    python -m training.judge theirs.safetensors --trust      # run the code that somebody's file names

It asks whether the critics recognise their distortion on photographs that they never saw, and whether a small network
that is trained with the loss beside L1 beats networks that are trained with L1, MSE, random weights of the same shape
and the released loss that knows the distortion best. docs/judge.md tells how. What was done is kept: a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from task_losses import WeightsError
from task_losses.files import write_file
from task_losses.losses import LOSSES
from task_losses.texts import printable, take_any_name
from training.bench.ablation.recognition import challenges, share_recognised
from training.bench.report.bootstrap import Interval, Scores, paired_difference
from training.bench.study.cells import write_json
from training.bench.study.data import Picture
from training.bench.study.metrics import METRICS, load_metrics
from training.bench.study.restoration import short_hash
from training.config import STRENGTHS, add_flags, given_settings
from training.images import labelled
from training.judge.contest import INPUT, L1, OWN, PULLS, RANDOM, RECIPE, SEEDS, Arena, Rival, control, rivals
from training.judge.photographs import Photographs, crops_to_restore, open_photographs, training_pairs
from training.judge.subject import Subject, open_subject
from training.judge.verdict import compare, names, rendered, sentence
from training.provenance import machine

BESIDE_PSNR = ["ssim", "gmsd", "stlpips"]
CONTROLS = 4  # draws of random critics, whose recognition is luck
OF_DISTORTION = ("distortion", "distortion_weights", "command_seconds", *STRENGTHS)


@dataclass(frozen=True)
class Recognition:
    """Shares of pairs in which critics score the true picture higher.

    Attributes:
        share: of the loss, with its interval over parts of photographs.
        random: of some draws of random critics: what luck reaches.
        released: of the released losses, by class name.
    """

    share: Interval
    random: list[float]
    released: dict[str, float]


def judge(subject: Subject, photographs: Photographs, arena: Arena, seeds: int) -> tuple[str, dict[str, Any]]:
    """The report, and all figures by name."""
    say(f"asking the critics about {len(photographs.tiles)} parts of {len(photographs.unseen)} photographs")
    recognised = recognise(subject, photographs.tiles, arena.folder, arena.identity)
    nearest = max(recognised.released, key=recognised.released.__getitem__, default=None)
    released = {kind.__name__: kind for kind in LOSSES.values()}
    contenders = rivals(subject.loss, released[nearest]() if nearest else None)
    results: dict[tuple[str, float | None], dict[str, dict[tuple[int, str], float]]] = {}
    results[INPUT, None] = {
        metric: {(seed, crop): score for seed in range(seeds) for crop, score in scores.items()}
        for metric, scores in arena.untouched().items()
    }
    weights = []
    done, begun = 0, time.monotonic()
    for rival in contenders:
        of_metric = results.setdefault((rival.name, rival.pull), {})
        for seed in range(seeds):
            found = arena.run(rival, seed)
            for metric, scores in found["scores"].items():
                of_metric.setdefault(metric, {}).update({(seed, crop): score for crop, score in scores.items()})
            if (rival.name, rival.pull) == (OWN, PULLS[0]):
                weights.append(found["weight"])
            done += 1
            say(f"[{done}/{len(contenders) * seeds}] a network with {rival.label} {time.monotonic() - begun:.0f} s")
    save_picture(arena, contenders, nearest, arena.folder / "judge.png")
    comparisons = [compare(results, name) for name in names(nearest)]
    weight = sum(weights) / len(weights)
    restored = paired_difference(results[L1, None]["psnr"], results[INPUT, None]["psnr"])
    assert restored is not None
    untouched = compare(results, INPUT)
    verdict = sentence(recognised.share, restored, untouched, comparisons, nearest)
    report = "\n\n".join(
        [
            f"{subject.task}: {printable(', '.join(subject.config.distortions))}; sha256 {subject.loss.weights_sha256}",
            _recognition_in_words(recognised, len(photographs.unseen)),
            f"Small networks, {seeds} seeds, {len(arena.tests)} crops of photographs that neither networks nor critics "
            f"saw; mean with 95 % interval. As hard as L1 the loss pulls there at a weight of {weight:.3g}.",
            rendered(results, [untouched, *comparisons], nearest),
            verdict,
        ]
    )
    figures = {
        "task": subject.task,
        "sha256": subject.loss.weights_sha256,
        "verdict": verdict,
        "recognition": asdict(recognised),
        "restored_by_l1": asdict(restored),
        "against_nothing": {**asdict(untouched), "outcome": untouched.outcome},
        "nearest": nearest,
        "weight": weight,
        "means": {
            f"{name} {pull}": {metric: sum(s.values()) / len(s) for metric, s in of_metric.items()}
            for (name, pull), of_metric in results.items()
        },
        "comparisons": [{**asdict(c), "outcome": c.outcome} for c in comparisons],
        "recipe": asdict(arena.recipe),
        "seeds": seeds,
        "photographs": photographs.key,
        "machine": machine(),
    }
    return report, figures


def recognise(subject: Subject, tiles: Sequence[Picture], folder: Path, identity: str) -> Recognition:
    """Made once; see :class:`Recognition`."""
    key = short_hash({"loss": subject.loss.weights_sha256, "of": identity, "tiles": [tile.key for tile in tiles]})
    path = folder / f"recognition-{key}.json"
    if path.is_file():
        found = json.loads(path.read_text())
        return Recognition(Interval(**found["share"]), found["random"], found["released"])
    asked = {tile.name: list(challenges(subject.config, tile.image)) for tile in tiles}
    every = [challenge for of_tile in asked.values() for challenge in of_tile]
    shares: Scores = {(0, name): share_recognised(subject.loss, of_tile) for name, of_tile in asked.items()}
    share = paired_difference(shares, dict.fromkeys(shares, 0.0))
    assert share is not None
    others = [kind() for kind in LOSSES.values()]
    result = Recognition(
        share,
        [share_recognised(control(subject.loss, seed), every) for seed in range(CONTROLS)],
        {
            type(other).__name__: share_recognised(other, every)
            for other in others
            if other.weights_sha256 != subject.loss.weights_sha256
        },
    )
    write_json(asdict(result), path)
    return result


def _recognition_in_words(found: Recognition, photographs: int) -> str:
    released = ", ".join(f"{name} {share:.0%}" for name, share in found.released.items())
    return (
        f"On {photographs} photographs that they never saw the critics tell true from distorted in "
        f"{found.share.mean:.0%} of pairs ({found.share.low:.0%} to {found.share.high:.0%}). Chance is 50 %; "
        f"{CONTROLS} draws of random critics have {min(found.random):.0%} to {max(found.random):.0%}; the released "
        f"losses: {released}."
    )


def save_picture(arena: Arena, contenders: Sequence[Rival], nearest: str | None, path: Path) -> None:
    """The crop on which this loss and L1 differ most, by the networks of the first seed."""
    made = {rival.name: rival for rival in contenders if rival.pull in (None, PULLS[0])}
    changes = {
        name: (arena.restored(made[OWN], 0, name) - arena.restored(made[L1], 0, name)).abs().mean().item()
        for name in arena.tests
    }
    crop = max(changes, key=changes.__getitem__)
    called = {**names(nearest), OWN: "this loss", RANDOM: "random weights"}
    degraded, reference = arena.tests[crop]
    shown = {called[name]: arena.restored(rival, 0, crop) for name, rival in made.items()}
    labelled({"degraded": degraded, **shown, "reference": reference}).save(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    take_any_name()
    options = _parser().parse_args(arguments)
    begun = time.monotonic()
    try:
        subject = open_subject(options.what, given_settings(options, OF_DISTORTION), options.trust)
        folder = options.out or subject.folder
        folder.mkdir(parents=True, exist_ok=True)
        trained_on = subject.loss.weights_info.get("image", {}).get("sha256")
        photographs = open_photographs(options.images, trained_on, subject.config)
        recipe = replace(RECIPE, steps=options.steps, start_steps=options.start_steps)
        arena = Arena(
            recipe,
            training_pairs(photographs.training, subject.config),
            crops_to_restore(photographs.unseen, subject.config),
            tuple(load_metrics(["psnr", *options.metrics])),  # those that are installed
            subject.distortion,
            folder,
        )
        report, figures = judge(subject, photographs, arena, options.seeds)
        write_json(figures, folder / "judge.json")
        write_file(folder / "judge.md", (report + "\n").encode())
    except (ValueError, OSError, ImportError, FloatingPointError, WeightsError) as error:
        say(f"error: {printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    print(report)
    say(f"{folder}/judge.md, judge.json, judge.png; {time.monotonic() - begun:.0f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.judge", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("what", type=Path, metavar="RUN_OR_FILE", help="a run that was exported, a weight file, or a folder of one")
    add("--images", type=Path, metavar="DIR", help="photographs, two at least; default: those of scikit-image")
    add("--out", type=Path, metavar="DIR", help="where results go [RUN/judge, or FILE.judge]")
    add("--trust", action="store_true", help="run the shell command or import the module that the weight file names")
    others, default = [name for name in METRICS if name != "psnr"], " ".join(BESIDE_PSNR)
    add("--metrics", nargs="+", choices=others, default=BESIDE_PSNR, help=f"beside PSNR, where installed [{default}]")
    add("--seeds", type=int, default=SEEDS, help=f"networks with each loss [{SEEDS}]")
    add("--steps", type=int, default=RECIPE.steps, help=f"steps of each network [{RECIPE.steps}]")
    add("--start-steps", type=int, default=RECIPE.start_steps, help=f"L1 steps before them [{RECIPE.start_steps}]")
    add_flags(parser, OF_DISTORTION)
    return parser


if __name__ == "__main__":
    sys.exit(main())
