"""Cross-task transfer with MuZero-family world models, as RL components on TorchRL.

Shape letters used in every docstring: ``B`` roots or samples, ``N`` tree nodes or environments, ``A`` actions,
``K`` unroll steps (so ``K + 1`` states), ``S`` support bins, ``T`` time, ``M`` tasks, ``F`` stacked frames,
``C H W`` image.

Sub-packages import TorchRL only where they need it, so that ``import xtra_rl`` stays fast.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtra_rl.pretrained import load_pretrained

__all__ = ["load_pretrained"]

__version__ = "0.1.0"

# GNU OpenMP's idle threads look for work for milliseconds before they sleep, and whoever else wants their core waits:
# with one other process on two cores a training step took 5.6 s instead of 0.07 s. With this it takes 0.3 s, and alone
# it is as fast as before. The setting is read when PyTorch is loaded, so ``xtra_rl`` has to be imported before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name != "load_pretrained":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xtra_rl.pretrained import load_pretrained

    return load_pretrained
