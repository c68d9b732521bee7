"""The site: built strictly, complete, and asking nothing of other hosts."""

import re

import pytest
from site_pages import ROOT, Tags, build, need_the_generator

import task_losses

# What a browser fetches while it shows a page.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}


def pages(built):
    found = sorted(built.rglob("*.html"))
    assert len(found) > 25
    return found


def fetched(page):
    for tag, given in Tags(page).tags:
        address = given.get(FETCHED.get(tag, ""))
        if address and given.get("rel") not in NOT_FETCHED:
            yield address


def test_every_page_of_the_repository_is_in_the_navigation():
    """One that is not could be reached by links alone; gallery and interactive page are to be entered too."""
    lines = (ROOT / "website" / "zensical.toml").read_text(encoding="utf-8").splitlines()
    named = {page for line in lines if line.strip()[:1] != "#" for page in re.findall(r'"([\w/]+\.md)"', line)}
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert named == {build.page_of(file) for file in [*build.PAGES, *files]}


def test_pages_fetch_nothing_from_other_hosts(built):
    outside = {page.name: [a for a in fetched(page) if re.match(r"(https?:)?//", a)] for page in pages(built)}
    assert not {name: addresses for name, addresses in outside.items() if addresses}
    styles = "".join(path.read_text(encoding="utf-8") for path in built.rglob("*.css"))
    assert styles
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", styles)


def test_what_pages_fetch_is_there(built):
    missing = {
        f"{page.name}: {address}"
        for page in pages(built)
        if page.name != "404.html"  # its addresses begin at the top of a host
        for address in fetched(page)
        if not address.startswith("data:") and not (page.parent / re.split("[?#]", address)[0]).exists()
    }
    assert not missing


def test_pictures_have_alternative_texts(built):
    bare = [
        f"{page.name}: {given.get('src')}"
        for page in pages(built)
        for tag, given in Tags(page).tags
        if tag == "img" and not (given.get("alt") or "").strip()
    ]
    assert not bare


def test_the_api_page_has_what_the_package_exports_and_no_markup_of_another_tool(built):
    text = (built / "api.html").read_text(encoding="utf-8")
    for name in set(task_losses.__all__) - {"__version__"}:
        assert f'id="task_losses.{name}"' in text
    assert not re.findall(r":(?:class|meth|func|mod):", text)


def test_links_lead_to_pages_or_into_the_repository():
    text = "[a](usage.md#i) [b](../training/README.md) [c](../CONTRIBUTING.md#x) [d](../task_losses/losses.py) [e](#x)"
    there = f"{build.repository()}/blob/main/task_losses/losses.py"
    assert build.with_links_of_the_site(text, "docs/hub.md") == (
        f"[a](usage.md#i) [b](training.md) [c](contributing.md#x) [d]({there}) [e](#x)"
    )
    assert build.with_links_of_the_site("![x](docs/images/cost.svg)", "README.md") == "![x](images/cost.svg)"
    code = "```text\n[a](nowhere.md)\n```\n"
    assert build.with_links_of_the_site(code, "README.md") == code
    with pytest.raises(ValueError, match=r"docs/hub\.md: there is no nowhere\.md"):
        build.with_links_of_the_site("[a](nowhere.md)", "docs/hub.md")


def test_a_broken_anchor_stops_the_build(tmp_path, monkeypatch, capfd):
    need_the_generator()
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](#gone)\n", encoding="utf-8")
    monkeypatch.setattr(build, "PAGES", {})
    settings = tmp_path / "website"
    settings.mkdir()
    (settings / "theme").mkdir()
    (settings / "docstrings.py").write_text("", encoding="utf-8")
    (settings / "zensical.toml").write_text('[project]\nsite_name = "a"\nnav = [{ "A" = "index.md" }]\n', "utf-8")
    monkeypatch.setattr(build, "HERE", settings)
    assert build.main([str(tmp_path / "out")]) != 0
    assert not (tmp_path / "out").exists()
