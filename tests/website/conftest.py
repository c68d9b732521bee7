"""The site, built once for all tests here."""

import pytest
from site_pages import build, need_the_generator


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    need_the_generator()
    out = tmp_path_factory.mktemp("site") / "out"
    build.build(out)
    return out
