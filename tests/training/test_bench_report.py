"""The documentation's figures come from the result files."""

from __future__ import annotations

import pytest

from training.bench.report import pages


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
