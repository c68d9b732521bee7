"""Coverage-guided fuzzing: python tests/fuzz/run.py TARGET --seconds 600. Needs `pip install atheris`.

A crash, more than a second for a kilobyte, more memory than --memory, or an error that the target does not document
ends the run and leaves the input in the current folder. Put it into seeds/TARGET: tests/fuzz/test_seeds.py runs it
from then on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

with atheris.instrument_imports(include=["task_losses", "training"]):
    import fuzz_targets as targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--memory", type=int, default=2048, help="MB that the process may take (%(default)s)")
    options = parser.parse_args()

    def one(data: bytes) -> None:
        start = time.process_time()
        targets.run(options.target, data)
        if time.process_time() - start > 1 + len(data) / 1000:
            raise AssertionError(f"{len(data)} bytes took {time.process_time() - start:.1f} s")

    with tempfile.TemporaryDirectory() as corpus:  # libFuzzer writes what it finds into the first folder
        seeds = HERE / "seeds" / options.target
        targets.run(options.target, (seeds / "sound").read_bytes())  # what it imports is not counted
        # The timeout ends what never ends, by the clock, which a busy machine stretches; one() counts the seconds.
        limits = [f"-max_total_time={options.seconds}", f"-rss_limit_mb={options.memory}", "-timeout=600"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=20000", "-print_final_stats=1", corpus, str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
