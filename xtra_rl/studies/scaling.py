"""A small simulation of actors that feed a learner: who waits for whom as either of them grows.

Actors play rounds of some env steps; each env step is owed a number of updates; an actor starts a round only while not
too many env steps wait to be learned from. An update is a part that every rank repeats and a part that the ranks share,
and it ends with the slowest rank.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """What is simulated; all times in seconds.

    Attributes:
        actors: processes that act, each on a device of its own.
        ranks: of the data-parallel learner.
        round_seconds: of one round of an actor.
        round_steps: env steps of a round.
        serial: of an update, whatever the number of ranks.
        shared: of an update, divided among the ranks.
        replay_ratio: updates owed to an env step.
        ahead: env steps that may wait for their updates when a round starts. With 0 and one actor, acting and learning
            take turns, as in :func:`~xtra_rl.training.loop.train_online`.
        jitter: coefficient of variation of rounds and of every rank's part, gamma distributed; 0 for none, 1 for
            exponential times.
    """

    actors: int
    ranks: int
    round_seconds: float
    round_steps: int
    serial: float
    shared: float
    replay_ratio: float = 1.0
    ahead: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Throughput:
    """What came of it.

    Attributes:
        env_steps_per_s: that were played and learned from.
        actors_busy: mean share of the time that an actor acts.
        learner_busy: share of the time that the learner learns.
    """

    env_steps_per_s: float
    actors_busy: float
    learner_busy: float


def bound(plant: Plant) -> float:
    """Env steps a second without jitter: taking turns if ``ahead`` is 0, else the slower of the two sides.

    Example:
        >>> plant = Plant(actors=2, ranks=4, round_seconds=0.8, round_steps=8, serial=0.05, shared=0.2, ahead=64)
        >>> round(bound(plant), 6)
        10.0
    """
    acting = plant.round_seconds / (plant.actors * plant.round_steps)
    learning = plant.replay_ratio * (plant.serial + plant.shared / plant.ranks)
    return 1 / (acting + learning if plant.ahead == 0 else max(acting, learning))


def simulate(plant: Plant, *, updates: int = 2000, seed: int = 0) -> Throughput:
    """Run the plant until so many updates are done.

    Raises:
        ValueError: if there is no actor, rank or update.
    """
    if min(plant.actors, plant.ranks, updates) < 1:
        raise ValueError(
            f"actors={plant.actors}, ranks={plant.ranks}, updates={updates}: expected at least 1"
        )
    generator = random.Random(seed)
    draw = _times(plant.jitter, generator)
    events: list[tuple[float, int]] = []  # end of a round of an actor, or of an update: the learner is -1
    idle, learning = list(range(plant.actors)), False
    played = done = now = 0.0
    acted = learned = 0.0
    while done < updates:
        if not learning and plant.replay_ratio * played - done >= 1 - 1e-9:
            took = plant.serial + max(draw(plant.shared / plant.ranks) for _ in range(plant.ranks))
            learned, learning = learned + took, True
            heapq.heappush(events, (now + took, -1))
        # A learner without a whole update to do waits for them, whatever they are ahead.
        if not learning or played - done / plant.replay_ratio <= plant.ahead + 1e-9:
            for actor in idle:
                took = draw(plant.round_seconds)
                acted += took
                heapq.heappush(events, (now + took, actor))
            idle = []
        now, who = heapq.heappop(events)
        if who < 0:
            done, learning = done + 1, False
        else:
            played += plant.round_steps
            idle.append(who)
    return Throughput(done / plant.replay_ratio / now, acted / plant.actors / now, learned / now)


def _times(jitter: float, generator: random.Random) -> Callable[[float], float]:
    """Draws a time around a mean."""
    if jitter == 0:
        return lambda mean: mean
    shape = jitter**-2
    return lambda mean: generator.gammavariate(shape, mean / shape)
