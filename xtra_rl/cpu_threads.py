"""How many threads compiled code uses on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


def numba_threads(limit: int) -> int:
    """Threads for Numba's next parallel call: as many as PyTorch may use, but at most ``limit``, at least 1.

    One pool serves the tree, the latents and the network of a search.
    """
    threads = max(1, min(torch.get_num_threads(), _launched_threads(), limit))
    _numba().set_num_threads(threads)
    return threads


@cache
def _numba() -> Any:
    import numba

    return numba


@cache
def _launched_threads() -> int:
    """Size of Numba's pool, which is started here.

    With OpenMP that sets the number of threads for the whole process, PyTorch's too, whose results depend on it: what
    the user has set is set again.
    """
    before = torch.get_num_threads()
    _numba().set_num_threads(1)
    torch.set_num_threads(before)
    return int(_numba().config.NUMBA_NUM_THREADS)
