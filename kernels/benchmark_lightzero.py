"""LightZero's EfficientZero search, the peer with a C++ tree: on our problems, driven as its own planner drives it.

Latents are collected one by one into lists, and everything passes through NumPy. ``pip install --no-deps LightZero``
brings the compiled tree, which is all that is used of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from xtra_rl.kernels.benchmark_models import ACTIONS, DISCOUNT, LATENT, network_problem, ready_answers
from xtra_rl.models import WorldModel

HORIZON = 5
Model = Callable[[np.ndarray, list[np.ndarray]], tuple[Any, Any, Any, list[np.ndarray]]]


@lru_cache
def _tree() -> Any:
    """The compiled module, without LightZero's own imports; None where it is not installed."""
    package = importlib.util.find_spec("lzero")
    folders = (package.submodule_search_locations if package else None) or []
    for folder in folders:
        for file in Path(folder).glob("mcts/ctree/ctree_efficientzero/ez_tree*.so"):
            spec = importlib.util.spec_from_file_location("ez_tree", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


def has_lightzero() -> bool:
    """Whether the peer is installed."""
    return _tree() is not None


def _search(
    logits: np.ndarray, latents: list[np.ndarray], model: Model, simulations: int
) -> Callable[[], np.ndarray]:
    """A search that returns the visit counts; ``latents`` are the arrays of the roots, ``[B, ...]`` each."""
    tree, batch = _tree(), len(logits)

    def call() -> np.ndarray:
        roots = tree.Roots(batch, [list(range(ACTIONS))] * batch)
        players = [-1] * batch
        roots.prepare_no_noise([0.0] * batch, logits.tolist(), players)
        bounds = tree.MinMaxStatsList(batch)
        bounds.set_delta(0.01)
        pools = [[latent] for latent in latents]
        for simulation in range(simulations):
            results = tree.ResultsWrapper(num=batch)
            nodes, rows, actions, virtual = tree.batch_traverse(
                roots, 19652, 1.25, DISCOUNT, bounds, results, players
            )
            places = list(zip(nodes, rows, strict=True))
            gathered = [np.asarray([pool[node][row] for node, row in places]) for pool in pools]
            prefix, value, policy, following = model(np.asarray(actions), gathered)
            for pool, latent in zip(pools, following, strict=True):
                pool.append(latent)
            reset = np.array(results.get_search_len()) % HORIZON == 0
            for latent in following[1:]:
                latent[reset] = 0
            tree.batch_backpropagate(
                simulation + 1,
                DISCOUNT,
                prefix,
                value,
                policy,
                bounds,
                results,
                reset.astype(np.int32).tolist(),
                virtual,
            )
        return np.array(roots.get_distributions())

    return call


def trivial(simulations: int, batch: int, *, latents: bool) -> Callable[[], np.ndarray]:
    """With the trivial model."""
    ready = ready_answers(batch)
    answers = [[part.tolist() for part in answer] for answer in ready[1:]]
    shape = (batch, *LATENT) if latents else (batch, 1)
    turn = [0]

    def model(action: np.ndarray, gathered: list[np.ndarray]) -> tuple[Any, Any, Any, list[np.ndarray]]:
        turn[0] = (turn[0] + 1) % len(answers)
        return (*answers[turn[0]], gathered)

    latent = np.random.default_rng(0).random(shape, np.float32)
    return _search(ready[0].prior_logits.numpy(), [latent], model, simulations)


def network(simulations: int, batch: int, released: WorldModel) -> Callable[[], np.ndarray]:
    """With EfficientZero's network in plain PyTorch."""
    problem = network_problem(released, batch, "cpu")
    embedding = problem.embedding
    # Depth 1: the LSTM goes on unless the search has zeroed its state.
    depth = torch.ones(batch, dtype=torch.int32)

    @torch.no_grad()
    def model(action: np.ndarray, gathered: list[np.ndarray]) -> tuple[Any, Any, Any, list[np.ndarray]]:
        latent, hidden, cell = (torch.from_numpy(part) for part in gathered)
        state = TensorDict({"latent": latent, "hidden": hidden, "cell": cell, "depth": depth}, [batch])
        output, following = released.recurrent_inference(torch.from_numpy(action).long(), state)
        arrays = [following[key].numpy() for key in ("latent", "hidden", "cell")]
        return output.reward.tolist(), output.value.tolist(), output.prior_logits.tolist(), arrays

    latents = [embedding[key].contiguous().numpy() for key in ("latent", "hidden", "cell")]
    return _search(problem.prior_logits.numpy(), latents, model, simulations)
