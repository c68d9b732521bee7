"""How far a training is: honest from the first line on, and readable in files."""

import io
import re

import pytest
import torch

from training.progress import Progress, seconds_of

PIXELS = [27 * 18, 63 * 42, 200 * 133]
STEPS = 200


class Terminal(io.StringIO):
    def isatty(self):
        return True


def of_step(pixels):
    return 2e-6 * pixels + 0.004


def run(file, pixels=PIXELS, begun=0, program=0.0):
    """A training in which loading and compiling take two seconds, and no time passes otherwise.

    program: seconds that the distortion takes of each step.
    """
    now = [0.0]
    progress = Progress(pixels, STEPS, begun, 0, True, file, clock=lambda: now[0], apart=[program] * len(pixels))
    now[0] += 2
    for scale in range(begun, len(pixels)):
        progress.begin(scale)
        for _ in range(STEPS):
            now[0] += of_step(pixels[scale]) + program
            progress.step(scale)
    progress.close()
    return now[0]


def seconds(text):
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


@pytest.mark.parametrize("program", [0, 0.06])  # as ffmpeg takes, whatever the size
@pytest.mark.parametrize("begun", [0, 2])
def test_every_estimate_is_of_the_right_size(begun, program):
    file = Terminal()
    whole = run(file, begun=begun, program=program)
    found = re.findall(r"([\d:]+) gone, ([\d:]+) left", file.getvalue())
    assert len(found) > 20
    for gone, left in found:
        expected = whole - seconds(gone)
        assert expected / 2 - 1 <= seconds(left) <= 2 * expected + 1


def test_a_file_gets_lines_and_few(capsys):
    file = io.StringIO()
    whole = run(file, pixels=[200_000] * 3)
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue()
    assert 2 <= len(lines) <= whole / 20
    assert all(re.fullmatch(r"scale \d/3 .*%.* gone, .* left, .* steps/s", line) for line in lines)


def test_what_is_said_after_it_has_a_line_of_its_own():
    file = Terminal()
    progress = Progress(PIXELS, STEPS, 0, 0, True, file, clock=iter(range(100)).__next__)
    progress.begin(0)
    for _ in range(3):
        progress.step(0)
    progress.close()
    progress.close()
    file.write("error: something\n")
    assert file.getvalue().splitlines()[-1] == "error: something"
    lengths = [len(line) for line in re.split(r"[\r\n]", file.getvalue())[1:-2]]
    assert lengths == sorted(lengths), "the end of a longer line would stay visible"


def test_silence():
    file = Terminal()
    progress = Progress(PIXELS, STEPS, 0, 0, False, file)
    progress.begin(0)
    progress.step(0)
    progress.close()
    assert file.getvalue() == ""


def test_a_program_takes_as_long_of_every_level_and_a_filter_longer_of_large_ones():
    levels = [torch.rand(1, 3, side, side) for side in (10, 20, 30)]
    now = [0.0]

    def taking(seconds):
        def distort(image, generator):
            now[0] += seconds(image[0, 0].numel())
            return image

        return seconds_of(distort, levels, clock=lambda: now[0])

    assert taking(lambda pixels: 0.06) == pytest.approx([0.06] * 3)
    assert taking(lambda pixels: 0.01 + 1e-5 * pixels) == pytest.approx([0.011, 0.014, 0.019])
