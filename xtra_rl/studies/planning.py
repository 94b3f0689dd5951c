"""From an experiment as data to a study: which command line each run has, and where it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xtra_rl.runs.settings import decisive
from xtra_rl.studies.plan import PlannedRun, Study, System

_SYSTEM_KEYS = ("of", "label", "recipe", "overrides", "published", "doubled")

Settings = Callable[[System], Mapping[str, Any]]
"""All settings of a system's runs at the study's scale, nested; two systems with equal ones compute the same."""


@dataclass(frozen=True)
class Member:
    """A system of an experiment, and whose runs it takes.

    Attributes:
        system: its overrides are what all its runs have in common, but for the scale.
        home: the experiment whose folder holds its runs.
        runs_of: name of the system that they are called after there.
    """

    system: System
    home: str
    runs_of: str


def merge_overrides(*groups: Sequence[str]) -> tuple[str, ...]:
    """Overrides of several sources without a key twice: the last one counts, at the place of the first.

    Example:
        >>> merge_overrides(["scale=smoke", "seed=0"], ["seed=1", "num_envs=2"])
        ('scale=smoke', 'seed=1', 'num_envs=2')
    """
    return tuple({text.partition("=")[0]: text for group in groups for text in group}.values())


def members_of(
    experiment: str,
    experiments: Mapping[str, Mapping[str, Any]],
    settings_of: Settings,
    given: Sequence[str] = (),
) -> list[Member]:
    """The systems of an experiment in order.

    A system that another experiment has too (``of``) takes the runs from there. One that is the same as an earlier one
    at this scale takes that one's, and says so in its label: EfficientZero and EfficientZero-L are the same network
    where the scale's own has one residual block a stage.

    Args:
        experiment: name of one of ``experiments``.
        experiments: by name, the contents of ``configs/experiment``.
        settings_of: composes the settings of a system.
        given: overrides for every run; they go before what makes a system what it is.

    Raises:
        ValueError: if the experiment is not one of them, or one of its systems is not well described.
    """
    members: list[Member] = []
    for member in _resolve(experiment, experiments, settings_of, given):
        same = [other for other in members if (other.home, other.runs_of) == (member.home, member.runs_of)]
        if same:
            label = f"{member.system.label} (here the same as {same[0].system.label})"
            member = replace(member, system=replace(member.system, label=label))
        settings = decisive(settings_of(member.system))
        members.append(replace(member, system=replace(member.system, settings=settings)))
    return members


def _resolve(
    experiment: str, experiments: Mapping[str, Mapping[str, Any]], settings_of: Settings, given: Sequence[str]
) -> list[Member]:
    if experiment not in experiments:
        raise ValueError(f"experiment is {experiment!r}; expected one of {', '.join(sorted(experiments))}")
    members: list[Member] = []
    for name, row in experiments[experiment]["systems"].items():
        if unknown := set(row) - set(_SYSTEM_KEYS):
            raise ValueError(
                f"{experiment}, system {name!r}: unknown key {min(unknown)!r}; expected some of"
                f" {', '.join(_SYSTEM_KEYS)}"
            )
        if "of" in row:
            there = {
                member.system.name: member for member in _resolve(row["of"], experiments, settings_of, given)
            }
            if name not in there:
                raise ValueError(
                    f"{experiment} takes system {name!r} of {row['of']}, which has none of that name; it has"
                    f" {', '.join(there)}"
                )
            member = there[name]
            system = replace(member.system, label=row.get("label", member.system.label))
            members.append(replace(member, system=system))
        else:
            common = experiments[experiment].get("overrides", ())
            system = _system(name, row, common, settings_of, given)
            members.append(Member(system, experiment, name))
        members[-1] = _as_an_earlier_one(members[-1], members[:-1], settings_of)
    return members


def _system(
    name: str, row: Mapping[str, Any], common: Sequence[str], settings_of: Settings, given: Sequence[str]
) -> System:
    system = System(
        name=name,
        label=row["label"],
        recipe=row.get("recipe", "xtra_finetune"),
        overrides=merge_overrides(common, given, row.get("overrides", ())),
        published=row.get("published"),
    )
    doubled = [f"{key}={2 * _value(settings_of(system), key)}" for key in row.get("doubled", ())]
    return replace(system, overrides=merge_overrides(system.overrides, doubled))


def _value(settings: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


def _as_an_earlier_one(member: Member, earlier: Sequence[Member], settings_of: Settings) -> Member:
    for other in earlier:
        if other.system.recipe == member.system.recipe and settings_of(other.system) == settings_of(
            member.system
        ):
            return replace(
                member,
                system=replace(member.system, overrides=other.system.overrides),
                home=other.home,
                runs_of=other.runs_of,
            )
    return member


def plan_study(
    content: Mapping[str, Any],
    members: Sequence[Member],
    *,
    scale: str,
    seeds: Sequence[int],
    targets: Sequence[str] | None = None,
) -> Study:
    """Every run of an experiment at one scale: system by system, game by game, seed by seed.

    Args:
        content: of the experiment's file.
        members: its systems, from :func:`members_of`.
        scale: of all runs.
        seeds: of each cell.
        targets: canonical names of games; default: the experiment's.
    """
    games = tuple(targets or content["targets"])
    runs = [
        _planned(content["name"], member, scale, target, seed)
        for member in members
        for target in games
        for seed in seeds
    ]
    return Study(
        experiment=content["name"],
        title=content["title"],
        scale=scale,
        tables=tuple(content["tables"]),
        figures=tuple(content["figures"]),
        systems=tuple(member.system for member in members),
        targets=games,
        seeds=tuple(seeds),
        runs=tuple(runs),
    )


def _planned(experiment: str, member: Member, scale: str, target: str, seed: int) -> PlannedRun:
    # Folders of studies lie beside each other, so that what two of them need is run once.
    place = "" if member.home == experiment else f"../{member.home}-{scale}/"
    run_dir = f"{place}runs/{member.runs_of}/{target}-s{seed}"
    overrides = _command_line(member.system, scale, target, seed)
    return PlannedRun(member.system.name, target, seed, overrides, run_dir)


def _command_line(system: System, scale: str, target: str, seed: int) -> tuple[str, ...]:
    return merge_overrides([f"scale={scale}", f"target={target}", f"seed={seed}"], system.overrides)


def extended(study: Study, before: Study) -> Study:
    """A study with what was planned in its folder before: a call for fewer games, seeds or systems forgets none.

    A system of both has the settings of the later plan in all its runs.

    Raises:
        ValueError: if the folder has another experiment or scale.

    Example:
        >>> one = Study("table1", "", "smoke", (), (), (System("xtra", "XTRA", "xtra_finetune"),), ("pong",), (0,), ())
        >>> other = replace(one, systems=(System("curl", "CURL", "curl"),), targets=("alien", "pong"), seeds=(1,))
        >>> both = extended(one, other)
        >>> [system.name for system in both.systems], both.targets, both.seeds
        (['curl', 'xtra'], ('alien', 'pong'), (0, 1))
    """
    if (before.experiment, before.scale) != (study.experiment, study.scale):
        raise ValueError(
            f"the study's folder has {before.experiment} at scale {before.scale}, this is {study.experiment} at scale"
            f" {study.scale}; pass another run_dir"
        )
    systems = {system.name: system for each in (before, study) for system in each.systems}
    # Systems that are the same at this scale share their runs' folders.
    runs = {(run.system, run.run_dir): run for each in (before, study) for run in each.runs}
    return replace(
        study,
        systems=tuple(systems.values()),
        targets=tuple(dict.fromkeys((*before.targets, *study.targets))),
        seeds=tuple(sorted({*before.seeds, *study.seeds})),
        runs=tuple(
            replace(run, overrides=_command_line(systems[run.system], study.scale, run.target, run.seed))
            for run in runs.values()
        ),
    )


def distinct_runs(study: Study) -> list[PlannedRun]:
    """Runs of a study without those that stand for two systems twice, in the order of the plan."""
    runs: dict[str, PlannedRun] = {}
    for run in study.runs:
        runs.setdefault(run.run_dir, run)
    return list(runs.values())


def shard_of(runs: Sequence[PlannedRun], shard: str) -> list[PlannedRun]:
    """The part of some runs that ``"2/4"`` names: every fourth, from the second on.

    Parts of one division are disjoint and together complete, and each has its share of every system.

    Raises:
        ValueError: if ``shard`` is not of that form.
    """
    number, count = parse_shard(shard)
    return list(runs[number - 1 :: count])


def parse_shard(shard: str) -> tuple[int, int]:
    """Number and count of ``"2/4"``.

    Raises:
        ValueError: if it is not of that form.

    Example:
        >>> parse_shard("2/4")
        (2, 4)
    """
    number, _, count = str(shard).partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"shard is {shard!r}; expected a part like 2/4, from 1/4 to 4/4")
    return int(number), int(count)
