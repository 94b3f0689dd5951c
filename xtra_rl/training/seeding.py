"""One seed for a run, from which every source of randomness gets its own."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed for one use, between 0 and 2**31 - 1: equal for equal names, unrelated for others.

    Args:
        seed: of the run.
        *names: what it is for, e.g. ``"env", "alien"``.

    Raises:
        ValueError: if ``seed`` is negative.

    Example:
        >>> derive_seed(0, "env") == derive_seed(0, "env"), derive_seed(0, "env") == derive_seed(0, "search")
        (True, False)
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more")
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def make_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by :func:`derive_seed`.

    Example:
        >>> draws = [torch.rand(3, generator=make_generator(0, "noise")) for _ in range(2)]
        >>> torch.equal(*draws)
        True
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))
