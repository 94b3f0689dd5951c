"""What is timed against what."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xtra_rl.kernels import benchmark_lightzero as lightzero
from xtra_rl.kernels import benchmark_machine as machine
from xtra_rl.kernels import benchmark_models as models
from xtra_rl.kernels import benchmark_peers as peers

LATENT_BYTES = machine.FLOAT * int(np.prod(models.LATENT))
#: Memory that a simulation of all trees moves, up to which it counts as being in the cache.
CACHED_BYTES = 2**20


class Contender(NamedTuple):
    """One implementation on one problem."""

    name: str
    rule: str
    call: Callable[[], Any]


class Case(NamedTuple):
    """A problem and those who are timed on it."""

    section: str
    batch: int
    simulations: int
    contenders: list[Contender]
    work: machine.Work
    cached: bool  # whether the memory it moves fits the caches


def own_contenders(problem: models.Problem, backends: list[str], simulations: int) -> Iterator[Contender]:
    """Our backends with all rules; on a GPU also as a graph."""
    for rule in models.RULES:
        for backend in backends:
            yield Contender(backend, rule, models.search_of(problem, rule, backend, simulations))
            if backend == "triton":
                graph = models.search_of(problem, rule, backend, simulations, graph=True)
                yield Contender("triton graph", rule, graph)


def tree_case(args: argparse.Namespace, batch: int, *, latents: bool) -> Case:
    """Searches over a model that costs nothing, without latents or with EfficientZero's."""
    problem = models.trivial_problem(batch, args.device, latents=latents)
    contenders = list(own_contenders(problem, args.backends, args.simulations))
    if args.mctx:
        contenders += [
            Contender("mctx", rule, peers.trivial(rule, args.simulations, batch, latents=latents))
            for rule in peers.MCTX_RULES
        ]
    if args.lightzero:
        call = lightzero.trivial(args.simulations, batch, latents=latents)
        contenders.append(Contender("LightZero", "puct", call))
    work = machine.tree_work(contenders[0].call(), LATENT_BYTES if latents else machine.FLOAT)
    cached = work.bytes / args.simulations < CACHED_BYTES and not latents
    return Case("pool" if latents else "tree", batch, args.simulations, contenders, work, cached)


def network_case(args: argparse.Namespace, batch: int) -> Case:
    """Searches over EfficientZero's network, and that network alone, folded and as its authors run it."""
    model = models.efficientzero()
    work = machine.network_work(model, batch, args.simulations)
    engine = models.engine(model, args.device)
    problem = models.network_problem(engine, batch, args.device)
    fast = args.backends[-1]
    contenders = list(own_contenders(problem, [fast], args.simulations))
    alone = models.network_alone(problem, args.simulations)
    contenders.append(Contender("folded network, no search", "", alone))
    released = models.as_released(models.efficientzero()).to(args.device)
    roots = models.network_problem(released, batch, args.device)
    alone = models.network_alone(roots, args.simulations)
    contenders.append(Contender("PyTorch network, no search", "", alone))
    if args.mctx:
        contenders += [
            Contender("mctx", rule, peers.network(rule, args.simulations, batch, model))
            for rule in peers.MCTX_RULES
        ]
    if args.lightzero:
        call = lightzero.network(args.simulations, batch, released)
        contenders.append(Contender("LightZero", "puct", call))
    # The weights, 10 MB, are read from a cache in each simulation.
    return Case("network", batch, args.simulations, contenders, work, cached=True)


def scaling_case(args: argparse.Namespace, batch: int, simulations: int) -> Case:
    """Tree only, from few to many simulations."""
    problem = models.trivial_problem(batch, args.device, latents=False)
    call = models.search_of(problem, "puct", args.backends[-1], simulations)
    work = machine.tree_work(call(), machine.FLOAT)
    contenders = [Contender(args.backends[-1], "puct", call)]
    return Case(
        "scaling", batch, simulations, contenders, work, cached=work.bytes / simulations < CACHED_BYTES
    )
