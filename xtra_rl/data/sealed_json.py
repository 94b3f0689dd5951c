"""JSON files that carry a hash of their own content, so that a damaged one is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtra_rl.files import config_sha256, write_json

_SEAL = "content_sha256"


def write_sealed(file: Path, content: dict[str, Any]) -> None:
    """Replace ``file`` at once by ``content`` and its hash."""
    write_json(file, content | {_SEAL: config_sha256(content)})


def check_seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its hash.

    Raises:
        ValueError: if it was changed by anything but :func:`write_sealed`.
    """
    content = dict(content)
    if content.pop(_SEAL, None) != config_sha256(content):
        raise ValueError("its content does not fit its hash")
    return content
