"""One update of a critic at three sizes of the recipe: kernels beside autograd, CUDA graph and torch.compile."""

from __future__ import annotations

import statistics

from training.bench.cost.kernels import Way, ways
from training.bench.cost.memory import peak_memory
from training.bench.cost.timing import launches, milliseconds, tf32, wait_for
from training.bench.device.work import Work

CHANNELS = 32
SIZES = ((18, 27), (56, 84), (133, 200))  # of the default recipe's levels: the coarsest, one between, the finest
SMALL = ((13, 17),)
_LEFT_FOR_TIMING = 4.0  # seconds


def sizes(work: Work) -> tuple[tuple[int, int], ...]:
    return SMALL if work.small else SIZES


def times(work: Work) -> None:
    """Time and memory. At one size ways take turns, so that whatever else the machine does hits them alike.

    What torch.compile makes comes last: compiling may take all the time that is left.
    """
    with tf32(False):  # as in training
        for compiled in (False, True):
            for size in sizes(work):
                made = _made(work, size, compiled)
                readings = milliseconds({name: way.update for name, way in made.items()}, work.device, rounds=7)
                for name, way in made.items():
                    with work.noted(size=size, update=name) as row:
                        row["ms"], row["ms_of_rounds"] = statistics.median(readings[name]), readings[name]
                        if way.held is None:
                            row["megabytes"] = peak_memory(way.update, work.device)
                        else:
                            row["megabytes"], row["megabytes_of_the_pool"] = way.held


def counts(work: Work) -> None:
    """Launches, which do not depend on the size."""
    with tf32(False):
        for name, way in _made(work, sizes(work)[0], compiled=False).items():
            with work.noted(update=name) as row:
                found = launches(way.update, work.device)
                row["launches"], row["most"] = found.total(), dict(found.most_common(5))


def _made(work: Work, size: tuple[int, int], compiled: bool) -> dict[str, Way]:
    """Those ways that can be made here; of the others a row says why not."""
    made = {}
    for name, make in ways(8 if work.small else CHANNELS, size, work.device).items():
        if name.startswith("torch.compile") != compiled:
            continue
        if work.left() < _LEFT_FOR_TIMING:
            work.add(size=size, update=name, skipped="no time was left")
            continue
        try:
            way = make()
            way.update()
            wait_for(work.device)
        except ValueError as reason:
            work.add(size=size, update=name, skipped=str(reason))
        except Exception as error:
            work.failed(error, size=size, update=name)
        else:
            made[name] = way
    return made


PARTS = {"times": times, "launches": counts}
