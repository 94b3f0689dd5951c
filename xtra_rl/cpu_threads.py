"""How many threads compiled code uses on the CPU."""

from __future__ import annotations

import torch


def numba_threads(limit: int) -> int:
    """Threads for Numba's next parallel call: as many as PyTorch may use, but at most ``limit``, at least 1.

    One pool serves the tree, the latents and the network of a search. PyTorch has another one, whose idle threads look
    for work for some milliseconds after each operation and would take turns with these.
    """
    import numba

    threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, limit))  # type: ignore[attr-defined]
    numba.set_num_threads(threads)
    return threads
