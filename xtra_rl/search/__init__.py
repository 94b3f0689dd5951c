"""Batched latent tree search: pUCT (MuZero, EfficientZero) and Gumbel MuZero, and planners over a world
model.

``puct_search`` and ``gumbel_search`` know nothing of networks: the model is a callback. ``MCTSPlanner`` and
``GumbelMCTSPlanner`` put a world model behind it and are TorchRL policies and the engine of reanalysis.
"""

from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.search.cuda_graph import SearchGraphs
from xtra_rl.search.embeddings import PoolMemory
from xtra_rl.search.memory import search_bytes
from xtra_rl.search.noise import RootNoise
from xtra_rl.search.planner import GumbelMCTSPlanner, MCTSPlanner
from xtra_rl.search.puct import PuctRule
from xtra_rl.search.search import gumbel_search, puct_search
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import (
    Embedding,
    InitialOutput,
    RecurrentFn,
    RecurrentOutput,
    SearchModel,
    SearchResult,
)

__all__ = [
    "Embedding",
    "GumbelMCTSPlanner",
    "InitialOutput",
    "MCTSPlanner",
    "PoolMemory",
    "PuctRule",
    "RecurrentFn",
    "RecurrentOutput",
    "RootNoise",
    "SearchGraphs",
    "SearchModel",
    "SearchPlanner",
    "SearchResult",
    "SearchTree",
    "gumbel_search",
    "puct_search",
    "search_bytes",
]
