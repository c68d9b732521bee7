"""What reads bytes of others, one function each, and the errors that it documents. Any other error is a finding."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from task_losses import WeightsError
from task_losses.card import model_card
from task_losses.pictures import PictureError, read_picture
from task_losses.sharing import shared_files
from task_losses.weights import parse_manifest, parse_weights
from training.config import Config
from training.convert_official import convert
from training.run_folder import RunFolder

Target = Callable[[bytes], object]
LONGEST_MESSAGE = 4000
SOUND_CHECKPOINT = Path(__file__).parent / "seeds" / "checkpoint" / "sound"
REFUSED: dict[str, tuple[type[Exception], ...]] = {
    "weights": (WeightsError,),
    "manifest": (WeightsError,),
    "legacy": (ValueError, WeightsError),
    "picture": (PictureError,),
    "checkpoint": (ValueError, OSError),
    "configuration": (ValueError,),
}


def weights(data: bytes) -> object:
    """A weight file. One that begins like JSON is the header alone: its length and 64 kB of zeros are put around."""
    if data.startswith(b"{"):
        data = struct.pack("<Q", len(data)) + data + bytes(2**16)
    found = parse_weights(data, "fuzzed")
    with suppress(ValueError):  # a task that cannot name a file
        shared_files(found, "TaskLoss", None, None, None)
    return found


def manifest(data: bytes) -> object:
    return model_card(parse_manifest(data, "fuzzed"), "TaskLoss").encode()


def legacy(data: bytes) -> object:
    return convert(data, "jpeg", scales=1)


def picture(data: bytes) -> object:
    """A picture. The checks of PNG's parts are made right, since no mutation meets a sum of 32 bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(_with_sums(data))
        return read_picture(path)


def checkpoint(data: bytes) -> object:
    """A checkpoint. A pickle alone takes that one's place in the sound seed, since the archive has sums too."""
    if data.startswith(b"\x80"):
        data = _with_pickle(data)
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.checkpoint_path.write_bytes(data)
        return folder.load_checkpoint()


def configuration(data: bytes) -> object:
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("no object")
    return Config.from_dict(content).to_json()


TARGETS: dict[str, Target] = {
    "weights": weights,
    "manifest": manifest,
    "legacy": legacy,
    "picture": picture,
    "checkpoint": checkpoint,
    "configuration": configuration,
}


def run(name: str, data: bytes) -> bool:
    """Whether a target takes the bytes. Raises what it does not document, or says at too great length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd pictures
        try:
            TARGETS[name](data)
        except REFUSED[name] as error:
            if len(str(error)) > LONGEST_MESSAGE:
                raise AssertionError(f"a message of {len(str(error))} characters") from None
            return False
    return True


def _with_pickle(data: bytes) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(SOUND_CHECKPOINT) as sound, zipfile.ZipFile(result, "w") as archive:
        for entry in sound.infolist():
            archive.writestr(entry, data if entry.filename.endswith("data.pkl") else sound.read(entry))
    return result.getvalue()


def _with_sums(data: bytes) -> bytes:
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    result, position = bytearray(data[:8]), 8
    while len(data) >= position + 12:
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position + 4 : position + 8 + length]
        result += data[position : position + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        position += 12 + length
    return bytes(result + data[position:])
