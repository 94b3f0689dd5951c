"""Whether runs belong together: of one version, as planned, and different in nothing but the seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtra_rl.envs.tasks import get_task
from xtra_rl.files import to_plain
from xtra_rl.runs.record import Run
from xtra_rl.runs.settings import ABSENT, MACHINE, changed, decisive, flatten, yaml_text
from xtra_rl.studies.plan import PlannedRun, System
from xtra_rl.wording import first_of


def version_of(run: Run) -> str:
    """Version of the library that made a run."""
    return str(run.manifest.get("packages", {}).get("xtra_rl", ""))


def version_text(version: str) -> str:
    """For a sentence."""
    return f"xtra_rl {version}" if version else "an unknown version of xtra_rl"


def settings_of(run: Run) -> dict[str, Any]:
    """What a score may depend on beside the seed: settings, inputs by content, how long was trained and played.

    A setting under a name of :data:`MACHINE` is left out.
    """
    flat = decisive(run.config)
    inputs = run.manifest.get("inputs", {})
    # Every seed evaluates a model of its own.
    flat |= {
        f"input {name}": str(item.get("sha256"))[:12]
        for name, item in inputs.items()
        if isinstance(item, Mapping) and name != "checkpoint"
    }
    played = {mode: len(returns) for mode, returns in (run.summary["eval/returns"] or {}).items()}
    return flat | {
        "recipe": run.summary["recipe"],
        "env steps at the end": run.summary["env_steps"],
        "train steps at the end": run.summary["train_steps"],
        **{f"episodes played, {mode}": count for mode, count in played.items()},
    }


def odd_ones(runs: Sequence[Run]) -> dict[Path, str]:
    """Finished runs of a cell whose settings are not those of most, with what differs.

    Of equally common settings those of the first run are taken for the right ones.
    """
    settings = [settings_of(run) for run in runs]
    prints = [json.dumps(each, sort_keys=True, default=str) for each in settings]
    if len(set(prints)) < 2:
        return {}
    usual = settings[prints.index(Counter(prints).most_common(1)[0][0])]
    odd = {}
    for run, each in zip(runs, settings):
        names = [name for name in {**usual, **each} if each.get(name, ABSENT) != usual.get(name, ABSENT)]
        if names:
            parts = [
                f"{name} is {yaml_text(each.get(name, ABSENT))}, of most {yaml_text(usual.get(name, ABSENT))}"
                for name in names
            ]
            odd[run.path] = first_of(parts, 4)
    return odd


def not_as_planned(run: Run, plan: PlannedRun, system: System, *, scale: str) -> str | None:
    """What of a finished run is not as planned: recipe, scale, game, seed or a setting; ``None`` if all is."""
    flat = flatten(to_plain(run.config))
    expected: dict[str, Any] = {"seed": plan.seed}
    # Plans of before settings were kept in them have only the command line.
    for name, _, text in (override.partition("=") for override in plan.overrides):
        # Config groups, such as task_set=maze, are no settings of that name, and paths may be written anew.
        if name in flat and name not in MACHINE and _is_plain(value := _value(text)):
            expected[name] = value
    pairs = {
        "recipe": (run.summary["recipe"], system.recipe),
        "scale": (run.summary["scale"], scale),
        "game": (run.target, _canonical(plan.target)),
        **{name: (flat.get(name, ABSENT), value) for name, value in expected.items()},
        **changed(run.config, system.settings),
    }
    parts = [
        f"{name} is {yaml_text(here)}, planned was {yaml_text(there)}"
        for name, (here, there) in pairs.items()
        if here != there
    ]
    return first_of(parts, 4) or None


def _value(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _is_plain(value: Any) -> bool:
    """Values that Hydra and YAML read alike; of others, such as ``1e-4``, only the run knows."""
    return isinstance(value, (bool, int)) or (
        isinstance(value, list) and all(isinstance(item, (bool, int, str)) for item in value)
    )


def _canonical(task: str) -> str:
    try:
        return get_task(task).name
    except ValueError:
        return task
