"""Search problems for the kernel tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from table_world import TableWorld, random_mask, random_world

from xtra_rl.search import SearchResult, gumbel_search, puct_search

#: Rules with the options that tell them apart.
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "puct_tree": (puct_search, {}),
    "puct_siblings": (puct_search, {"q_normalization": "siblings"}),
    "gumbel": (gumbel_search, {}),
}
#: One more, whose policies stay soft below the root, so that counts matter there.
VARIANTS = RULES | {"gumbel_soft": (gumbel_search, {"value_scale": 0.02, "maxvisit_init": 5.0})}


class Problem(NamedTuple):
    """A search to run on several backends."""

    rule: str
    batch: int
    actions: int
    simulations: int
    horizon: int | None = None
    random_ties: bool = False
    masked: bool = False
    seed: int = 0
    rough: bool = False
    """Values and rewards that are no multiples of 1/8, so that sums are rounded."""
    below: bool = False
    """What is masked at the root is masked below it, too."""

    def world(self, dtype: torch.dtype = torch.float32) -> tuple[TableWorld, torch.Tensor, torch.Tensor]:
        """The world, the states of the roots and their illegal actions."""
        world, generator = random_world(self.seed, num_actions=self.actions, dtype=torch.float32)
        if self.rough:
            world.value.normal_(generator=generator)
            world.reward.normal_(generator=generator)
        if self.random_ties:
            world.prior_logits.zero_()
        world = TableWorld(*(part.to(dtype) for part in list(vars(world).values())[:3]), world.next_state)
        states = torch.randint(len(world.value), (self.batch,), generator=generator)
        invalid = torch.zeros(self.batch, self.actions, dtype=torch.bool)
        return world, states, random_mask(self.batch, self.actions, generator) if self.masked else invalid

    def run(self, backend: str, device: torch.device | str = "cpu", **options: Any) -> SearchResult:
        """Search with a backend; halving discounts keep dyadic sums exact."""
        world, states, invalid = self.world()
        world = TableWorld(*(part.to(device) for part in vars(world).values()))
        states = states.to(device)
        search, rule_options = VARIANTS[self.rule]
        roots = world.roots(states) if self.horizon is None else world.prefix_roots(states, self.horizon)
        generator = torch.Generator().manual_seed(self.seed) if self.random_ties else None
        return search(
            *roots,
            num_simulations=self.simulations,
            discount=0.5,
            invalid_actions=invalid.to(device),
            mask_below_root=self.below,
            value_prefix_horizon=self.horizon,
            generator=generator,
            backend=backend,
            **rule_options,
            **options,
        )


def assert_same_trees(found: SearchResult, expected: SearchResult) -> None:
    """The same nodes, visits and (within rounding) values everywhere in the trees."""
    one, other = found.tree, expected.tree
    assert one is not None
    assert other is not None
    for name in (
        "children_index",
        "children_visits",
        "node_visits",
        "parents",
        "parent_edges",
        "node_depths",
    ):
        torch.testing.assert_close(getattr(one, name).cpu(), getattr(other, name), rtol=0, atol=0, msg=name)
    for name in ("node_values", "node_rewards", "node_qvalues", "children_qvalues", "children_prior"):
        torch.testing.assert_close(
            getattr(one, name).cpu(), getattr(other, name), rtol=1e-5, atol=1e-5, msg=name
        )
    for name in ("visit_counts", "action"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name
