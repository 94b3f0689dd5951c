"""How freed memory is dealt with: kept for the next step instead of given back to the system."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for the rest of its life; returns whether it does (Linux with glibc).

    By default every tensor above some size gets fresh pages from the system and returns them when it is freed. A
    training step frees and asks for the same hundreds of megabytes again and again; on a CPU the page faults took 15 to
    25 % of a step. The price is that memory stays at its highest level. The recipes call this once; call it in a recipe
    of your own before training starts. It changes no result.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) for name, value in settings)
