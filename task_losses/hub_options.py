"""What names a file of the Hub, and how to reach it; apart from the rest, which is loaded when the Hub is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class HubOptions:
    """How to reach the Hub. Names, meaning and defaults are those of ``huggingface_hub.hf_hub_download``."""

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    endpoint: str | None = None
    local_files_only: bool = False


class HubFile(NamedTuple):
    """A file at the top level of a model repository, at a branch, tag or commit."""

    repo_id: str
    revision: str
    filename: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}/{self.filename}"
