"""The documentation's figures come from the result files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from training.bench.report import device, pages


def test_the_pages_say_what_the_result_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert pages.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_figure_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made_before = pages.pages

    def with_another_figure(rows: object) -> dict[object, str]:
        made = made_before(rows)  # type: ignore[arg-type]
        return {path: text + "another figure\n" if path.name == "quality.md" else text for path, text in made.items()}

    monkeypatch.setattr(pages, "pages", with_another_figure)
    assert pages.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "training/bench/results/quality.md" in said
    assert "README.md" not in said


def test_sections_replace_what_stood_between_their_marks() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb"
    assert pages.splice(text, {"x": "new \\1"}) == "a\n<!-- begin x -->\n\nnew \\1\n\n<!-- end x -->\nb"


@pytest.mark.parametrize("text", ["no marks", "<!-- begin x --> <!-- end x --> <!-- begin x --> <!-- end x -->"])
def test_a_page_without_the_place_for_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="begin x"):
        pages.splice(text, {"x": "new"})


def test_tables_of_a_device_are_of_the_last_run_that_has_rows(tmp_path: Path) -> None:
    results = pages.RESULTS / "device"
    shutil.copytree(results, tmp_path / "device")
    before = device.sections(results)
    again = tmp_path / "device" / "9-again"
    again.mkdir()
    slow = {"part": "fused", "mode": "default", "shape": [1, 3, 8, 8], "tf32": True, "ms": 8.0, "ms_in_a_graph": 4.0}
    names = [*device.OURS, device.VGG, "AlexNet"]
    rows = [{**slow, "loss": name, "megabytes": 1.0} for name in names]
    rows.append({"part": "joined", "skipped": "no time was left"})
    (again / "losses.json").write_text(json.dumps({"rows": rows}))
    after = device.sections(tmp_path / "device")
    assert after["device losses"].splitlines()[2:] == [
        "| 1x3x8x8, TF32 | 8.00, 4.00 | 8.00, 4.00 | 8.00, 4.00 | 8.00, 4.00 | 8.00, 4.00 | **1.0, 1.0** | 1, 1, 1 |"
    ]
    assert after["device joined"] == before["device joined"]
    shutil.rmtree(tmp_path / "device" / "1-4696e73")
    with pytest.raises(ValueError, match=r"no run in .* has rows of losses\.eager"):
        device.sections(tmp_path / "device")
