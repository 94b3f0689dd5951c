"""Whole searches as CUDA graphs: one launch instead of thousands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from xtra_rl.search.backends import Rule
from xtra_rl.search.embeddings import leaves_of
from xtra_rl.search.roots import Roots
from xtra_rl.search.simulation import SearchOptions, Simulation
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import Embedding, RecurrentFn

_WARM_UPS = 2


class SearchGraphs:
    """Captures the simulations of a search in a CUDA graph, and replays it for later roots of the same shape.

    Hand the same object to every call of :func:`~xtra_rl.search.puct_search` or
    :func:`~xtra_rl.search.gumbel_search` (``graphs=``), or to a planner. The first search of a shape, an option or a
    ``recurrent_fn`` warms up, which compiles kernels, and captures; later ones copy their roots into its memory and
    launch the graph. What a graph asks of ``recurrent_fn``:

    - static shapes and no word to the host: no ``.item()``, no branch on a tensor;
    - weights that are updated in place, as optimisers and ``load_state_dict`` do; a graph reads them where they were;
    - nothing else that differs between calls, such as a train or eval mode: that is what it was at capture.

    The ``tree`` of a result is the graph's own memory: it holds until the next search of that graph.

    Args:
        max_graphs: graphs to keep; the one that was not used for longest is dropped first. Each holds its tree, its
            latents and the model's intermediate results.

    Raises:
        ValueError: if ``max_graphs`` is not positive.

    Example:
        >>> graphs = SearchGraphs()  # then: puct_search(..., backend="triton", graphs=graphs)
        >>> len(graphs)
        0
    """

    def __init__(self, max_graphs: int = 8) -> None:
        if max_graphs < 1:
            raise ValueError(f"max_graphs is {max_graphs}, expected at least 1.")
        self._max_graphs = max_graphs
        self._graphs: OrderedDict[Hashable, _SearchGraph] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins without graphs, which belong to their process and memory."""
        return {"_max_graphs": self._max_graphs, "_graphs": OrderedDict()}

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Drop all graphs and their memory."""
        self._graphs.clear()

    def _grow(
        self,
        roots: Roots,
        prior: Tensor,
        embedding: Embedding,
        recurrent_fn: RecurrentFn,
        rule: Rule,
        options: SearchOptions,
    ) -> SearchTree:
        """Trees from root priors ``[B, A]``, valid until the next call with the same shapes and options."""
        constants, tensors = _split(rule)
        key = (recurrent_fn, type(rule), constants, options, _shapes(roots, tensors, embedding))
        graph = self._graphs.get(key)
        if graph is None:
            graph = _SearchGraph(roots, prior, embedding, recurrent_fn, rule, options)
            self._graphs[key] = graph
            while len(self._graphs) > self._max_graphs:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph.replay(roots, prior, embedding, rule)


class _SearchGraph:
    """One captured search."""

    def __init__(
        self,
        roots: Roots,
        prior: Tensor,
        embedding: Embedding,
        recurrent_fn: RecurrentFn,
        rule: Rule,
        options: SearchOptions,
    ) -> None:
        # Copies, since a caller's tensors would be written over or freed.
        seeds = None if roots.tie_seeds is None else roots.tie_seeds.clone()
        own = Roots(roots.prior_logits.clone(), roots.value.clone(), roots.invalid_actions.clone(), seeds)
        self._tensors = {name: tensor.clone() for name, tensor in _split(rule)[1].items()}
        own_rule = replace(rule, **self._tensors)  # type: ignore[type-var]
        self._simulation = Simulation(own, prior.clone(), embedding.clone(), own_rule, options, "triton")
        # The graph reads what the callable closes over: keep it alive.
        self._recurrent_fn = recurrent_fn
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._simulation.restart(roots, prior, embedding)
                self._simulation.run(recurrent_fn)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._simulation.run(recurrent_fn)

    def replay(self, roots: Roots, prior: Tensor, embedding: Embedding, rule: Rule) -> SearchTree:
        self._simulation.restart(roots, prior, embedding)
        for name, tensor in _split(rule)[1].items():
            self._tensors[name].copy_(tensor)
        self._graph.replay()
        return self._simulation.tree


def _split(rule: Rule) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Constants and tensors of a rule."""
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}  # type: ignore[arg-type]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return tuple(value for name, value in values.items() if name not in tensors), tensors


def _shapes(roots: Roots, tensors: dict[str, Tensor], embedding: Embedding) -> Hashable:
    """Everything about the inputs that a graph is bound to."""
    inputs = [*zip(Roots._fields, roots, strict=True), *tensors.items(), *leaves_of(embedding).items()]
    return tuple(
        (
            name,
            tensor if tensor is None else (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device),
        )
        for name, tensor in inputs
    )
