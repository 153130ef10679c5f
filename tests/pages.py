"""The pages for users, the README and the guides: their code blocks, tables and headings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "resumable" / "guides").glob("*.md"))
PAGES = [README, *GUIDES]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def table_rows(page: Path) -> list[list[str]]:
    """The cells of the rows of all tables of a page."""
    rows = re.findall(r"^\| (.*) \|$", page.read_text("utf-8"), re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def headings(page: Path) -> list[str]:
    """The names by which links find the headings of a page, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
