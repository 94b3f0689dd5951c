"""Problems of the search benchmark, and our own contenders: the same roots and models for every implementation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xtra_rl.models import InferenceModel, WorldModel, make_world_model
from xtra_rl.search import PoolMemory, RecurrentOutput, SearchGraphs, SearchResult, gumbel_search, puct_search

DISCOUNT = 0.997
ACTIONS = 18
LATENT = (64, 6, 6)
ANSWERS = 8  # of the trivial model, and its root
RULES: dict[str, tuple[Callable[..., SearchResult], dict[str, Any]]] = {
    "puct": (puct_search, {"q_normalization": "tree"}),
    "puct_siblings": (puct_search, {"q_normalization": "siblings"}),
    "gumbel": (gumbel_search, {}),
}


class Problem(NamedTuple):
    """Roots and a model: the first four arguments of a search, and options that come with the model."""

    prior_logits: Tensor
    value: Tensor
    embedding: Any
    recurrent_fn: Callable[..., Any]
    options: dict[str, Any]


def ready_answers(batch: int, seed: int = 0) -> list[RecurrentOutput]:
    """What the trivial model says: answers that are drawn beforehand; the first one is the root's."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    return [
        RecurrentOutput(0.1 * draw(batch), 0.5 * draw(batch), draw(batch, ACTIONS)) for _ in range(ANSWERS)
    ]


def trivial_problem(batch: int, device: str, *, latents: bool) -> Problem:
    """A model that costs nothing: it answers from a list in turn and hands its latent on.

    With ``latents`` they are of the size of EfficientZero's, 64x6x6 floats, and have to be gathered and written.
    """
    ready = [RecurrentOutput(*(part.to(device) for part in answer)) for answer in ready_answers(batch)]
    root, answers = ready[0], ready[1:]
    embedding = torch.rand(batch, *LATENT, device=device) if latents else torch.zeros(batch, 1, device=device)
    turn = [0]

    def step(action: Tensor, embedding: Tensor) -> tuple[RecurrentOutput, Tensor]:
        turn[0] = (turn[0] + 1) % len(answers)
        return answers[turn[0]], embedding

    return Problem(root.prior_logits, root.value, embedding, step, {})


def table_problem(
    batch: int, device: str, seed: int = 1, states: int = 64
) -> tuple[Problem, dict[str, Tensor]]:
    """A small world of tables, whose searches all implementations must agree on; and its tables.

    Values and rewards are multiples of 1/8 and halve at each step, so that sums are exact in any order.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (states, ACTIONS)
    tables = {
        "prior_logits": 2 * torch.randn(shape, generator=generator),
        "value": torch.randint(-8, 9, (states,), generator=generator) / 8,
        "reward": torch.randint(-8, 9, shape, generator=generator) / 8,
        "next_state": torch.randint(states, shape, generator=generator),
        "root": torch.randint(states, (batch,), generator=generator),
    }
    world = {name: table.to(device) for name, table in tables.items()}

    def step(action: Tensor, state: Tensor) -> tuple[RecurrentOutput, Tensor]:
        following = world["next_state"][state, action]
        output = (world["reward"][state, action], world["value"][following], world["prior_logits"][following])
        return RecurrentOutput(*output), following

    root = world["root"]
    problem = Problem(world["prior_logits"][root], world["value"][root], root, step, {"discount": 0.5})
    return problem, tables


def efficientzero(seed: int = 0) -> WorldModel:
    """EfficientZero's networks in eval mode, with statistics and last layers that are not trivial.

    Priors and values then differ from node to node.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_world_model(num_actions=ACTIONS).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.2)
                nn.init.uniform_(module.running_var, 0.2, 0.5)
        nn.init.normal_(model.prediction.policy[1][3].weight, 0, 0.4)
        for head in (model.prediction.value[1], model.dynamics.reward_head.out):
            nn.init.normal_(head[3].weight, 0, 0.02)
    return model


def frames(batch: int) -> Tensor:
    """Stacks of frames with structure, ``[B, 12, 96, 96]`` uint8: coarse random tiles."""
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randint(0, 256, (batch, 12, 6, 6), generator=generator, dtype=torch.uint8)
    return tiles.repeat_interleave(16, 2).repeat_interleave(16, 3)


@torch.no_grad()
def network_problem(model: Any, batch: int, device: str) -> Problem:
    """Roots of a network, inferred in chunks."""
    parts = [model.initial_inference(chunk.to(device)) for chunk in frames(batch).split(64)]
    logits, value, embedding = (torch.cat(column) for column in zip(*parts, strict=True))
    embedding["latent"] = embedding["latent"].contiguous(memory_format=torch.channels_last)
    reset_entries = getattr(model, "reset_entries", ())
    options = {"value_prefix_horizon": model.value_prefix_horizon, "reset_entries": reset_entries}
    return Problem(logits, value, embedding, model.recurrent_inference, options)


def engine(model: WorldModel, device: str, **options: Any) -> InferenceModel:
    """The inference engine of a world model."""
    return InferenceModel(model.to(device), external_reset=True, **options)


def search_of(
    problem: Problem, rule: str, backend: str, simulations: int, *, graph: bool = False
) -> Callable[[], SearchResult]:
    """A search to be called again and again, in one memory."""
    search, options = RULES[rule]
    return partial(
        search,
        *problem[:4],
        num_simulations=simulations,
        backend=backend,
        graphs=SearchGraphs() if graph else None,
        memory=PoolMemory(),
        **{"discount": DISCOUNT, **options, **problem.options},
    )


def network_alone(problem: Problem, simulations: int) -> Callable[[], None]:
    """As many recurrent inferences as a search makes, and nothing else: what no search over this model can beat."""
    action = torch.arange(len(problem.value), device=problem.value.device) % ACTIONS

    @torch.no_grad()
    def call() -> None:
        embedding = problem.embedding
        for _ in range(simulations):
            _, embedding = problem.recurrent_fn(action, embedding)

    return call


def as_released(model: WorldModel) -> WorldModel:
    """The network as EfficientZero and LightZero run it: unfolded, in PyTorch's default memory format."""
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
