"""A wrong argument is refused with one sentence that names it."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.search import RecurrentOutput, gumbel_search, puct_search

NAN = float("nan")


def arguments(**changes):
    base = {
        "prior_logits": torch.zeros(2, 3),
        "value": torch.zeros(2),
        "embedding": torch.zeros(2, 4),
        "recurrent_fn": lambda a, e: (RecurrentOutput(torch.zeros(2), torch.zeros(2), torch.zeros(2, 3)), e),
        "num_simulations": 3,
    }
    return base | changes


def model(reward=None, value=None, prior_logits=None, embedding=None):
    def step(action, old):
        output = RecurrentOutput(
            torch.zeros(2) if reward is None else reward,
            torch.zeros(2) if value is None else value,
            torch.zeros(2, 3) if prior_logits is None else prior_logits,
        )
        return output, old if embedding is None else embedding

    return step


SHARED = [
    ({"prior_logits": torch.zeros(3)}, r"prior_logits has shape \[3\], expected \[B, A\]"),
    ({"value": torch.zeros(2, 1)}, r"value has shape \[2, 1\], expected \[2\]"),
    ({"embedding": torch.zeros(3, 4)}, r"embedding has batch shape \[3, 4\].* 2 roots"),
    ({"embedding": [torch.zeros(2)]}, "embedding is a list, expected a Tensor or a TensorDict"),
    ({"embedding": TensorDict(batch_size=[2])}, "embedding is an empty TensorDict"),
    ({"prior_logits": torch.full((2, 3), NAN)}, "prior_logits contains NaN"),
    ({"prior_logits": torch.full((2, 3), torch.inf)}, r"prior_logits contains NaN or \+inf"),
    ({"value": torch.tensor([0.0, NAN])}, "value contains NaN"),
    ({"num_simulations": 0}, "num_simulations is 0, expected an integer of at least 1"),
    ({"num_simulations": 2.0}, "num_simulations is 2.0"),
    ({"discount": 1.5}, "discount is 1.5, expected a number of at least 0 and at most 1"),
    ({"backend": "cuda"}, "backend is 'cuda', .* choose one of 'auto', 'reference'"),
    ({"value_prefix_horizon": 0}, "value_prefix_horizon is 0"),
    ({"invalid_actions": torch.zeros(2, 4, dtype=torch.bool)}, r"invalid_actions has shape \[2, 4\]"),
    ({"invalid_actions": torch.zeros(2, 3)}, "invalid_actions has dtype torch.float32"),
    ({"invalid_actions": torch.tensor([[False] * 3, [True] * 3])}, r"no legal action .* in rows \[1\]"),
    (
        {"recurrent_fn": lambda a, e: ((torch.zeros(2),) * 3, e)},
        "recurrent_fn returned a tuple first, expected a Recu",
    ),
    (
        {
            "embedding": torch.zeros(2, 4, dtype=torch.int64),
            "recurrent_fn": model(embedding=torch.zeros(2, 4)),
        },
        "next embedding of recurrent_fn is torch.float32, which the root embedding, torch.int64, would cut off",
    ),
    (
        {"recurrent_fn": model(reward=torch.zeros(2, 1))},
        r"the reward returned by recurrent_fn has shape \[2, 1\]",
    ),
    ({"recurrent_fn": model(value=torch.zeros(1))}, r"the value returned by recurrent_fn has shape \[1\]"),
    ({"recurrent_fn": model(prior_logits=torch.zeros(2, 4))}, "the prior_logits returned by recurrent_fn"),
    ({"recurrent_fn": model(value=torch.tensor([0.0, NAN]))}, "returned by recurrent_fn contains NaN"),
    ({"recurrent_fn": model(reward=torch.tensor([0.0, NAN]))}, "returned by recurrent_fn contains NaN"),
    ({"value": torch.tensor([0.0, torch.inf])}, "value contains an infinite number"),
    (
        {"recurrent_fn": model(value=torch.tensor([0.0, torch.inf]))},
        "contains an infinite number|contains NaN",
    ),
    (
        {"recurrent_fn": model(reward=torch.tensor([0.0, -torch.inf]))},
        "contains an infinite number|contains NaN",
    ),
    ({"recurrent_fn": model(prior_logits=torch.full((2, 3), NAN))}, "returned by recurrent_fn contains NaN"),
    (
        {"recurrent_fn": model(embedding=torch.zeros(2, 1))},
        r"shape \[2, 1\], but the root embedding has \[2, 4\]",
    ),
    (
        {"recurrent_fn": model(embedding=TensorDict({"a": torch.zeros(2)}, [2]))},
        "must have the same structure",
    ),
]


@pytest.mark.parametrize("search", [puct_search, gumbel_search])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("changes", "message"), SHARED)
def test_both_searches_refuse(search, ties, changes, message):
    generator = torch.Generator() if ties else None
    with pytest.raises(ValueError, match=message):
        search(**arguments(generator=generator, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_normalization": "minmax"}, "q_normalization is 'minmax', expected 'tree' or 'siblings'"),
        ({"root_noise": torch.zeros(2, 2)}, r"root_noise has shape \[2, 2\], expected \[2, 3\]"),
        ({"root_noise": torch.full((2, 3), NAN)}, "root_noise contains NaN"),
        ({"exploration_fraction": 1.1}, "exploration_fraction is 1.1"),
        ({"value_delta_max": 0.0}, "value_delta_max is 0.0, expected a number above 0"),
        ({"pb_c_base": 0.0}, "pb_c_base is 0.0"),
    ],
)
def test_puct_search_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        puct_search(**arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gumbel": torch.zeros(2, 2)}, r"gumbel has shape \[2, 2\], expected \[2, 3\]"),
        ({"gumbel": torch.full((2, 3), NAN)}, "gumbel contains NaN"),
        ({"max_num_considered_actions": 0}, "max_num_considered_actions is 0"),
        ({"rescale_floor": 0.0}, "rescale_floor is 0.0, expected a number above 0"),
    ],
)
def test_gumbel_search_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        gumbel_search(**arguments(**changes))


def test_a_good_call_is_not_refused():
    assert puct_search(**arguments()).visit_counts.sum().item() == 6
    assert gumbel_search(**arguments()).visit_counts.sum().item() == 6
