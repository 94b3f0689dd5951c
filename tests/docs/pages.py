"""The pages of README, site, kernels and results, taken apart: blocks, links, headings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# They come into the site by links.
PAGES += [ROOT / "kernels" / "README.md", *sorted((ROOT / "results").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
#: Stands on the line before a block that takes long; later blocks of the page, which build on it, are left to it, too.
SLOW = "<!-- slow -->"

_BLOCK = re.compile(r"^(<!-- slow -->\n)?```(\w+)\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    slow: bool


def blocks(page: str, language: str) -> list[Block]:
    """Blocks of a language, in order."""
    found = _BLOCK.findall((ROOT / page).read_text())
    return [Block(name, text, bool(slow)) for slow, name, text in found if name == language]


def prose(page: str) -> str:
    """The page without its blocks and code spans."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: str) -> list[str]:
    """Targets of all links and pictures but those to other hosts."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page).replace("[]", "[code]"))
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as mkdocs and GitHub make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
