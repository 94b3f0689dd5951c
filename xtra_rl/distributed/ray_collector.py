"""What a worker does that plays for another process: a TorchRL collector that can also take given steps again."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from xtra_rl.distributed.ray_cluster import Arrays, Subscriber, to_arrays
from xtra_rl.training.seeding import derive_seed

_KEPT = ("pixels", "action", "search")
_KEPT_NEXT = ("pixels", "reward", "done", "terminated", "end-of-life")


class _Scripted(TensorDictModuleBase):
    """The planner, unless there are actions to be taken again."""

    def __init__(self, planner: Any) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation", "action_mask"], ["action"]
        self.planner = planner
        self.script: deque[Tensor] = deque()

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the next action."""
        if self.script:
            return tensordict.set("action", self.script.popleft())
        planned = self.planner(tensordict.select("observation", "action_mask"))
        return tensordict.update(planned.select("action", "search", strict=False))


class CollectionWorker:
    """Plays some of the games of a :class:`~xtra_rl.distributed.ray_collection.RayActor`, in a process of its own."""

    def __init__(self, parts: tuple[Any, Any, nn.Module], num_envs: int, seed: int) -> None:
        # Slow to import, and only workers need it.
        from torchrl.collectors import Collector

        torch.set_num_threads(1)
        make_env, planner, self.model = parts
        generator = torch.Generator().manual_seed(derive_seed(seed, "search"))
        planner.set_rng_state(generator.get_state())
        self.policy = _Scripted(planner)
        self.subscriber = Subscriber()
        env = make_env(num_envs, derive_seed(seed, "env"))
        self.collector = Collector(
            env, self.policy, frames_per_batch=num_envs, total_frames=-1, use_buffers=False
        )
        self.batches = iter(self.collector)

    def collect(self, steps: int, ticket: Any, train_step: int, actions: Any = None) -> tuple[Arrays, Any]:
        """So many steps of all games ``[T, n]``, by the weights of the ticket or with given actions ``[T, n]``."""
        weights = None if ticket is None else self.subscriber.fetch(ticket)
        if weights is not None:
            self.model.load_state_dict(weights)
        self.policy.planner.set_train_step(train_step)
        self.policy.script.extend([] if actions is None else torch.tensor(actions))
        found = [self._kept(next(self.batches)[:, 0]) for _ in range(steps)]
        return to_arrays(torch.stack(found)), self.policy.planner.rng_state().numpy()

    def _kept(self, step: TensorDictBase) -> TensorDictBase:
        outcome = step["next"].select(*_KEPT_NEXT)
        return step.select(*_KEPT, strict=False).set("next", outcome)

    def set_rng_state(self, state: Any) -> None:
        """Restore the planner's random numbers."""
        self.policy.planner.set_rng_state(torch.tensor(state))
