"""Publish the released weights on the Hub, and pin what was published in the manifest.

    python -m training.publish              # checks everything and says what would be done
    HF_TOKEN=... python -m training.publish --execute

All files go up in one commit. They are then downloaded into an empty cache without a token, as a user would, and
compared; the commit is tagged ``v<version>``; and only then is it written into the manifest as ``revision``, for a
maintainer to commit. A run that was interrupted is repeated: what is done already is found and left alone. A version
that is tagged never changes, and no weight file's name comes twice with other bytes: new weights need a new version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from task_losses import hub
from task_losses.card import model_card
from task_losses.files import write_file
from task_losses.hub_options import HubOptions
from task_losses.losses import loss_class
from task_losses.sharing import manifest_bytes, read_preview
from task_losses.weights import MANIFEST, WeightsError, WeightsIntegrity, parse_entry, parse_manifest
from training.provenance import RETIRED, ROOT

PREVIEWS = ROOT / "docs" / "images"  # what the critics of each task were to tell apart, for the card
SIGNATURE = "model.sig"
SIGNING_TOOL = "model_signing"


class PublishError(RuntimeError):
    """Publication cannot go on. The message says why and what to do."""


@dataclass(frozen=True)
class Release:
    """What is to be published.

    Attributes:
        files: path in the repository -> content: weights, manifest, model card and its pictures, licence.
    """

    repo_id: str
    version: str
    files: dict[str, bytes]

    @property
    def tag(self) -> str:
        return f"v{self.version}"


def collect(manifest_path: Path, weights_folder: Path) -> Release:
    """Reads the files of a release and checks each against the manifest.

    Raises:
        PublishError: a file is missing, the manifest lacks ``repo_id`` or ``version``, or a name was released before
            with other bytes.
        WeightsIntegrity: a file is not what the manifest says.
    """
    manifest = parse_manifest(_read(manifest_path), source=str(manifest_path))
    for key in ("repo_id", "version"):
        if not isinstance(manifest.get(key), str):
            raise PublishError(f"{manifest_path} must name a {key}, found {manifest.get(key)!r}")
    # The commit that holds the manifest cannot be named in it.
    unpinned = {**manifest, "revision": None}
    files = {}
    retired = json.loads(_read(manifest_path.parent / RETIRED)) if (manifest_path.parent / RETIRED).exists() else {}
    for task, entry in manifest["weights"].items():
        if retired.get(entry["filename"], entry["sha256"]) != entry["sha256"]:
            raise PublishError(_taken(entry["filename"], f"listed in {RETIRED}"))
        path = weights_folder / entry["filename"]
        files[entry["filename"]] = _read(path)
        parse_entry(files[entry["filename"]], task, entry, source=str(path))
    files["LICENSE"] = _read(manifest_path.parent / "LICENSE")
    pictures = {task: PREVIEWS / f"preview-{task}.png" for task in manifest["weights"]}
    shown = {task: f"{task}.png" for task, path in pictures.items() if path.is_file()}
    files |= {name: read_preview(pictures[task]) for task, name in shown.items()}
    files["README.md"] = model_card(unpinned, loss_class(min(manifest["weights"])).__name__, shown).encode()
    files[MANIFEST] = manifest_bytes(unpinned)
    return Release(manifest["repo_id"], manifest["version"], files)


def publish(release: Release, options: HubOptions, sign_key: Path | None = None) -> str:
    """Brings a release onto the Hub, or finds it there.

    Args:
        options: ``token`` with write access.
        sign_key: private key to sign the files with, in PEM format; None for no signature.

    Returns:
        The commit, 40 hexadecimal digits, tagged and verified.

    Raises:
        PublishError: the version, or a weight file's name, is published with other content, or the files cannot be
            signed.
        WeightsError: the Hub does not give back what was sent.
        huggingface_hub.errors.HfHubHTTPError: the Hub refused; for example because somebody else committed meanwhile.
    """
    api = hub.client(options)
    api.whoami()  # a bad token shows here, before anything is made
    commit = _tagged_commit(release, options)
    if commit is not None:
        try:
            verify(release, commit, options)
        except WeightsIntegrity as error:
            raise PublishError(
                f"{release.repo_id} has a version {release.version} already, with other files: {error}; published "
                "weights never change, so raise the version in the manifest"
            ) from error
        return commit
    _check_names(release, options)
    files = dict(release.files)
    if sign_key is not None:
        files[SIGNATURE] = sign(files, sign_key)
    commit = hub.upload(release.repo_id, files, f"task-losses weights {release.version}", options)
    verify(replace(release, files=files), commit, options)
    api.create_tag(release.repo_id, tag=release.tag, revision=commit)
    return commit


def _check_names(release: Release, options: HubOptions) -> None:
    """That no weight file of an earlier version would be replaced: versions that are out name these by name."""
    from huggingface_hub.errors import RepositoryNotFoundError

    weights = [name for name in release.files if name.endswith(".safetensors")]
    try:
        found = hub.client(options).get_paths_info(release.repo_id, weights)
    except RepositoryNotFoundError:
        return
    for info in found:
        lfs = getattr(info, "lfs", None)
        if lfs is not None and lfs.sha256 != hashlib.sha256(release.files[info.path]).hexdigest():
            raise PublishError(_taken(info.path, f"in {release.repo_id} with sha256 {lfs.sha256}"))


def _taken(name: str, where: str) -> str:
    return f"the name {name} is taken by other bytes, {where}; names never come twice: give the new weights another"


def verify(release: Release, commit: str, options: HubOptions) -> None:
    """Compares a commit's files with the release: their bytes as anybody gets them, and the Hub's own hashes.

    Raises:
        WeightsError: a file is not public, missing, or differs.
    """
    hub.check_upload(release.repo_id, commit, release.files, replace(options, token=False))
    for info in hub.client(options).get_paths_info(release.repo_id, list(release.files), revision=commit):
        lfs = getattr(info, "lfs", None)
        expected = hashlib.sha256(release.files[info.path]).hexdigest()
        if lfs is not None and lfs.sha256 != expected:
            raise WeightsIntegrity(f"the Hub lists {info.path} with sha256 {lfs.sha256}, expected {expected}")


def pin(manifest_path: Path, commit: str) -> bool:
    """Writes a commit into the manifest as ``revision``, whole or not at all. Returns whether it was another before."""
    manifest: dict[str, Any] = json.loads(_read(manifest_path))
    if manifest["revision"] == commit:
        return False
    text = json.dumps({**manifest, "revision": commit}, indent=2, ensure_ascii=False)
    write_file(manifest_path, f"{text}\n".encode())
    return True


def sign(files: dict[str, bytes], key: Path) -> bytes:
    """A signature over all files, by the model-signing tool of the OpenSSF.

    Raises:
        PublishError: the tool is not installed, or failed.
    """
    tool = shutil.which(SIGNING_TOOL)
    if tool is None:
        raise PublishError(
            f"--sign-key needs the tool {SIGNING_TOOL}: `pip install model-signing pyOpenSSL`, or leave the option out"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        with tempfile.TemporaryDirectory() as elsewhere:
            signature = Path(elsewhere, SIGNATURE)
            command = [tool, "sign", "key", "--private_key", str(key), "--signature", str(signature), folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0 or not signature.is_file():
                raise PublishError(f"{SIGNING_TOOL} failed: {(done.stderr or done.stdout).strip()}")
            return signature.read_bytes()


def _tagged_commit(release: Release, options: HubOptions) -> str | None:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return hub.client(options).model_info(release.repo_id, revision=release.tag).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PublishError(f"cannot read {path}: {error.strerror or error}") from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=__doc__.split("\n")[0])
    parser.add_argument("--manifest", type=Path, default=ROOT / MANIFEST, help="default: the repository's")
    parser.add_argument("--weights", type=Path, default=ROOT / "task_losses" / "weights", help="folder of the files")
    parser.add_argument("--endpoint", help="address of the Hub; default: HF_ENDPOINT, or the public one")
    parser.add_argument("--sign-key", type=Path, metavar="PEM", help=f"add {SIGNATURE}, made with this private key")
    parser.add_argument("--execute", action="store_true", help="publish; without it nothing is sent or written")
    settings = parser.parse_args(arguments)
    try:
        release = collect(settings.manifest, settings.weights)
        print(f"{release.repo_id} {release.tag}")
        for name, content in sorted(release.files.items()):
            print(f"  {name:28} {len(content):9} bytes  sha256 {hashlib.sha256(content).hexdigest()}")
        if not settings.execute:
            print("All files agree with the manifest. Dry run: nothing was sent; --execute publishes.")
            return
        token = os.environ.get("HF_TOKEN")
        if not token:
            raise PublishError("set HF_TOKEN to a token with write access to the repository")
        commit = publish(release, HubOptions(token=token, endpoint=settings.endpoint), settings.sign_key)
        print(f"{release.repo_id}@{commit} is tagged {release.tag} and verified.")
        if pin(settings.manifest, commit):
            print(f"{settings.manifest} now pins it: commit that file, then release the package.")
        else:
            print(f"{settings.manifest} pins it already.")
    except (PublishError, WeightsError) as error:
        sys.exit(f"publish: {error}")


if __name__ == "__main__":
    main()
