"""Distortions that are programs: a shell command that reads a picture and writes one."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from task_losses.pictures import PictureError, read_picture
from training.images import picture

SEEDS = 2**31 - 1
SHOWN = 500  # of what a failed command said, the last characters


def run_command(command: str, image: Tensor, generator: torch.Generator, seconds: float) -> Tensor:
    """What a command makes of an image.

    Args:
        command: for the shell. ``{in}`` becomes the path of an 8-bit PNG, ``{out}`` the path that it has to write a
            picture to, of any format that :mod:`task_losses.pictures` reads; ``{out}.jpg`` names another suffix.
            ``{seed}`` becomes a number from 0 to 2147483646, drawn anew each time.
        image: (1, 3, H, W) in [0, 1]; clipped and rounded to 8 bits first.
        seconds: after which it is stopped.

    Returns:
        (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: the command fails, takes too long, or writes no picture of the image's size.
    """
    with tempfile.TemporaryDirectory(prefix="distortion-") as folder:
        source, result = Path(folder, "in.png"), Path(folder, "out")
        picture(image).save(source)
        text = command.replace("{in}", _quoted(source)).replace("{out}", _quoted(result))
        if "{seed}" in text:
            text = text.replace("{seed}", str(int(torch.randint(SEEDS, (), generator=generator))))
        _call(text, seconds, command)
        written = sorted(Path(folder).glob("out*"))
        if len(written) != 1:
            names = ", ".join(path.name for path in written) or "nothing"
            raise ValueError(f"the distortion {command!r} wrote {names} to {{out}}, expected one picture")
        try:
            distorted = read_picture(written[0])
        except PictureError as error:
            raise ValueError(f"the distortion {command!r} wrote a picture that cannot be used: {error}") from error
    if distorted.shape != image.shape:
        sizes = [f"{x.shape[3]} x {x.shape[2]}" for x in (distorted, image)]
        raise ValueError(f"the distortion {command!r} wrote a picture of {sizes[0]} pixels, expected {sizes[1]}")
    return distorted.to(image.device, image.dtype)


def _quoted(path: Path) -> str:
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def _call(text: str, seconds: float, command: str) -> None:
    """Runs a command in a group of its own, so that what it started can be stopped with it."""
    process = subprocess.Popen(
        text,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=os.name != "nt",
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"the distortion {command!r} took more than {seconds:g} s and was stopped; --command-seconds allows more"
        ) from error
    finally:
        if process.poll() is None:  # too slow, or interrupted
            if os.name == "nt":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        last = said.decode(errors="replace").strip()[-SHOWN:] or "nothing"
        raise ValueError(f"the distortion {command!r} failed with code {process.returncode} and said: {last}")
