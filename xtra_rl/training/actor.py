"""Acting: one step in every environment, written to replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.training.progress import progress

__all__ = ["Actor", "Planner"]

#: Names in the log of what a planner may say about its search.
SEARCH_METRICS = {
    "search/policy_entropy": "entropy",
    "search/depth": "depth",
    "search/root_value": "value",
}


class Planner(Protocol):
    """What acts: a search planner, a :class:`~xtra_rl.models.RainbowPolicy`, your own."""

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase: ...

    def set_train_step(self, train_step: int) -> None:
        """Move schedules of exploration to a training step."""

    def rng_state(self) -> Tensor:
        """State of the random numbers, for a checkpoint."""

    def set_rng_state(self, state: Tensor) -> None:
        """Continue the random numbers where :meth:`rng_state` was taken."""


class Decision(NamedTuple):
    """What a planner said about one step of all environments: with it the step can be taken again."""

    action: Tensor
    """``[N]`` int64."""
    search_policy: Tensor | None = None
    """``[N, A]`` float32, of a planner that searches."""
    search_value: Tensor | None = None
    """``[N]`` float32, of a planner that searches."""

    def known(self) -> dict[str, Tensor]:
        """What was said, by name."""
        return {name: part for name, part in self._asdict().items() if part is not None}


class Recording:
    """Decisions of all steps so far, in tensors that double when they are full: a few bytes a step, for long runs."""

    def __init__(self) -> None:
        self._columns: list[Tensor] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, decision: Decision) -> None:
        """Add a step."""
        if not self._columns:
            self._columns = [part.new_empty(1024, *part.shape) for part in decision.known().values()]
        if self._length == len(self._columns[0]):
            self._columns = [torch.cat([column, torch.empty_like(column)]) for column in self._columns]
        for column, part in zip(self._columns, decision.known().values(), strict=True):
            column[self._length] = part
        self._length += 1

    def state_dict(self) -> list[Tensor]:
        """The columns ``[T, N, ...]``; empty before the first step."""
        return [column[: self._length].clone() for column in self._columns]


class StepWriter:
    """Appends the steps of N games to replay; trajectories end as :class:`Actor` says.

    Args:
        buffer: replay with N columns.

    Attributes:
        pixels: frames after the last step, ``[N, C, H, W]``; empty before the first.
    """

    def __init__(self, buffer: TrajectoryReplayBuffer) -> None:
        self.buffer = buffer
        self.pixels = torch.empty(0, dtype=torch.uint8)
        self._rows = TensorDict()
        self._position = torch.zeros(buffer.num_envs, dtype=torch.int32)
        self._returns = torch.zeros(buffer.num_envs, dtype=torch.float64)

    def write(self, pixels: Tensor, decision: Decision, outcome: TensorDictBase) -> list[float]:
        """Append the transitions, and a final row for each trajectory that ended.

        Args:
            pixels: frames in which was decided, ``[N, C, H, W]``.
            decision: of each game.
            outcome: ``next`` of the environments' step, ``[N]``.

        Returns:
            raw scores of the games that ended.
        """
        done, terminated, life_lost = (
            outcome[key].squeeze(-1) for key in ("done", "terminated", "end-of-life")
        )
        ended = terminated | life_lost
        rows = TensorDict(
            {
                "pixels": pixels,
                "reward": outcome["reward"].squeeze(-1),
                "terminated": ended,
                "truncated": done & ~ended,
                "has_action": torch.ones_like(done),
                "step": self._position,
                **decision.known(),
            },
            batch_size=[len(done)],
        )
        self.buffer.append(rows, torch.arange(len(done)))
        self._position += 1
        self._rows, self.pixels = rows, outcome["pixels"]
        self._finish((done | life_lost).nonzero().squeeze(-1))
        self._returns += outcome["reward"].squeeze(-1).double()
        finished = self._returns[done].tolist()
        self._returns[done] = 0.0
        return finished

    def cut(self, games: Tensor) -> None:
        """End the trajectories of games that are lost, ``[n]`` int64, as truncations; their scores are forgotten."""
        self._finish(games[self._position[games] > 0])
        self._returns[games] = 0.0

    def _finish(self, games: Tensor) -> None:
        """A final row for each of ``games [n]``, with the frame after the last step."""
        if games.numel():
            last = self._rows[games].apply(torch.zeros_like)
            last["pixels"] = self.pixels[games]
            last["step"] = self._position[games]
            self.buffer.append(last, games)
            self._position[games] = 0


class Actor:
    """Runs a planner in batched environments and appends what happens to a replay buffer.

    A life loss ends the trajectory in the buffer (as a termination) while the game goes on. Each ended trajectory gets
    a last row with its final frame, so that a truncated one can be bootstrapped.

    A checkpoint of an actor is a few megabytes: it holds the decisions, not the frames. :meth:`load_state_dict` takes
    the same steps again from the seeded start, which brings back emulators, frame stacks and replay exactly, in the
    middle of games. It needs environments that are deterministic after their seed, as all Atari games are.

    Args:
        env: from :func:`~xtra_rl.envs.make_env`, batch ``[N]``.
        planner: reads ``observation`` and ``action_mask``, writes ``action`` and, if it searches, ``("search", ...)``.
        buffer: replay with N columns.

    Attributes:
        env_steps: agent steps taken in all environments together.
    """

    def __init__(self, env: EnvBase, planner: Planner, buffer: TrajectoryReplayBuffer) -> None:
        self.env = env
        self.planner = planner
        self.buffer = buffer
        self.env_steps = 0
        self.num_envs = int(env.batch_size[0])
        self._decisions = Recording()
        self._current = env.reset()
        self._writer = StepWriter(buffer)
        self.search_metrics: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self) -> list[float]:
        """Take one agent step in every environment.

        Returns:
            raw scores of the games that ended with it.
        """
        planned = self.planner(self._current.select("observation", "action_mask"))
        found = planned.get("search", None)
        if found is None:
            return self._take(Decision(planned["action"]))
        self.search_metrics = {
            name: found[key].mean() for name, key in SEARCH_METRICS.items() if key in found.keys()
        }
        return self._take(Decision(planned["action"], found["policy"].float(), found["value"].float()))

    def _take(self, decision: Decision) -> list[float]:
        """Do what was decided and store it; returns the scores of the games that ended."""
        self._decisions.append(decision)
        observed = self._current
        stepped, following = self.env.step_and_maybe_reset(
            observed.clone(recurse=False).set("action", decision.action)
        )
        finished = self._writer.write(observed["pixels"], decision, stepped["next"])
        self._current = following
        self.env_steps += self.num_envs
        return finished

    def state_dict(self) -> dict[str, Any]:
        """All decisions so far, the frames that they led to, and the planner's random state.

        The buffer's priorities are not in it: whoever draws from it saves them
        (:meth:`~xtra_rl.training.batches.BatchSource.state_dict`).
        """
        return {
            "decisions": self._decisions.state_dict(),
            "pixels": self._current["pixels"].clone(),
            "planner": self.planner.rng_state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` by taking all its steps again.

        Raises:
            ValueError: if this actor has acted already, its environments are of another number, or they do not come to
                the same frames.
        """
        decisions = [Decision(*step) for step in zip(*state["decisions"], strict=True)]
        if len(self._decisions) or (decisions and len(decisions[0].action) != self.num_envs):
            raise ValueError(
                f"the state is of {len(state['pixels'])} environments and this actor has {self.num_envs}, which took"
                f" {self.env_steps} env steps; restore into a new actor with as many environments"
            )
        total = len(decisions) * self.num_envs
        with progress(total, description="play the recorded actions again", unit="env step") as bar:
            for decision in decisions:
                self._take(decision)
                bar.update(self.num_envs)
        if not torch.equal(self._current["pixels"], state["pixels"]):
            raise ValueError(
                "the recorded actions do not lead to the recorded frames: the environment is not deterministic, or this"
                " is another version of it (ale-py, the task's factory); go on with the version that made the run, or"
                " start again with resume=restart"
            )
        self.planner.set_rng_state(state["planner"])
