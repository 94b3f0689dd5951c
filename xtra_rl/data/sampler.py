"""Prioritised sampling in pure torch, a drop-in for TorchRL's ``PrioritizedSampler``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchrl.data.replay_buffers.samplers import PrioritizedSampler
from torchrl.data.replay_buffers.storages import Storage

from xtra_rl.data.masses import MassTable

# A draw that meets mostly rows it already has is finished by one exact pass over all rows instead.
_MAX_ROUNDS = 4
_TINY_MASS = 1e-300
_HUGE_MASS = 1e290  # sums of millions of them are finite


class TorchPrioritizedSampler(PrioritizedSampler):
    r"""Draw row ``i`` with probability :math:`p_i^\alpha / \sum_j p_j^\alpha`, without replacement.

    Prioritized experience replay (arXiv 1511.05952) as EfficientZero uses it: distinct rows in a batch,
    weights :math:`(N P_i)^{-\beta}` over the largest of the batch, the largest priority seen so far (1 at the
    start) for new rows. When fewer than ``batch_size`` rows are active the draw is with replacement.

    TorchRL's own sampler needs a compiled extension that fits one release of torch only. This one draws from a table
    of sums in two levels. It subclasses ``PrioritizedSampler`` because
    ``TensorDictReplayBuffer.update_tensordict_priority`` silently does nothing for any other class.

    Args:
        max_capacity: number of rows; of a storage of several dimensions all places count.
        alpha: exponent of the priorities, at least 0; 0 is uniform sampling.
        beta: exponent of the weights, at least 0; see :meth:`set_beta`.
        eps: smallest priority, so that no active row is out of reach.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> sampler = TorchPrioritizedSampler(4, alpha=1.0)
        >>> sampler.activate(torch.tensor([0, 1]))
        >>> sampler.update_priority(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        >>> sampler.probabilities()
        tensor([0.2500, 0.7500, 0.0000, 0.0000], dtype=torch.float64)
    """

    def __init__(
        self, max_capacity: int, *, alpha: float = 0.6, beta: float = 0.4, eps: float = 1e-6
    ) -> None:
        # The parent's constructor builds the segment trees of the extension, hence no call of it here.
        if max_capacity < 1:
            raise ValueError(f"max_capacity={max_capacity} must be at least 1; pass the number of rows")
        if not eps > 0:
            raise ValueError(f"eps={eps} must be positive; a row of priority 0 would never be drawn")
        _check_exponent("alpha", alpha)
        _check_exponent("beta", beta)
        self._max_capacity = max_capacity
        self._alpha = float(alpha)
        self._beta = float(beta)
        self._eps = float(eps)
        self.reduction = "max"
        self.dtype = torch.float64
        self._init()

    def _init(self) -> None:
        self._priority = torch.zeros(self._max_capacity, dtype=torch.float64)
        # priority ** alpha of the active rows and 0 of all others; the only place that says which rows are
        # active.
        self._masses = MassTable(self._max_capacity)
        self._largest = 1.0

    def _maybe_init_from_storage(self, storage: Storage | None) -> None:
        """Priorities stay on the CPU whatever the storage is."""

    @property
    def _mass(self) -> Tensor:
        """Mass of every row ``[max_capacity]``, a view: written through the table alone."""
        return torch.from_numpy(self._masses.mass)

    @property
    def device(self) -> torch.device:
        """Device of the priorities: always the CPU."""
        return torch.device("cpu")

    @property
    def alpha(self) -> float:
        """Exponent of the priorities; setting it re-weights all rows."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        _check_exponent("alpha", value)
        self._alpha = float(value)
        self._put_all(np.where(self._masses.mass > 0, self._to_mass(self._priority.numpy()), 0.0))

    @property
    def beta(self) -> float:
        """Exponent of the importance weights."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        _check_exponent("beta", value)
        self._beta = float(value)

    def set_beta(self, beta: float) -> None:
        """Set the exponent of the importance weights; EfficientZero goes linearly from 0.4 to 1."""
        self.beta = beta

    @property
    def default_priority(self) -> float:
        """Priority that new rows get: the largest so far."""
        return self._largest

    @property
    def num_active(self) -> int:
        """Number of rows that can be drawn."""
        return self._masses.num_positive

    def is_active(self, index: Tensor) -> Tensor:
        """Return which of the rows ``index [n]`` can be drawn, ``[n]`` bool."""
        return self._mass[index] > 0

    def probabilities(self) -> Tensor:
        """Return the probability of each row in a single draw, ``[max_capacity]``."""
        return self._mass / self._mass.sum()

    def activate(self, index: Tensor) -> None:
        """Make rows ``index [n]`` drawable, with the largest priority so far."""
        self._priority[index] = self._largest
        self._masses.put(index.numpy(), self._to_mass(np.array(self._largest)))

    def deactivate(self, index: Tensor) -> None:
        """Make rows ``index [n]`` impossible to draw until they are activated again."""
        self._priority[index] = 0.0
        self._masses.put(index.numpy(), 0.0)

    def add(self, index: int | Tensor) -> None:
        """Activate a row that a plain TorchRL buffer has written."""
        self.extend(index)

    def extend(self, index: int | Tensor) -> None:
        """Activate rows ``index [n]`` that a plain TorchRL buffer has written, or ``[n, D]`` of D dimensions."""
        index = torch.as_tensor(index, device="cpu")
        if index.ndim > 1:
            # The storage is not at hand. A buffer writes all places under one of the first dimension, so the largest
            # give the shape of the others; the first has no part in the number of a row.
            index = _flat(index, (index.amax(0) + 1).tolist())
        self.activate(index.reshape(-1))

    def mark_update(self, index: int | Tensor, *, storage: Storage | None = None) -> None:
        """Give rows the largest priority again."""
        self.activate(_rows(index, storage))

    @torch.no_grad()
    def update_priority(
        self, index: int | Tensor, priority: float | Tensor, *, storage: Storage | None = None
    ) -> None:
        """Set raw priorities ``[n]`` (before alpha) of rows ``index [n]``; rows that are not active stay so.

        Args:
            index: rows, or their places ``[n, D]`` in a storage of D dimensions.
            priority: at least 0.
            storage: says the shape that places need.

        Raises:
            ValueError: if a priority is negative or not finite, or the shapes differ.
        """
        rows = _rows(index, storage).numpy()
        values = torch.as_tensor(priority).detach().to("cpu", torch.float64).reshape(-1).numpy()
        if values.size not in (1, rows.size):
            raise ValueError(f"priority has {values.size} values for {rows.size} rows; pass one for each row")
        fine = np.isfinite(values) & (values >= 0)
        if not fine.all():
            raise ValueError(
                f"priority={values[~fine][0]} must be finite and at least 0; check the loss it comes from"
            )
        values = np.broadcast_to(np.maximum(values, self._eps), rows.shape)
        active = self._masses.mass[rows] > 0
        rows, values = rows[active], values[active]
        if rows.size:
            self._priority.numpy()[rows] = values
            self._masses.put(rows, self._to_mass(values))
            self._largest = max(self._largest, float(values.max()))

    def _put_all(self, mass: np.ndarray) -> None:
        self._masses.put(np.arange(self._max_capacity), mass)

    def _to_mass(self, priority: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.clip(priority**self._alpha, _TINY_MASS, _HUGE_MASS)

    def _sampleable_count(self, storage: Storage, batch_size: int) -> int:
        return self.num_active

    def sample(
        self, storage: Storage | None, batch_size: int
    ) -> tuple[Tensor | tuple[Tensor, ...], dict[str, Tensor]]:
        """Draw rows.

        Returns:
            index ``[batch_size]`` and ``{"priority_weight": [batch_size] float32 in (0, 1]}``; of a storage of D
            dimensions, D such indices in a tuple.

        Raises:
            ValueError: if no row can be drawn.
        """
        active = self.num_active
        if active == 0:
            raise ValueError(
                f"batch_size={batch_size} rows were asked of an empty buffer; add transitions first"
            )
        index = self._draw(batch_size) if batch_size > active else self._draw_distinct(batch_size)
        weight = (self._masses.mass[index] * (active / self._masses.total)) ** -self._beta
        weight = (weight / weight.max()).astype(np.float32)
        rows, info = torch.from_numpy(index), {"priority_weight": torch.from_numpy(weight)}
        if storage is None or storage.ndim == 1:
            return rows, info
        return torch.unravel_index(rows, storage.shape), info

    def _draw(self, count: int) -> np.ndarray:
        points = torch.rand(count, dtype=torch.float64, generator=self._rng)
        return self._masses.find(points.numpy() * self._masses.total)

    def _draw_distinct(self, count: int) -> np.ndarray:
        # Drawing again on a repeat is the same as drawing from what is left.
        found = np.empty(0, np.int64)
        for _ in range(_MAX_ROUNDS):
            drawn = np.concatenate([found, self._draw(count)])
            _, first = np.unique(drawn, return_index=True)
            found = drawn[np.sort(first)[:count]]
            if len(found) == count:
                return found
        # A few rows hold nearly all of the mass: finish by an exponential race, where the smallest
        # E_i / mass_i come in the order of draws without replacement.
        left = self._mass.clone()
        left[found] = 0.0
        time = torch.empty_like(left).exponential_(generator=self._rng) / left
        time.masked_fill_(left == 0, torch.inf)
        rest = time.topk(count - len(found), largest=False, sorted=True).indices
        return np.concatenate([found, rest.numpy()])

    def _empty(self) -> None:
        self._init()

    def state_dict(self) -> dict[str, Any]:
        """Return priorities, exponents and the state of the generator."""
        state = {
            "priority": self._priority.clone(),
            "mass": self._mass.clone(),
            "scalars": torch.tensor([self._largest, self._alpha, self._beta, self._eps], dtype=torch.float64),
        }
        if self._rng is not None:
            state["rng"] = self._rng.get_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; a generator that is set keeps its identity and gets the saved state.

        Raises:
            ValueError: if the state is of another capacity.
        """
        size = state_dict["priority"].numel()
        if size != self._max_capacity:
            raise ValueError(
                f"state of max_capacity={size} does not fit a sampler of {self._max_capacity} rows"
            )
        self._priority = state_dict["priority"].clone()
        self._put_all(state_dict["mass"].numpy())
        self._largest, self._alpha, self._beta, self._eps = state_dict["scalars"].tolist()
        if "rng" in state_dict and self._rng is not None:
            self._rng.set_state(state_dict["rng"])

    def dumps(self, path: str | Path) -> None:
        """Write :meth:`state_dict` to ``path/sampler.safetensors``."""
        Path(path).mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), Path(path) / "sampler.safetensors")

    def loads(self, path: str | Path) -> None:
        """Read what :meth:`dumps` wrote."""
        self.load_state_dict(load_file(Path(path) / "sampler.safetensors"))


def _rows(index: int | Tensor, storage: Storage | None) -> Tensor:
    """Rows ``[n]`` of an index as TorchRL's buffers hand it over: numbers, or places ``[n, D]`` in the storage."""
    index = torch.as_tensor(index, dtype=torch.long, device="cpu")
    if storage is None or storage.ndim == 1 or index.ndim < 2:
        return index.reshape(-1)
    return _flat(index, storage.shape)


def _flat(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows ``[n]`` of the places ``index [n, D]`` in a storage of that shape."""
    return torch.from_numpy(np.ravel_multi_index(index.numpy().T, shape))


def _check_exponent(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value} must be a finite number of at least 0")
