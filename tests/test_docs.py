"""Links between the docs."""

import re
from pathlib import Path

import pytest

from generation.recipes.model_files import PROJECT_ROOT

PAGES = [*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"")


def links_of(page: Path) -> list[str]:
    """Return the relative links of a page, to pages and pictures."""
    found = [link or picture for link, picture in LINK.findall(page.read_text(encoding="utf-8"))]
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    assert [link for link in links_of(page) if not (page.parent / link).exists()] == []


def test_readme_links_to_every_page():
    linked = {link.removeprefix("docs/") for link in links_of(PROJECT_ROOT / "README.md")}
    linked |= set(links_of(PROJECT_ROOT / "docs" / "README.md"))
    assert {page.name for page in (PROJECT_ROOT / "docs").glob("*.md")} - linked == set()
