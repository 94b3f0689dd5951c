"""What the planners share: inference, noise, chunks and TensorDict keys around a search."""

from __future__ import annotations

import itertools
import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn

from xtra_rl.modules import OwnGenerator, evaluating
from xtra_rl.search import checks
from xtra_rl.search.backends import BackendName, check_backend_name
from xtra_rl.search.cuda_graph import SearchGraphs
from xtra_rl.search.embeddings import PoolMemory
from xtra_rl.search.memory import search_bytes
from xtra_rl.search.noise import RootNoise
from xtra_rl.search.ties import draw_tie_seeds
from xtra_rl.search.types import InitialOutput, SearchModel, SearchResult


class SearchPlanner(OwnGenerator, TensorDictModuleBase):
    """Base of the planners: a subclass says how to search, which noise to draw, and how to explore.

    As a policy it reads ``observation [*, F*C, H, W]`` and ``action_mask [*, A]`` (True = legal) and writes
    ``action [*]`` int64, ``("search", "policy") [*, A]`` (policy target), ``("search", "value") [*]`` (root
    value), ``("search", "visit_counts") [*, A]`` int64, ``("search", "raw_value") [*]`` (network value),
    ``("search", "depth") [*]`` (mean depth of the nodes) and ``("search", "entropy") [*]`` (of the policy, nats).
    Under ``set_exploration_type(ExplorationType.DETERMINISTIC)`` it neither adds noise nor samples.

    The world model runs in eval mode without gradients; its modes are restored afterwards. All randomness
    comes from one generator: save :meth:`rng_state` in checkpoints.

    Args:
        world_model: anything that has the methods of :class:`~xtra_rl.search.SearchModel`; a
            :class:`~xtra_rl.models.InferenceModel` searches fastest.
        num_simulations: simulations of each search, at least 1; each one calls the model once for all roots.
        discount: of one env_step, in [0, 1].
        temperature: how much sampled actions stray; 0 = not at all; see the subclasses. A function of the training
            step makes a schedule, which :meth:`set_train_step` moves.
        max_roots: most roots to infer and search at once; None = all. Noise does not depend on it.
        max_bytes: bound on the memory of trees and latents (:func:`~xtra_rl.search.search_bytes`), kept by searching
            fewer roots at once, but at least one; None = no bound.
        backend: of the tree operations: "reference", "numba", "triton", or "auto", the fastest of the device; see
            :func:`~xtra_rl.search.puct_search`.
        mask_below_root: an illegal action is illegal in the whole tree, as one is that the game lacks and the policy
            head has; False for games whose legal actions change from state to state.
        cuda_graph: capture whole searches in CUDA graphs, for the backend "triton": see
            :class:`~xtra_rl.search.SearchGraphs` for what that asks of the model. Roots are added up to
            a power of two or a multiple of 256, so that few graphs serve all batches.
        seed: of the planner's own generator.
        generator: used instead of an own generator, for example to share one.

    Raises:
        ValueError: if a number is out of range or the backend is unknown.
    """

    def __init__(
        self,
        world_model: SearchModel,
        *,
        num_simulations: int,
        discount: float,
        temperature: float | Callable[[int], float],
        max_roots: int | None,
        max_bytes: int | None,
        backend: BackendName,
        mask_below_root: bool,
        cuda_graph: bool,
        seed: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        checks.check_at_least("num_simulations", num_simulations, 1)
        if max_roots is not None:
            checks.check_at_least("max_roots", max_roots, 1)
        if max_bytes is not None:
            checks.check_at_least("max_bytes", max_bytes, 1)
        check_backend_name(backend)
        self.in_keys = ["observation", "action_mask"]
        self.out_keys = [
            "action",
            ("search", "policy"),
            ("search", "value"),
            ("search", "visit_counts"),
            ("search", "raw_value"),
            ("search", "depth"),
            ("search", "entropy"),
        ]
        self.world_model = world_model
        self.num_simulations = num_simulations
        self.discount = discount
        self._schedule = temperature if callable(temperature) else None
        self.temperature = temperature(0) if callable(temperature) else temperature
        self.max_roots = max_roots
        self.max_bytes = max_bytes
        self.backend = backend
        self.mask_below_root = mask_below_root
        self._graphs = SearchGraphs() if cuda_graph else None
        self._memory = PoolMemory()
        self.generator = torch.Generator().manual_seed(seed) if generator is None else generator

    @property
    def temperature(self) -> float:
        """Strength of exploration in the choice of the action; settable at any time, at least 0."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        checks.check_range("temperature", value, 0)
        self._temperature = float(value)

    def set_train_step(self, train_step: int) -> None:
        """Take the temperature that the schedule has for a training step; without a schedule, leave it."""
        if self._schedule is not None:
            self.temperature = self._schedule(train_step)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Search from the observations, on the model's device, and write the keys of the class docstring.

        Raises:
            KeyError: if the environment says nothing about legal actions.
        """
        observation, action_mask = (tensordict.get(key, None) for key in self.in_keys)
        if observation is None or action_mask is None:
            raise KeyError(
                f"a planner reads {self.in_keys}, of {list(tensordict.keys())}; for the mask append"
                " xtra_rl.envs.LegalActions(mask) to the environment, or rename planner.in_keys"
            )
        batch, home = action_mask.shape[:-1], observation.device
        device = _device_of(self.world_model, home)
        observation = observation.reshape(-1, *observation.shape[len(batch) :]).to(device)
        action_mask = action_mask.reshape(-1, action_mask.shape[-1]).to(device)

        explore = interaction_type() is not InteractionType.DETERMINISTIC
        initial = self.initial_inference(observation)
        result = self.search_from(initial, action_mask, noise=explore)
        action = self._explore(result) if explore else result.action
        outputs = (
            action,
            result.action_weights,
            result.root_value,
            result.visit_counts,
            initial.value,
            result.depth,
            result.entropy,
        )
        for key, output in zip(self.out_keys_source, outputs, strict=True):
            tensordict.set(key, output.reshape((*batch, *output.shape[1:])).to(home))
        return tensordict

    def draw_noise(self, action_mask: Tensor) -> RootNoise:
        """Fresh random numbers for roots with legal actions ``action_mask [B, A]`` (True = legal)."""
        draws = self._draw_noise(action_mask)
        return RootNoise(draws, draw_tie_seeds(len(action_mask), self.generator, action_mask.device))

    @torch.no_grad()
    def search(
        self, observation: Tensor, action_mask: Tensor | None = None, *, noise: bool | RootNoise
    ) -> SearchResult:
        """Search from observations ``[B, F*C, H, W]`` with legal actions ``action_mask [B, A]`` (None = all).

        Args:
            observation: stacked frames as the world model takes them.
            action_mask: True = legal.
            noise: explore: noise at the root, and ties broken at random; or the numbers to do so, from
                :meth:`draw_noise`.
        """
        return self.search_from(self.initial_inference(observation), action_mask, noise=noise)

    @torch.no_grad()
    def search_from(
        self, initial: InitialOutput, action_mask: Tensor | None = None, *, noise: bool | RootNoise
    ) -> SearchResult:
        """Search from a ready initial inference of ``B`` roots; see :meth:`search`.

        Raises:
            ValueError: if shapes do not match or a row of ``action_mask`` has no legal action.
        """
        size = [initial.prior_logits.shape[0], self.world_model.num_actions]
        if action_mask is None:
            action_mask = torch.ones(size, dtype=torch.bool, device=initial.prior_logits.device)
        checks.check_shape("action_mask", action_mask, size)
        if action_mask.dtype != torch.bool:
            raise ValueError(
                f"action_mask has dtype {action_mask.dtype}, expected torch.bool with True = legal."
            )
        draws: RootNoise | None = None
        if noise is not False:
            draws = self.draw_noise(action_mask) if noise is True else noise
            checks.check_shape("noise.root", draws.root, size)
        bound = self._roots_at_once(initial)
        limit = min(bound, size[0])
        results = []
        with evaluating(self.world_model):
            for start in range(0, size[0], limit):
                count = min(limit, size[0] - start)
                rows = self._rows(start, count, bound, action_mask.device)
                chunk = InitialOutput(*(part[rows] for part in initial))
                drawn = None if draws is None else draws.take(rows)
                result = self._search(
                    chunk,
                    None if drawn is None else drawn.root,
                    num_simulations=self.num_simulations,
                    discount=self.discount,
                    invalid_actions=~action_mask[rows],
                    mask_below_root=self.mask_below_root,
                    value_prefix_horizon=self.world_model.value_prefix_horizon,
                    reset_entries=getattr(self.world_model, "reset_entries", ()),
                    backend=self.backend,
                    graphs=self._graphs,
                    memory=self._memory,
                    tie_seeds=None if drawn is None else drawn.tie_seeds,
                )
                results.append(_first(result, count))
        if len(results) == 1:
            return results[0]
        columns = zip(*(part[:-1] for part in results), strict=True)  # all but the trees
        return SearchResult._make([*(torch.cat(column) for column in columns), None])

    def _rows(self, start: int, count: int, bound: int, device: torch.device) -> slice | Tensor:
        """Which roots a search takes; for CUDA graphs, which are of one size each, the last one is repeated."""
        padded = count if self._graphs is None else min(padded_size(count), bound)
        if padded == count:
            return slice(start, start + count)
        return start + torch.arange(padded, device=device).clamp(max=count - 1)

    def _roots_at_once(self, initial: InitialOutput) -> int:
        """How many roots the bounds allow."""
        bound = self.max_roots or sys.maxsize
        if self.max_bytes is not None:
            one = search_bytes(1, initial.prior_logits.shape[1], self.num_simulations, initial.embedding)
            bound = min(bound, max(1, self.max_bytes // one))
        return bound

    @torch.no_grad()
    def initial_inference(self, observation: Tensor) -> InitialOutput:
        """The model's initial inference of ``observation [B, F*C, H, W]``, in eval mode and in chunks.

        Raises:
            ValueError: if there is no row.
        """
        if len(observation) == 0:
            raise ValueError(
                "observation has no rows, expected at least one root: skip the search of an empty batch."
            )
        limit = self.max_roots or len(observation)
        with evaluating(self.world_model):
            outputs = [self.world_model.initial_inference(chunk) for chunk in observation.split(limit)]
        if len(outputs) == 1:
            return outputs[0]
        return InitialOutput(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))

    @abstractmethod
    def _draw_noise(self, action_mask: Tensor) -> Tensor:
        """Root noise ``[B, A]``."""

    @abstractmethod
    def _search(self, initial: InitialOutput, noise: Tensor | None, **options: Any) -> SearchResult:
        """Search of one chunk."""

    @abstractmethod
    def _explore(self, result: SearchResult) -> Tensor:
        """Actions ``[B]`` to collect data with."""


def padded_size(count: int) -> int:
    """Roots of the CUDA graph that searches ``count`` roots: a power of two, or from 256 on a multiple of 256.

    How many roots a batch has differs from call to call (windows end with their games, games end while others go on),
    and a graph takes as long to capture as several searches.

    Example:
        >>> [padded_size(count) for count in (1, 3, 8, 200, 257, 1500)]
        [1, 4, 8, 256, 512, 1536]
    """
    return 1 << (count - 1).bit_length() if count <= 256 else -(-count // 256) * 256


def _first(result: SearchResult, count: int) -> SearchResult:
    """Without the roots that were added to fill a graph; their tree goes with them."""
    if len(result.action) == count:
        return result
    return SearchResult._make([*(part[:count] for part in result[:-1]), None])


def _device_of(model: Any, default: torch.device) -> torch.device:
    """Where a module's tensors are; ``default`` for a model without any."""
    if not isinstance(model, nn.Module):
        return default
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), default)
