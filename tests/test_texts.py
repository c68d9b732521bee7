"""Texts of others on terminals and pages."""

import json
import re
from typing import Any

import pytest

from task_losses.card import model_card
from task_losses.texts import LONGEST, markdown, printable, read_json, shown

EVIL = [
    "[click](http://evil.example)",
    "![](http://evil.example/x.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><h1>Verified</h1>",
    "a | b | c",
    "a \\| b",
    "`code` ``two``",
    "**bold** _it_ ~~no~~ $x$",
    "line\n\n# Heading\n\n- item",
    "line\r\n---\r\nlicense: other",
    "http://evil.example www.evil.example a@evil.example @someone #1",
    "&lt;b&gt; &#60;b&#62; &amp;",
    "\x1b[2J\x07\x00 \u202e\u2028\u2029\x85",
    "x" * 10_000,
]


def cell(text: str) -> str:
    """What a reader sees of a text in a table: entities of its characters, taken back."""
    return re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), text)


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_markdown_shows_a_text_and_nothing_more(text: str) -> None:
    found = markdown(text)
    assert cell(found) == printable(text), "every character is there, as itself or as an entity"
    plain = re.sub(r"&#\d+;", "", found)
    assert not re.search(r"[\[\]<>|`*~$@#&\\:!]|www\.|\n", plain)


def test_plain_words_stay_plain() -> None:
    for text in (
        "CC0 1.0, photograph by Stefan van der Walt",
        "code_commit",
        "python -m training.train",
        "31.5 dB (mean)",
    ):
        assert markdown(text) == text


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_a_model_card_has_the_lines_it_would_have_anyway(text: str) -> None:
    def card(words: str) -> list[str]:
        architecture = {"channels": [3], "depth": 5, "taps": [1], "ratio": 0.75, "slope": 0.2}
        entry: dict[str, Any] = {
            "filename": "a.safetensors",
            "sha256": "0" * 64,
            "size": 1,
            "architecture": architecture,
        }
        entry |= {"license": words, "image": {"name": words}, "command": words, "list": [words], "metrics": {"m": 1.0}}
        content = {"repo_id": words, "license": words, "weights": {words: entry}}
        return model_card(content, "TaskLoss").splitlines()

    def skeleton(lines: list[str]) -> list[str]:
        """How each line begins, and into how many cells it falls."""
        starts = ["".join(re.findall(r"^(?:\||#+ |---|- |```|[a-z_]+:)", line)) for line in lines]
        return [f"{start} {line.count('|') if start == '|' else 0}" for start, line in zip(starts, lines, strict=True)]

    found, plain = card(text), card("some words")
    assert skeleton(found) == skeleton(plain)
    assert all(line.isprintable() for line in found)
    front = found[: found.index("---", 1)]
    assert not any(line.startswith("license:") for line in front), "no licence that the Hub could know"


def test_a_licence_that_the_hub_knows_stands_in_the_front_matter() -> None:
    architecture = {"channels": [3], "depth": 5, "taps": [1], "ratio": 0.75, "slope": 0.2}
    entry = {"filename": "a.safetensors", "sha256": "0" * 64, "size": 1, "architecture": architecture}
    assert 'license: "apache-2.0"' in model_card({"license": "Apache-2.0", "weights": {"x": entry}}, "TaskLoss")


def test_shown_is_short_for_whatever_it_is() -> None:
    class Angry:
        def __repr__(self) -> str:
            raise RuntimeError

    nested: Any = []
    for _ in range(100):
        nested = [nested, nested]
    loop: dict[str, Any] = {}
    loop["x"] = loop
    for value in ("x" * 10**6, [1] * 10**6, 10**5000, nested, loop, Angry(), "\x1b\n", b"\0" * 10**6, {"a": "b" * 999}):
        assert len(shown(value)) < LONGEST
        assert shown(value).isprintable()


@pytest.mark.parametrize("text", ["", "\n" * 5000, "\U000e0001" * 3000, "a" * 2000, "a" * 2001])
def test_printable_keeps_its_length(text: str) -> None:
    assert len(printable(text)) <= LONGEST
    assert printable(text).isprintable()
    assert printable(text, 2000) == text or len(text) > 2000 or not text.isprintable()


@pytest.mark.parametrize("value", [None, True, 0, -(2**53), 1.5, "a\u00e9\U0001f600", [], {}, {"a": [1, {"b": None}]}])
def test_sound_json_is_what_it_says(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False).encode()):
        assert read_json(text) == value
