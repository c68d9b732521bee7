"""The fuzz targets on their seeds, and on small changes of the sound ones. tests/fuzz/run.py is the thorough form."""

from __future__ import annotations

import random
import time
from pathlib import Path

import fuzz_targets as targets
import pytest

SEEDS = Path(__file__).parent / "seeds"
FOUND = sorted(path for path in SEEDS.glob("*/*") if path.name != "sound")


@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_sound_seed_is_taken(target: str) -> None:
    assert targets.run(target, (SEEDS / target / "sound").read_bytes())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found_ends_soon_as_documented(path: Path) -> None:
    data = path.read_bytes()
    start = time.process_time()
    targets.run(path.parent.name, data)
    assert time.process_time() - start < 1 + len(data) / 1000


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        *((f"{target}/sound", 300) for target in ("weights", "manifest", "legacy", "picture", "configuration")),
        ("checkpoint/pickle", 60),
    ],
)
def test_small_changes_end_as_documented(seed: str, count: int) -> None:
    """Bytes flipped, cut out, doubled and set to extremes: changes of a sound seed, the same each time."""
    sound, draws = (SEEDS / seed).read_bytes(), random.Random(0)
    taken = sum(targets.run(seed.split("/")[0], changed(sound, draws)) for _ in range(count))
    assert taken < count, "a change that changes nothing proves nothing"


def changed(data: bytes, draws: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(draws.choice([1, 1, 2, 5])):
        start = draws.randrange(len(result))
        stop = start + draws.choice([1, 1, 2, 4, 8, 40])
        part = bytes(result[start:stop])
        flipped = bytes(byte ^ 1 << draws.randrange(8) for byte in part)
        result[start:stop] = draws.choice([flipped, b"", part * 2, b"\xff" * len(part), bytes(len(part)), b'"[{9'])
        if not result:
            result += b"\0"
    return bytes(result)
