"""What stands at the head of a study's part of the page: scale, runs, protocol, versions, machines, dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from xtra_rl.report.collect import Group
from xtra_rl.report.tables import Cell, Row, Table, number
from xtra_rl.runs.record import Run
from xtra_rl.runs.settings import PROTOCOL, flatten, variant_of
from xtra_rl.runs.tables import duration, facts, labels, status_text

_PACKAGES = ("xtra_rl", "torch", "torchrl", "ale-py", "gymnasium", "numpy")


def head(group: Group) -> dict[str, str]:
    """Facts by name, as sentences for a reader; those that nothing is known of are left out."""
    study, counted = group.study, group.counted()
    # Systems that are the same at this scale share their runs.
    planned = len({plan.run_dir or plan for plan in study.runs})
    kinds: Counter[str] = Counter()
    for finding in group.findings:
        kinds[finding.kind] += finding.runs
    left = "".join(f", {count} {kind}" for kind, count in kinds.items())
    about = {
        "Scale": study.scale,
        "Systems": ", ".join(system.label for system in study.systems),
        "Games": str(len(study.targets)),
        "Seeds": ", ".join(map(str, study.seeds)),
        "Runs": f"{len(counted)} of {planned} {'planned ' if group.planned else ''}count{left}",
        "Env steps": _values(counted, lambda run: number(run.summary["env_steps"], 0)),
        "Updates": _values(counted, lambda run: number(run.summary["train_steps"], 0)),
        "Protocol": protocol(group),
        "Versions": _values(counted, _versions),
        "Commit": _values(counted, lambda run: str(run.manifest.get("git_commit") or "unknown")[:12]),
        "Machine": _values(counted, _machine),
        "Started (UTC)": _dates(counted),
        "Wall time": _wall_time(counted),
    }
    return {name: text for name, text in about.items() if text}


def protocol(group: Group) -> str:
    """How the scores that count were played; several ways are told apart by how many runs used them."""
    return _values(group.counted(), lambda run: _protocol(run, group.mode))


def protocols_differ(group: Group) -> bool:
    """Whether scores of this group are of different rules, and so do not stand beside each other."""
    return len({_protocol(run, group.mode) for run in group.counted()}) > 1


def _protocol(run: Run, mode: str) -> str:
    flat = flatten(run.config)
    episodes = len((run.summary["eval/returns"] or {}).get(mode, ()))
    skip, sticky, noops, frames = (flat.get(name) for name in PROTOCOL[1:])
    rules = {
        "frame skip": skip,
        "sticky actions": sticky,
        "no-ops up to": noops,
        "frames a game up to": frames,
    }
    listed = ", ".join(f"{name} {value}" for name, value in rules.items() if value is not None)
    cap = flat.get("eval.max_steps")
    limit = f" of at most {number(cap, 0)} env steps" if isinstance(cap, int) else ""
    return f"{episodes} {mode} episodes{limit}" + (f"; {listed}" if listed else "")


def _values(runs: Sequence[Run], of: Callable[[Run], str]) -> str:
    """The one value of all runs, or each with its number of runs."""
    counts = Counter(map(of, runs))
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} runs)" for value, count in counts.most_common())


def _versions(run: Run) -> str:
    packages = run.manifest.get("packages", {})
    known = [f"{name} {packages[name]}" for name in _PACKAGES if name in packages]
    return ", ".join([*known, f"Python {run.manifest.get('python')}"])


def _machine(run: Run) -> str:
    parts = (run.manifest.get("device"), run.manifest.get("platform"))
    cores = run.manifest.get("cpu_count")
    return ", ".join([*(str(part) for part in parts if part), *([f"{cores} CPU cores"] if cores else [])])


def _dates(runs: Sequence[Run]) -> str:
    dates = sorted(
        str(run.manifest["date"])[:16].replace("T", " ") for run in runs if run.manifest.get("date")
    )
    if not dates:
        return ""
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def _wall_time(runs: Sequence[Run]) -> str:
    seconds = [float(run.summary["wall_seconds"]) for run in runs]
    if not seconds:
        return ""
    return f"{duration(sum(seconds))} in all, {duration(sum(seconds) / len(seconds))} a run"


def runs_table(group: Group) -> Table:
    """Every run that was read, whether it counts or not."""
    counted = {run.path for run in group.counted()} | {run.path for run in group.offline}
    columns = {
        "counts": lambda run, fact: "yes" if run.path in counted else "no",
        "status": lambda run, fact: status_text(fact),
        "recipe": lambda run, fact: fact["recipe"],
        "game": lambda run, fact: fact["target"],
        "variant": lambda run, fact: variant_of(run.config),
        "seed": lambda run, fact: fact["seed"],
        "env steps": lambda run, fact: fact["env_steps"],
        "updates": lambda run, fact: fact["train_steps"],
        "score": lambda run, fact: fact["mean_return"],
        "of": lambda run, fact: " ".join(str(fact[k]) for k in ("episodes", "mode") if fact[k]) or None,
        "wall time": lambda run, fact: duration(fact["wall_seconds"]),
        "commit": lambda run, fact: str(run.manifest.get("git_commit") or "")[:12] or None,
        "started (UTC)": lambda run, fact: (fact["date"] or "")[:16].replace("T", " ") or None,
    }
    rows, numbers = [], []
    for run, label in zip(group.runs, labels([run.path for run in group.runs])):
        fact = facts(run)
        values: dict[str, Any] = {title: of(run, fact) for title, of in columns.items()}
        rows.append(Row(label, tuple(map(_cell, values.values()))))
        numbers.append({"run": str(run.path), **values, "problem": run.problem})
    caption = "Every run that was read. Those that do not count are in the list of what is left out, with the reason."
    return Table("runs", "Runs", caption, "run", tuple(columns), tuple(rows), numbers)


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell("—", state="empty")
    if isinstance(value, float):
        return Cell(number(value), value=value)
    return Cell(number(value, 0) if isinstance(value, int) else str(value),
                value=float(value) if isinstance(value, int) else None)  # fmt: skip
