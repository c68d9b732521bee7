"""The documentation's figures come from the result files."""

from __future__ import annotations

import pytest

from training.bench.report import __main__ as report


def test_the_pages_say_what_the_result_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_figure_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pages = report.pages

    def with_another_figure(rows: object) -> dict[object, str]:
        made = pages(rows)  # type: ignore[arg-type]
        return {path: text + "another figure\n" if path.name == "results.md" else text for path, text in made.items()}

    monkeypatch.setattr(report, "pages", with_another_figure)
    assert report.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "docs/results.md" in said
    assert "README.md" not in said


def test_sections_replace_what_stood_between_their_marks() -> None:
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb"
    assert report.splice(text, {"x": "new \\1"}) == "a\n<!-- begin x -->\n\nnew \\1\n\n<!-- end x -->\nb"


@pytest.mark.parametrize("text", ["no marks", "<!-- begin x --> <!-- end x --> <!-- begin x --> <!-- end x -->"])
def test_a_page_without_the_place_for_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="begin x"):
        report.splice(text, {"x": "new"})
