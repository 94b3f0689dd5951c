"""Lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def first_of(parts: Sequence[str], limit: int, separator: str = "; ") -> str:
    """The first few of some parts of a message, and how many more there are.

    Example:
        >>> first_of(["lr is 0.1", "seed is 3", "device is cpu"], 2), first_of(["lr is 0.1"], 2)
        ('lr is 0.1; seed is 3 and 1 more', 'lr is 0.1')
    """
    more = f" and {len(parts) - limit} more" if len(parts) > limit else ""
    return separator.join(parts[:limit]) + more
