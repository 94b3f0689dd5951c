"""What mkdocs cannot say in its config: the pages lie beside it, and link to files of the repository.

Pages link as one reads them in the repository, ``../results/laptop/README.md``. Such files come into the site at the
same place: Markdown as pages, with what they link to in turn, all others as they are.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")


def on_config(config: Any) -> Any:
    """Take pages from the folder of the config, and leave out those of the navigation that are not there."""
    config.docs_dir = str(ROOT / "docs")
    config.nav = [entry for entry in config.nav if _exists(*entry.values())]
    return config


def _exists(page: Any) -> bool:
    return not isinstance(page, str) or (ROOT / "docs" / page).exists()


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to outside of ``docs``."""
    waiting = [page for page in files if page.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(Path(str(page.abs_src_path)).read_text()):
            place = _place(page, link)
            if (ROOT / place).is_file() and files.get_file_from_path(place) is None:
                added = File.generated(config, place, abs_src_path=str(ROOT / place))
                files.append(added)
                waiting += [added] if place.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links inside the repository become links inside the site, whose top is that of ``docs``."""
    folder = posixpath.dirname(page.file.src_uri) or "."
    return LINK.sub(lambda found: posixpath.relpath(_place(page.file, found[1]), folder), markdown)


def _place(page: File, link: str) -> str:
    """Where the file that a page links to is in the site; the README's facts are on the first page."""
    folder = Path(str(page.abs_src_path)).parent.relative_to(ROOT)
    name = posixpath.normpath(posixpath.join(folder.as_posix(), link))
    return "index.md" if name == "README.md" else name.removeprefix("docs/")
