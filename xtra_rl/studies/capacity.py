"""From what a machine was measured to take for the parts of training to seconds and bytes of whole runs.

The formulas are written out in docs/capacity.md; ``recipes/calibrate.py`` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtra_rl.studies.costs import Rates

#: Parts of an update that reading targets from stored data leaves out.
_REANALYSIS = ("encode", "search", "reanalyse overhead")


@dataclass(frozen=True)
class Line:
    """Seconds of a part of an update as a function of the batch: ``fixed + per_sample * batch``."""

    fixed: float
    per_sample: float

    def at(self, batch: float) -> float:
        """Seconds for so many samples."""
        return self.fixed + self.per_sample * batch


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """The line through the largest and the smallest batch ``(samples, seconds)``; neither number is negative.

    One point gives a line through the origin.

    Example:
        >>> fit_line([(512, 1.2), (64, 0.304)])
        Line(fixed=0.176, per_sample=0.002)
    """
    small, large = min(points), max(points)
    if small[0] == large[0]:
        return Line(0.0, large[1] / large[0])
    slope = max((large[1] - small[1]) / (large[0] - small[0]), 0.0)
    fixed = large[1] - slope * large[0]
    if fixed < 0:
        return Line(0.0, large[1] / large[0])
    return Line(round(fixed, 12), round(slope, 12))


@dataclass(frozen=True)
class Case:
    """A network on a machine, with or without cross tasks beside the target.

    Attributes:
        batch: samples of an update at the scale.
        measured_batch: the largest that was timed; beyond it all times are extrapolated.
        parts: of an update, by name.
        env_step: seconds of an env step of acting, by part.
        overlap: time of an update whose parts overlap, in that of the parts one after the other; 1 if they do not.
        measuring: seconds that measuring the task weights adds to an update.
        evaluation_step: seconds of an env step of evaluation; of acting, where it was not measured.
        parameters: of the model.
        tasks: with the target.
        gpu_bytes: the largest amount that was reserved on the GPU; 0 without one.
    """

    batch: int
    measured_batch: int
    parts: Mapping[str, Line]
    env_step: Mapping[str, float]
    overlap: float
    measuring: float
    evaluation_step: float
    parameters: int
    tasks: int
    gpu_bytes: int

    def act(self) -> float:
        """Seconds of an env step of acting."""
        return sum(self.env_step.values())

    def update(self, *, ranks: int = 1, fresh: float = 1.0, bandwidth: float = math.inf) -> float:
        """Seconds of an update whose batch so many ranks share.

        Args:
            ranks: GPUs of the data-parallel learner.
            fresh: share of the observations that has to be encoded (:func:`fresh_share`).
            bandwidth: bytes a second between neighbours, of the ring that averages float32 gradients.
        """
        parts = {name: line.at(self.batch / ranks) for name, line in self.parts.items()}
        own = sum(parts.values()) - (1 - fresh) * parts.get("encode", 0.0)
        # Several ranks draw no batch ahead.
        overlap = self.overlap if ranks == 1 else 1.0
        return overlap * own + 2 * (ranks - 1) / ranks * 4 * self.parameters / bandwidth

    def offline_update(self) -> float:
        """Seconds of an update whose targets are read from stored data."""
        lines = (line for name, line in self.parts.items() if name not in _REANALYSIS)
        return self.overlap * sum(line.at(self.batch) for line in lines)

    def serial_fraction(self, *, replay_ratio: float = 1.0, fresh: float = 1.0) -> float:
        """What more ranks do not shorten: acting, which one rank does, and what an update takes of any batch."""
        fixed = sum(line.fixed * (fresh if name == "encode" else 1.0) for name, line in self.parts.items())
        parts = sum(
            line.at(self.batch) * (fresh if name == "encode" else 1.0) for name, line in self.parts.items()
        )
        return (self.act() + replay_ratio * fixed) / (self.act() + replay_ratio * parts)

    def rates(self, *, episode_steps: float, fresh: float = 1.0, measured: float = 0.0) -> Rates:
        """Seconds of all steps on one device.

        Args:
            episode_steps: env steps of an evaluation's game.
            fresh: share of the observations that has to be encoded.
            measured: share of the updates that measure task weights.
        """
        return Rates(
            env_step=self.act(),
            train_step=self.update(fresh=fresh) + measured * self.measuring,
            offline_step=self.offline_update(),
            evaluation_step=self.evaluation_step,
            episode_steps=episode_steps,
        )


def fresh_share(rows: float, draws: float) -> float:
    """Share of the drawn observations whose encoding is not known yet, between two publications of the target network.

    Args:
        rows: of replay.
        draws: observations that all batches between two publications draw, uniformly.

    Example:
        >>> round(fresh_share(rows=50_000, draws=200 * 256 * 11), 3)
        0.089
    """
    return rows * -math.expm1(-draws / rows) / draws


def amdahl(serial: float, ranks: int) -> float:
    """Speed-up by ``ranks`` if a fraction ``serial`` of the time stays.

    Example:
        >>> amdahl(0.1, 8)
        4.705882352941176
    """
    return 1 / (serial + (1 - serial) / ranks)


def case_name(num_blocks: int, crossed: bool) -> str:
    """Name of a case in a calibration."""
    return f"{num_blocks} blocks, {'cross tasks' if crossed else 'alone'}"


def read_case(row: Mapping[str, Any], evaluation_step: float) -> Case:
    """A case from its row of a calibration file."""
    batches = sorted(row["batches"], key=lambda each: each["batch"])
    largest = batches[-1]
    names = dict.fromkeys(name for each in batches for name in each["update"])
    points = {name: [(each["batch"], each["update"].get(name, 0.0)) for each in batches] for name in names}
    # The batch does not matter to acting. A search that was captured in a CUDA graph just then makes it seem slow.
    act = min((each["env_step"] for each in batches), key=lambda parts: sum(parts.values()))
    one_after_the_other = sum(largest["update"].values())
    extra = 0.0
    if "measuring" in row:
        learnt = ("forward", "backward", "learn overhead")
        same = next(each for each in batches if each["batch"] == row["measuring"]["batch"])
        more = sum(row["measuring"]["update"][name] - same["update"][name] for name in learnt)
        extra = max(more, 0.0) / same["share"]
    return Case(
        batch=round(largest["batch"] / largest["share"]),
        measured_batch=largest["batch"],
        parts={name: fit_line(each) for name, each in points.items()},
        env_step=act,
        overlap=min(row.get("overlapped", one_after_the_other) / one_after_the_other, 1.0),
        measuring=extra,
        evaluation_step=evaluation_step or sum(act.values()),
        parameters=largest["parameters"],
        tasks=row["tasks"],
        gpu_bytes=row.get("gpu_bytes", 0),
    )


def read_cases(content: Mapping[str, Any]) -> dict[str, Case]:
    """All cases of a calibration file by name.

    Raises:
        ValueError: if it is not complete, which a calibration is that was cut.
    """
    blocks = sorted({row["num_blocks"] for row in content["cases"].values()})
    cases = {}
    for name in (case_name(count, crossed) for count in blocks for crossed in (True, False)):
        if name not in content["cases"]:
            raise ValueError(
                f"the calibration has no case {name!r}; the command that made it goes on with what is missing"
            )
        alone = content["cases"].get(name.replace("cross tasks", "alone"), {})
        cases[name] = read_case(content["cases"][name], alone.get("evaluation_step", 0.0))
    return cases
