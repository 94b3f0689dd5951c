"""Cross-task transfer with MuZero-family world models, as RL components on TorchRL.

Shape letters used in every docstring: ``B`` roots or samples, ``N`` tree nodes or environments, ``A`` actions,
``K`` unroll steps (so ``K + 1`` states), ``S`` support bins, ``T`` time, ``M`` tasks, ``F`` stacked frames,
``C H W`` image.

Sub-packages import TorchRL only where they need it, so that ``import xtra_rl`` stays fast.
"""

__version__ = "0.1.0"
