"""JSON files that carry a hash of their own content, so that a damaged one is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from xtra_rl.files import atomic_write_bytes

_SEAL = "content_sha256"


def write_sealed(file: Path, content: dict[str, Any]) -> None:
    """Replace ``file`` at once by ``content`` and its hash."""
    # As it will be read: keys that are numbers become strings, which sort differently.
    sealed = json.loads(json.dumps({key: value for key, value in content.items() if key != _SEAL}))
    sealed[_SEAL] = _hash(sealed)
    atomic_write_bytes(file, (json.dumps(sealed, indent=2) + "\n").encode())


def check_seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its hash.

    Raises:
        ValueError: if it was changed by anything but :func:`write_sealed`.
    """
    content = dict(content)
    if content.pop(_SEAL, None) != _hash(content):
        raise ValueError("its content does not fit its hash")
    return content


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
