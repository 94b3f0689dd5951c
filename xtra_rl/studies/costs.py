"""What runs will cost: how much work they are, how fast the machine does it, and what finished runs took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        env_steps: of acting while learning.
        train_steps: updates whose targets are searched for.
        offline_steps: updates whose targets are read from stored data.
        episodes: games played without learning.
        max_steps: env steps after which such a game is cut.
    """

    env_steps: float = 0.0
    train_steps: float = 0.0
    offline_steps: float = 0.0
    episodes: float = 0.0
    max_steps: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Measured seconds for each of them, one process alone on the machine.

    Attributes:
        env_step: of acting while learning.
        train_step: with reanalysis.
        offline_step: without.
        evaluation_step: an env step of a game among those of an evaluation.
        episode_steps: env steps of a game of random play. Good agents play longer games.
    """

    env_step: float
    train_step: float
    offline_step: float
    evaluation_step: float
    episode_steps: float

    def seconds(self, work: Work) -> float:
        """Time for some work.

        Example:
            >>> rates = Rates(0.01, 0.2, 0.1, 0.005, 500.0)
            >>> rates.seconds(Work(env_steps=1000, train_steps=500, episodes=8, max_steps=400))
            126.0
        """
        played = work.episodes * min(self.episode_steps, work.max_steps)
        return (
            work.env_steps * self.env_step
            + work.train_steps * self.train_step
            + work.offline_steps * self.offline_step
            + played * self.evaluation_step
        )


@dataclass(frozen=True)
class Item:
    """Something that has to be there once: a run, or an input of runs.

    Attributes:
        kind: row of the table that it counts in.
        status: ``finished``, ``unfinished``, ``broken`` or ``missing``.
        estimate: seconds it should take from the start; ``None`` if that is not known.
        measured: seconds it took; ``None`` if it is not finished, or did not say.
    """

    kind: str
    status: str
    estimate: float | None = None
    measured: float | None = None


def cost_rows(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Rows of the table that says what there is to do: number, done, left and hours by kind, and the sum.

    Items that are not finished take as long as finished ones of their kind did on average, or else as estimated; an
    unfinished one counts in full.
    """
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    rows = [_row(kind, members) for kind, members in kinds.items()]
    total: dict[str, Any] = {"what": "total"}
    for column in ("number", "done", "unfinished", "broken"):
        total[column] = sum(row[column] for row in rows)
    left = [row["hours left"] for row in rows]
    total |= {"hours each": None, "hours left": None if None in left else float(sum(left))}
    return [*rows, total]


def _row(kind: str, items: Sequence[Item]) -> dict[str, Any]:
    status = [item.status for item in items]
    took = [item.measured for item in items if item.measured is not None]
    estimates = [item.estimate for item in items if item.estimate is not None]
    known = took or estimates
    each = sum(known) / len(known) / 3600 if known else None
    left = len(items) - status.count("finished")
    return {
        "what": kind,
        "number": len(items),
        "done": status.count("finished"),
        "unfinished": status.count("unfinished"),
        "broken": status.count("broken"),
        "hours each": each,
        "hours left": 0.0 if not left else None if each is None else left * each,
    }


def read_rates(content: Mapping[str, Any]) -> dict[str, Rates]:
    """Rates by name from a stored calibration; what another version of the library wrote is left out."""
    names = set(Rates.__dataclass_fields__)
    return {
        key: Rates(**row) for key, row in content.items() if isinstance(row, Mapping) and set(row) == names
    }
