"""The search as a TorchRL policy over a world model, and as the engine of reanalysis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xtra_rl.search import checks
from xtra_rl.search.backends import BackendName
from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.search.noise import dirichlet_noise, gumbel_noise
from xtra_rl.search.puct import QNormalization
from xtra_rl.search.search import gumbel_search, puct_search
from xtra_rl.search.types import InitialOutput, SearchModel, SearchResult


class MCTSPlanner(SearchPlanner):
    """MuZero's planner: pUCT search, Dirichlet noise at the root, actions drawn from ``visit_counts^(1 /
    T)``.

    MuZero (arXiv:1911.08265), appendices B and D, with EfficientZero's Atari settings.

    Args:
        world_model: see :class:`~xtra_rl.search.SearchPlanner`, also for the options not listed here and for the keys.
        temperature: T, at least 0; with 0 the most visited action is taken.
        dirichlet_alpha: concentration of the noise over the legal actions, above 0.
        exploration_fraction: its weight in the root prior, in [0, 1].
        pb_c_init: c_1 of :class:`~xtra_rl.search.PuctRule`, the weight of the prior.
        pb_c_base: c_2 there: visits from which on the prior weighs more.
        q_normalization: which values bring Q to [0, 1]: "tree", those of the whole tree, or "siblings".
        value_delta_max: smallest range of Q that "tree" stretches to [0, 1].

    Raises:
        ValueError: if a number is out of range or the backend is unknown.

    Example:
        >>> from xtra_rl.models import make_world_model
        >>> model = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> planner = MCTSPlanner(model, num_simulations=4, seed=1)
        >>> result = planner.search(torch.zeros(2, 4, 36, 36), noise=True)
        >>> result.visit_counts.sum(-1), result.root_value.shape
        (tensor([4, 4]), torch.Size([2]))
    """

    def __init__(
        self,
        world_model: SearchModel,
        *,
        num_simulations: int = 50,
        discount: float = 0.988054,
        temperature: float | Callable[[int], float] = 1.0,
        dirichlet_alpha: float = 0.3,
        exploration_fraction: float = 0.25,
        pb_c_init: float = 1.25,
        pb_c_base: float = 19652.0,
        q_normalization: QNormalization = "tree",
        value_delta_max: float = 0.01,
        max_roots: int | None = None,
        max_bytes: int | None = None,
        backend: BackendName = "auto",
        mask_below_root: bool = True,
        cuda_graph: bool = False,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            world_model,
            num_simulations=num_simulations,
            discount=discount,
            temperature=temperature,
            max_roots=max_roots,
            max_bytes=max_bytes,
            backend=backend,
            mask_below_root=mask_below_root,
            cuda_graph=cuda_graph,
            seed=seed,
            generator=generator,
        )
        checks.check_range("dirichlet_alpha", dirichlet_alpha, 0, open_low=True)
        self.dirichlet_alpha = dirichlet_alpha
        self.rule_options: dict[str, Any] = {
            "exploration_fraction": exploration_fraction,
            "pb_c_init": pb_c_init,
            "pb_c_base": pb_c_base,
            "q_normalization": q_normalization,
            "value_delta_max": value_delta_max,
        }

    def _draw_noise(self, action_mask: Tensor) -> Tensor:
        return dirichlet_noise(action_mask, self.dirichlet_alpha, self.generator)

    def _search(self, initial: InitialOutput, noise: Tensor | None, **options: Any) -> SearchResult:
        model = self.world_model.recurrent_inference
        prior_logits, value, embedding = initial
        options |= self.rule_options
        return puct_search(prior_logits, value, embedding, model, root_noise=noise, **options)

    def _explore(self, result: SearchResult) -> Tensor:
        if self.temperature == 0:
            return result.action
        logits = result.visit_counts.to(torch.float64).log() / self.temperature
        probabilities = logits.softmax(dim=-1).to(self.generator.device)
        drawn = torch.multinomial(probabilities, 1, generator=self.generator)
        return drawn.squeeze(1).to(result.action.device)


class GumbelMCTSPlanner(SearchPlanner):
    """Gumbel MuZero's planner: the action comes from sequential halving with Gumbel noise.

    Danihelka et al., "Policy improvement by planning with Gumbel", ICLR 2022.

    Args:
        world_model: see :class:`~xtra_rl.search.SearchPlanner`, also for the options not listed here and for the keys.
        temperature: factor of the Gumbel noise in collection and reanalysis; 1 in the paper, 0 = no noise.
        max_num_considered_actions: root actions that sequential halving starts with, m, at least 1.
        value_scale: c_scale of the transform of Q values.
        maxvisit_init: c_visit of that transform.
        rescale_floor: smallest range of a node's Q values that is stretched to [0, 1]; see
            :func:`~xtra_rl.search.gumbel_search`.
        root_logit_scale: factor of the root's logits. Below 1 it keeps a policy that is trained on its own
            search results again and again from collapsing.

    Raises:
        ValueError: if a number is out of range or the backend is unknown.
    """

    def __init__(
        self,
        world_model: SearchModel,
        *,
        num_simulations: int = 16,
        max_num_considered_actions: int = 16,
        discount: float = 0.988054,
        temperature: float | Callable[[int], float] = 1.0,
        value_scale: float = 0.1,
        maxvisit_init: float = 50.0,
        rescale_floor: float = 1e-8,
        root_logit_scale: float = 1.0,
        max_roots: int | None = None,
        max_bytes: int | None = None,
        backend: BackendName = "auto",
        mask_below_root: bool = True,
        cuda_graph: bool = False,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            world_model,
            num_simulations=num_simulations,
            discount=discount,
            temperature=temperature,
            max_roots=max_roots,
            max_bytes=max_bytes,
            backend=backend,
            mask_below_root=mask_below_root,
            cuda_graph=cuda_graph,
            seed=seed,
            generator=generator,
        )
        checks.check_range("root_logit_scale", root_logit_scale, 0)
        self.root_logit_scale = root_logit_scale
        self.rule_options: dict[str, Any] = {
            "max_num_considered_actions": max_num_considered_actions,
            "value_scale": value_scale,
            "maxvisit_init": maxvisit_init,
            "rescale_floor": rescale_floor,
        }

    def _draw_noise(self, action_mask: Tensor) -> Tensor:
        return gumbel_noise(action_mask, self.generator) * self.temperature

    def _search(self, initial: InitialOutput, noise: Tensor | None, **options: Any) -> SearchResult:
        model = self.world_model.recurrent_inference
        prior_logits, value, embedding = initial
        options |= self.rule_options
        prior_logits = prior_logits * self.root_logit_scale
        return gumbel_search(prior_logits, value, embedding, model, gumbel=noise, **options)

    def _explore(self, result: SearchResult) -> Tensor:
        return result.action
