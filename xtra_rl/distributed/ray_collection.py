"""Acting by workers of a Ray cluster, each with its games in a TorchRL collector."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase

from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.distributed.ray_cluster import Arrays, Published, require_connection, to_tensordict
from xtra_rl.distributed.ray_collector import CollectionWorker
from xtra_rl.training.actor import SEARCH_METRICS, Decision, Planner, Recording, StepWriter
from xtra_rl.training.progress import progress
from xtra_rl.training.seeding import derive_seed

_logger = logging.getLogger(__name__)

#: Workers in a row that may die before they deliver anything.
_ATTEMPTS = 4
_REPLAY_BLOCK = 128


class TrainStep:
    """Stands for the workers' planners: keeps the training step that their schedules and weights follow."""

    def __init__(self) -> None:
        self.value = 0

    def set_train_step(self, train_step: int) -> None:
        """Note where training is; workers hear of it with their next request."""
        self.value = train_step


class RayActor:
    """An :class:`~xtra_rl.training.actor.Actor` whose games are split among workers of a Ray cluster.

    Each worker runs a TorchRL ``Collector`` over its games with a copy of the planner and the model, on one thread. All
    games take a step before one is written, so counts, the ratio of updates to steps, and what replay holds of lost
    lives and ends of games are as with one process. Actions are not: each worker has random numbers of its own for
    games and search, so runs with other numbers of workers play other games of the same distribution.

    With ``ahead=0`` each step is taken with the weights of its time. With ``ahead=k`` workers take k steps with the
    same weights, and the next k while training goes on, so that weights are up to ``2 k`` steps of each game old;
    ``replay/collection_staleness`` among the search metrics says how many training steps.

    A worker that dies is replaced: its games begin anew, and what it has delivered of the current trajectories stays in
    replay, cut there as a truncation. The other workers lose nothing.

    TorchRL's own ``Collector(backend="ray")`` (0.14.1) is not used: its iterator ends with the first worker that dies,
    without what the others had collected and without a way to replace one; several of them with a worker each wait for
    each other; and the weights that it sends are written past PyTorch's counters, which an
    :class:`~xtra_rl.models.InferenceModel` follows.

    A checkpoint holds the decisions and when workers were lost, not the frames; workers take the same steps again. With
    ``ahead=0`` the run then goes on as it would have.

    Args:
        make_env: ``make_env(num_envs, seed)`` returns a batched environment as :func:`~xtra_rl.envs.make_env` does.
        planner: reads ``observation`` and ``action_mask``, writes ``action`` and, if it searches, ``("search", ...)``.
        model: what the planner searches with; its weights follow the training.
        buffer: replay with N columns, one for each game.
        workers: how many; each gets N / workers games.
        seed: of games and searches.
        ahead: see above.
        options: further ones of Ray for each worker, e.g. ``{"num_gpus": 0.25}``.

    Attributes:
        env_steps: agent steps taken in all games together.
        planner: takes the training step (:class:`TrainStep`).

    Raises:
        ValueError: if there are more workers than games or a number is out of range.
        RuntimeError: if this process has joined no Ray cluster (:func:`~xtra_rl.distributed.ray_cluster.connect`).
    """

    def __init__(
        self,
        make_env: Callable[[int, int], EnvBase],
        planner: Planner,
        model: nn.Module,
        buffer: TrajectoryReplayBuffer,
        *,
        workers: int,
        seed: int = 0,
        ahead: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_envs = buffer.num_envs
        if not 1 <= workers <= self.num_envs or ahead < 0:
            raise ValueError(
                f"workers={workers}, ahead={ahead}: expected 1 to {self.num_envs} workers, one game each at least, and"
                " 0 or more steps ahead"
            )
        self.model = model
        self.seed = seed
        self.ahead = ahead
        self.planner = TrainStep()
        self.env_steps = 0
        self.search_metrics: dict[str, Tensor | float] = {}
        self._writer = StepWriter(buffer)
        self._decisions = Recording()
        self._games = torch.arange(self.num_envs).tensor_split(workers)
        self._ready: deque[tuple[int, TensorDictBase]] = deque()
        self._pending: tuple[int, list[tuple[Any, ...]], list[Any]] | None = None
        self._lost: list[tuple[int, int]] = []
        self._random_states: list[Tensor] = []
        self._ray = require_connection()
        self._published = Published()
        # One pickle, so that the copy of the planner searches with the copy of the model.
        self._parts = self._ray.put((make_env, planner, model))
        self._remote = self._ray.remote(num_cpus=1, **(options or {}))(CollectionWorker)
        self.workers = [self._start(number) for number in range(workers)]

    def _start(self, number: int) -> Any:
        life = sum(worker == number for _, worker in self._lost)
        seed = derive_seed(self.seed, "worker", number, life)
        return self._remote.remote(self._parts, len(self._games[number]), seed)

    def step(self) -> list[float]:
        """Take one agent step in every game.

        Returns:
            raw scores of the games that ended with it.
        """
        if not self._ready:
            begun, *asked = self._pending or self._ask()
            self._pending = None
            steps = self._receive(*asked)
            self._pending = self._ask() if self.ahead else None
            self._ready.extend((begun, step) for step in steps.unbind(0))
        begun, step = self._ready.popleft()
        found = step.get("search", None)
        if found is None:
            return self._take(Decision(step["action"]), step)
        self.search_metrics = {
            name: found[key].mean() for name, key in SEARCH_METRICS.items() if key in found.keys()
        }
        if self.ahead:
            self.search_metrics["replay/collection_staleness"] = float(self.planner.value - begun)
        return self._take(Decision(step["action"], found["policy"].float(), found["value"].float()), step)

    def _take(self, decision: Decision, step: TensorDictBase) -> list[float]:
        """Write what was decided and what came of it."""
        self._decisions.append(decision)
        self.env_steps += self.num_envs
        return self._writer.write(step["pixels"], decision, step["next"])

    def _ask(self) -> tuple[int, list[tuple[Any, ...]], list[Any]]:
        """Request steps of all workers with the weights of now."""
        now = self.planner.value
        self._published.update(now, self.model.state_dict())
        request = (max(1, self.ahead), self._published.ticket(), now)
        return now, *self._send([request] * len(self.workers))

    def _send(self, requests: list[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], list[Any]]:
        asked = zip(self.workers, requests, strict=True)
        return requests, [worker.collect.remote(*request) for worker, request in asked]

    def _receive(self, requests: list[tuple[Any, ...]], references: list[Any]) -> TensorDict:
        """Steps of all games ``[T, N]``; workers that died are replaced and asked again."""
        parts, states = [], []
        for number, (request, reference) in enumerate(zip(requests, references, strict=True)):
            arrays, state = self._of_worker(number, request, reference)
            parts.append(to_tensordict(arrays, dims=2))
            states.append(torch.tensor(state))
        self._random_states = states
        return torch.cat(parts, 1)  # type: ignore[return-value]

    def _of_worker(self, number: int, request: tuple[Any, ...], reference: Any) -> tuple[Arrays, Any]:
        for _ in range(_ATTEMPTS):
            try:
                return self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                last = error
                _logger.warning("worker %d died; its games begin anew", number)
                self._replace(number)
                reference = self.workers[number].collect.remote(*request)
        raise RuntimeError(f"worker {number} died {_ATTEMPTS} times in a row without a step: {last}")

    def _replace(self, number: int) -> None:
        """Begin the games of a worker anew, with a seed that depends on how often that was so."""
        self._lost.append((len(self._decisions), number))
        self._writer.cut(self._games[number])
        self._ray.kill(self.workers[number])
        self.workers[number] = self._start(number)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            self._ray.kill(worker)

    def state_dict(self) -> dict[str, Any]:
        """All decisions so far, the frames that they led to, which workers were lost when, random states."""
        return {
            "decisions": self._decisions.state_dict(),
            "pixels": self._writer.pixels.clone(),
            "workers": len(self.workers),
            "lost": list(self._lost),
            "planners": list(self._random_states),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` by taking all its steps again, workers that were lost being lost again.

        Raises:
            ValueError: if this actor has acted already, the games were split among another number of workers, or they
                do not come to the same frames.
        """
        if len(self._decisions) or state.get("workers") != len(self.workers):
            raise ValueError(
                f"this actor has {len(self.workers)} workers and took {self.env_steps} env steps, the state is of"
                f" {state.get('workers', 0)} workers; restore into a new actor with as many (workers.collection)"
            )
        decisions = [Decision(*step) for step in zip(*state["decisions"], strict=True)]
        with progress(
            len(decisions) * self.num_envs, description="play the recorded actions again", unit="env step"
        ) as bar:
            self._replay(decisions, [tuple(each) for each in state["lost"]], bar)
        if not torch.equal(self._writer.pixels, state["pixels"]):
            raise ValueError(
                "the recorded actions do not lead to the recorded frames: the environment is not deterministic, this is"
                " another version of it, or a worker died meanwhile; go on with the version that made the run, or start"
                " again with resume=restart"
            )
        states = zip(self.workers, state["planners"], strict=False)
        self._ray.get([worker.set_rng_state.remote(each.numpy()) for worker, each in states])
        self._random_states = list(state["planners"])

    def _replay(self, decisions: list[Decision], lost: list[tuple[int, int]], bar: Any) -> None:
        done = 0
        while True:
            for at, number in lost:
                if at == done:
                    self._replace(number)
            if done == len(decisions):
                return
            stop = min([done + _REPLAY_BLOCK, len(decisions), *(at for at, _ in lost if at > done)])
            block = decisions[done:stop]
            actions = torch.stack([decision.action for decision in block])
            requests = [(len(block), None, 0, actions[:, games].numpy()) for games in self._games]
            steps = self._receive(*self._send(requests))
            for decision, step in zip(block, steps.unbind(0), strict=True):
                self._take(decision, step)
            bar.update(len(block) * self.num_envs)
            done = stop
