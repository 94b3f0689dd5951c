"""What a report is about: the runs of each study, which of them count, and what a reader has to know about the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from xtra_rl.report.checks import not_as_planned, odd_ones, version_of, version_text
from xtra_rl.report.plan import is_unfinished_diagnosis, study_of_runs
from xtra_rl.runs.files import is_diagnosis
from xtra_rl.runs.record import Run, find_runs, read_run
from xtra_rl.studies.jobs import RUN_LOG, failure_of
from xtra_rl.studies.plan import STUDY_FILE, PlannedRun, Study, read_study
from xtra_rl.studies.status import path_of, planned_run

__all__ = ["Finding", "Group", "collect"]

Kind = Literal[
    "missing",
    "unfinished",
    "broken",
    "other version",
    "other settings",
    "not as planned",
    "no evaluation",
    "twice",
    "unplanned",
]


class Finding(NamedTuple):
    """A run that does not count, and why.

    ``where`` names system, game and seed as far as they are known; ``path`` is where the run is or should be. Missing
    seeds of one system and game are one finding; ``runs`` is how many runs it is about.
    """

    kind: Kind
    where: str
    path: str
    text: str
    runs: int = 1


@dataclass(frozen=True, eq=False)
class Group:
    """One study, or all bare runs of one scale, as far as its runs are there.

    Attributes:
        study: the plan; made from the runs themselves where they came without one.
        planned: whether there is a ``study.json``.
        mode: of the evaluation that counts, ``greedy`` or ``sampled``.
        last: how many evaluations at the end are averaged to a run's score.
        cells: the runs that count by system and game, in the order of their seeds; no key where there is none.
        offline: finished runs without a single game, such as those of ``compare_offline``.
        findings: every run that does not count.
        notes: what may differ between runs that are averaged all the same.
        runs: everything that was read, for the list of runs.
    """

    study: Study
    planned: bool
    mode: str
    last: int
    cells: Mapping[tuple[str, str], tuple[Run, ...]]
    offline: tuple[Run, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    runs: tuple[Run, ...]

    def scores(self, system: str, target: str) -> dict[int, float]:
        """Mean return by seed; empty for an empty cell."""
        runs = self.cells.get((system, target), ())
        means = {run.summary["seed"]: final_mean(run, self.mode, self.last) for run in runs}
        return {seed: mean for seed, mean in means.items() if mean is not None}

    @property
    def evaluations(self) -> str:
        """What a run's score averages, for a sentence."""
        counts = {len(averaged(run, self.mode, self.last)) for run in self.counted()} or {self.last}
        if self.last == 1 or counts == {1}:
            return "the last evaluation"
        if max(counts) < self.last:
            return f"all evaluations ({_range(counts)}, fewer than the {self.last} that were asked for)"
        return f"the last {_range(counts)} evaluations"

    def by_task(self, system: str) -> dict[str, list[float]]:
        """:meth:`scores` of every game that has some: a score for each seed."""
        scores = {target: list(self.scores(system, target).values()) for target in self.study.targets}
        return {target: values for target, values in scores.items() if values}

    def counted(self) -> list[Run]:
        """Runs that are averaged; one that several systems share is there once."""
        return list(_once(run for runs in self.cells.values() for run in runs))


def _once(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Without repetitions: systems that are the same at a scale share their runs."""
    return tuple({run.path.resolve(): run for run in runs}.values())


def final_mean(run: Run, mode: str, last: int = 1) -> float | None:
    """Mean return of a run's ``last`` evaluations in that mode; ``None`` if it was not played.

    Play before the first env step is no result of the training, and counts only where there is no other.
    """
    values = averaged(run, mode, last)
    return sum(values) / len(values) if values else None


def averaged(run: Run, mode: str, last: int) -> list[float]:
    """The evaluations that :func:`final_mean` is the mean of: ``last`` of them, or as many as there are."""
    final = next((score.mean_return for score in run.scores() if score.mode == mode), None)
    series = run.evaluations(mode)
    if last == 1 or final is None or series is None:
        return [] if final is None else [final]
    values = [float(value) for step, value in zip(series.env_step, series.value) if step > 0]
    return values[-last:] or [final]


def _range(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def collect(paths: Sequence[str | os.PathLike[str]], *, mode: str = "greedy", last: int = 1) -> list[Group]:
    """Read studies and runs, in the order of ``paths``; bare runs come last, a group for each scale.

    Args:
        paths: study folders, run directories, or folders above them.
        mode: of the evaluation that counts.
        last: how many evaluations at the end are averaged to a run's score. Greedy play of small agents swings from
            one evaluation to the next, so that the last one alone says little.

    Returns:
        groups; none where all runs are diagnoses.

    Raises:
        ValueError: if a path is no folder, a ``study.json`` cannot be read, nothing is found, or ``last`` is not
            positive.

    Example:
        >>> collect(["/nowhere"])
        Traceback (most recent call last):
        ValueError: '/nowhere' is not a folder; expected one with run directories below it, such as runs
    """
    if last < 1:
        raise ValueError(f"last is {last}; expected at least 1")
    there = find_runs(paths)
    found = [path for path in there if not is_diagnosis(path)]
    studies = sorted({file.parent for path in paths for file in Path(path).rglob(STUDY_FILE)})
    plans = {folder: read_study(folder) for folder in studies}
    # Of all studies first: one may have planned what lies with another.
    taken = {path_of(folder, run).resolve() for folder, study in plans.items() for run in study.runs}
    groups = []
    for folder, study in plans.items():
        extra = [path for path in found if folder in path.parents and path.resolve() not in taken]
        taken |= {path.resolve() for path in extra}
        groups.append(_group(study, folder, [read_run(path) for path in extra], mode, last, planned=True))
    bare = {path.resolve(): path for path in reversed(found) if path.resolve() not in taken}
    runs = [read_run(path) for path in sorted(bare.values())]
    for study, members in study_of_runs(runs):
        groups.append(_group(study, Path(), members, mode, last, planned=False))
    if not groups and not there:  # Diagnoses alone have no groups.
        raise ValueError(
            f"no runs and no studies below {', '.join(map(str, paths))}; expected run directories, which"
            " `python -m xtra_rl.runs list` finds, or a folder with a study.json"
        )
    return groups


def _group(study: Study, folder: Path, extra: Sequence[Run], mode: str, last: int, *, planned: bool) -> Group:
    """Sort the runs of a study into those that count and those that do not."""
    findings: list[Finding] = []
    candidates: dict[tuple[str, str], list[tuple[PlannedRun, Run]]] = {}
    missing: dict[tuple[str, str], list[PlannedRun]] = {}
    runs: list[Run] = []
    for plan in study.runs:
        where = _where(study, plan)
        run = planned_run(folder, plan) if plan.run_dir else None
        if run is None:
            missing.setdefault((plan.system, plan.target), []).append(plan)
            continue
        runs.append(run)
        if (finding := _unfit(run, plan, study, mode, where)) is not None:
            findings.append(finding)
        else:
            candidates.setdefault((plan.system, plan.target), []).append((plan, run))
    findings += [_missing(study, folder, plans) for plans in missing.values()]
    offline = [run for run in extra if run.status == "finished" and run.target is None]
    for run in extra:
        if is_unfinished_diagnosis(run):
            findings.append(Finding("unfinished", "", str(run.path), "its diagnosis has not ended"))
        elif run not in offline:
            text = run.problem or "it is not in the plan of this study" if planned else run.problem or ""
            kind: Kind = "broken" if run.problem else "unplanned"
            findings.append(Finding(kind, "", str(run.path), text))
    version = _usual_version([run for members in candidates.values() for _, run in members])
    cells = {}
    for key, members in candidates.items():
        kept, odd = _alike(study, members, version)
        findings += odd
        if kept:
            cells[key] = tuple(sorted(kept, key=lambda run: run.summary["seed"]))
    order = {name: place for place, name in enumerate(get_args(Kind))}
    findings.sort(key=lambda finding: order[finding.kind])
    return Group(
        study,
        planned,
        mode,
        last,
        cells,
        tuple(offline),
        tuple(findings),
        tuple(_notes(study, cells, mode, last)),
        _once((*runs, *extra)),
    )


def _where(study: Study, *plans: PlannedRun) -> str:
    seeds = ", ".join(str(plan.seed) for plan in plans)
    label = study.system(plans[0].system).label
    return f"{label}, {plans[0].target}, seed{'s' if len(plans) > 1 else ''} {seeds}"


def _missing(study: Study, folder: Path, plans: Sequence[PlannedRun]) -> Finding:
    path = str(path_of(folder, plans[0])) if len(plans) == 1 and plans[0].run_dir else ""
    failed = {plan.seed: failure_of(path_of(folder, plan) / RUN_LOG) for plan in plans if plan.run_dir}
    told = "; ".join(f"seed {seed} failed: {problem}" for seed, problem in failed.items() if problem)
    return Finding("missing", _where(study, *plans), path, told or "not there yet", len(plans))


def _unfit(run: Run, plan: PlannedRun, study: Study, mode: str, where: str) -> Finding | None:
    """Why a run cannot stand for what was planned, looked at alone."""
    path = str(run.path)
    if run.problem:
        return Finding("broken", where, path, run.problem)
    if run.status == "unfinished":
        step, failed = run.steps()[0], failure_of(run.path / RUN_LOG)
        text = f"it has come to env step {step or 0}" + (f" and failed: {failed}" if failed else "")
        return Finding("unfinished", where, path, text)
    if difference := not_as_planned(run, plan, study.system(plan.system), scale=study.scale):
        return Finding("not as planned", where, path, difference)
    if final_mean(run, mode) is None:
        return Finding("no evaluation", where, path, f"its last evaluation has no {mode} play")
    return None


def _usual_version(runs: Sequence[Run]) -> str:
    """The most common version of the library; the first seen of equally common ones."""
    versions = Counter(version_of(run) for run in runs)
    return versions.most_common(1)[0][0] if versions else ""


def _alike(
    study: Study, members: Sequence[tuple[PlannedRun, Run]], version: str
) -> tuple[list[Run], list[Finding]]:
    """Split a cell into the runs that differ by nothing but the seed, and the others."""
    findings, seeds = [], set()
    good: list[tuple[PlannedRun, Run]] = []
    # The newest of two runs of one seed, as nothing says that they are independent.
    for plan, run in sorted(members, key=lambda member: str(member[1].manifest.get("date")), reverse=True):
        if version_of(run) != version:
            text = f"made by {version_text(version_of(run))}, the others by {version_text(version)}"
            findings.append(Finding("other version", _where(study, plan), str(run.path), text))
        elif plan.seed in seeds:
            text = "a newer run of this seed is there"
            findings.append(Finding("twice", _where(study, plan), str(run.path), text))
        else:
            seeds.add(plan.seed)
            good.append((plan, run))
    good.sort(key=lambda member: member[0].seed)
    odd = odd_ones([run for _, run in good])
    for plan, run in good:
        if run.path in odd:
            findings.append(Finding("other settings", _where(study, plan), str(run.path), odd[run.path]))
    return [run for _, run in good if run.path not in odd], findings


def _notes(
    study: Study, cells: Mapping[tuple[str, str], Sequence[Run]], mode: str, last: int
) -> Iterator[str]:
    """What differs between runs that are averaged or compared all the same, and which systems do not differ."""
    runs = _once(run for members in cells.values() for run in members)
    for name, of in (
        ("commits", lambda run: str(run.manifest.get("git_commit") or "unknown")[:12]),
        ("versions of PyTorch", lambda run: str(run.manifest.get("packages", {}).get("torch"))),
        ("devices", lambda run: str(run.manifest.get("device"))),
    ):
        counts = Counter(map(of, runs))
        if len(counts) > 1:
            listed = ", ".join(f"{value} ({count} runs)" for value, count in counts.most_common())
            yield f"The runs that count are of {len(counts)} {name}, and are averaged all the same: {listed}."
    edited = sum("+changes" in str(run.manifest.get("git_commit")) for run in runs)
    if edited:
        yield f"{edited} of the runs that count ran from a checkout with changes that no commit holds."
    played = {run.path: len(averaged(run, mode, last)) for run in runs}
    most = max(played.values(), default=0)
    if fewer := [f"{path} ({count})" for path, count in played.items() if count < most]:
        yield f"{len(fewer)} of the runs that count are averages of fewer than {most} evaluations: {', '.join(fewer)}."
    labels: dict[Path, set[str]] = {}
    for (name, _), members in cells.items():
        for run in members:
            labels.setdefault(run.path.resolve(), set()).add(study.system(name).label)
    for shared in sorted({tuple(sorted(names)) for names in labels.values() if len(names) > 1}):
        yield f"{' and '.join(shared)} are the same runs at this scale, so they cannot differ."
