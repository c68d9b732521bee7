"""What docs/hub.md shows of the Hub, run in its order against a local one."""

import re
from pathlib import Path

from hubserver import LocalHub
from subprocesses import ROOT, finish, start

from task_losses import JPEGLoss

PAGE = ROOT / "docs" / "hub.md"


def test_the_lines_of_the_page_about_the_hub_run(hub: LocalHub, tmp_path: Path) -> None:
    JPEGLoss().save_pretrained(tmp_path / "my-loss")
    files = {path.name: path.read_bytes() for path in (tmp_path / "my-loss").iterdir()}
    commit = hub.publish("owner/repo", files)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(blocks).replace("0123456789abcdef0123456789abcdef01234567", commit)
    assert commit in code
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_valid", "HF_HOME": str(tmp_path / "home")}
    said = finish(start(code + "\nprint(commit)", tmp_path, **environment))
    first, *_, last = said.splitlines()
    assert first.startswith("random None")
    assert last in hub.repos["me/my-loss"].commits
