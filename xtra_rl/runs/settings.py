"""Settings of runs, flattened to the ``a.b=c`` of the recipes' command lines, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import xtra_rl
from xtra_rl.files import to_plain

ABSENT = "(absent)"

#: Where a run lies and who is told about it: differs between any two runs and changes nothing.
PLACES = ("run_dir", "artifacts", "resume", "logger", "wandb_mode", "wandb_project")

#: Where and how fast a run was made, not what it does; ``checkpoint`` is the interval of saving, and in
#: ``evaluate`` the path of the model, whose hash is compared instead.
MACHINE = (
    *PLACES,
    "seed",
    "target",
    "device",
    "threads",
    "checkpoint",
    "log_every",
    "inference.compile",
    "compile",
    "eval.num_envs",
    "eval.video_steps",
    "search.backend",
    "search.cuda_graph",
    "search.max_bytes",
    "targets.memory_bytes",
    "student",
    "datasets",
    "teachers",
)

#: What runs did before there was a setting for it, beside another setting that they have.
BEFORE = {"search.mask_below_root": (False, "search.algorithm")}

#: What a score depends on beside the agent.
PROTOCOL = ("eval.max_steps", "env.frame_skip", "env.sticky", "env.noop_max", "env.max_frames")


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Example:
        >>> flatten({"seed": 0, "search": {"algorithm": "puct", "temperature": {}}})
        {'seed': 0, 'search.algorithm': 'puct', 'search.temperature': {}}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that a score may depend on beside game and seed: all but those of :data:`MACHINE`.

    Example:
        >>> decisive({"seed": 0, "device": "cpu", "optim": {"lr": 0.1}})
        {'optim.lr': 0.1}
    """
    return {
        name: value
        for name, value in as_it_was(flatten(to_plain(settings))).items()
        if not any(name == place or name.startswith(f"{place}.") for place in MACHINE)
    }


def changed(settings: Mapping[str, Any], planned: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a run has and what was planned for it, by :func:`decisive` setting, where both know it and they differ.

    Example:
        >>> changed({"seed": 1, "optim": {"lr": 0.1}}, {"optim.lr": 0.2, "new": True})
        {'optim.lr': (0.1, 0.2)}
    """
    has = decisive(settings)
    return {
        name: (has[name], value)
        for name, value in planned.items()
        if name in has and _differ(has[name], value)
    }


def differences(*settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted settings that are not the same everywhere, with the value in each; :data:`PLACES` are left out.

    Example:
        >>> differences({"optim": {"lr": 0.1}, "seed": 1}, {"optim": {"lr": 0.2}})
        {'optim.lr': [0.1, 0.2], 'seed': [1, '(absent)']}
    """
    flat = [as_it_was(flatten(to_plain(each))) for each in settings]
    names = dict.fromkeys(name for each in flat for name in each if name not in PLACES)
    rows = {name: [each.get(name, ABSENT) for each in flat] for name in names}
    return {name: values for name, values in rows.items() if any(_differ(values[0], v) for v in values)}


def as_it_was(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings with those that a run of an older version was made by without having them.

    Example:
        >>> as_it_was({"search.algorithm": "puct"})
        {'search.mask_below_root': False, 'search.algorithm': 'puct'}
    """
    return {name: value for name, (value, beside) in BEFORE.items() if beside in flat} | flat


def _differ(one: Any, other: Any) -> bool:
    # In Python True == 1, in a config they are not the same.
    return one != other or isinstance(one, bool) != isinstance(other, bool)


def defaults_of(recipe: str, scale: str) -> dict[str, Any] | None:
    """What a recipe of this version does at a scale if nothing else is asked for; ``None`` if it has no such config.

    Components take arguments and never see a config; a tool that explains the config of a run has to.
    """
    folder = Path(xtra_rl.__file__).parent / "configs"
    own, files = folder / f"{recipe}.yaml", []
    if not own.is_file():
        return None
    # In the order of the recipe's own list: the last one wins.
    for entry in _load(own).get("defaults", []):
        if entry in ("base", "_self_"):
            files.append(own if entry == "_self_" else folder / "base.yaml")
        elif isinstance(entry, dict):
            groups = [group for group in ("scale", "curl_scale") if group in entry]
            files += [file for group in groups for file in _scale_files(folder / group, scale)]
    if not all(file.is_file() for file in files):
        return None
    settings: dict[str, Any] = {}
    for file in files:
        settings = _merge(settings, _load(file))
    for name in ("defaults", "hydra"):
        settings.pop(name, None)
    return settings


@cache
def _load(file: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def variant_of(config: Mapping[str, Any]) -> str | None:
    """What was switched off or kept back in a run, in the words of its default name; ``None`` for the whole method.

    Example:
        >>> variant_of({"pretrained": True, "cross_task": False, "freeze": ["representation"], "transfer": []})
        'no_cross_task freeze_representation transfer_nothing'
    """
    parts = [
        f"no_{flag}" for flag in ("pretrained", "cross_task", "task_weights") if config.get(flag) is False
    ]
    if (rule := config.get("task_weighting", "cosine")) != "cosine":
        parts.append(str(rule))
    freeze, transfer = config.get("freeze"), config.get("transfer")
    if isinstance(freeze, list) and freeze:
        parts.append("freeze_" + "_".join(map(str, freeze)))
    if isinstance(transfer, list) and len(transfer) < 4:
        parts.append("transfer_" + ("_".join(map(str, transfer)) or "nothing"))
    return " ".join(parts) or None


def yaml_text(value: Any) -> str:
    """A setting as it is written on a command line.

    Example:
        >>> yaml_text(["greedy", "sampled"]), yaml_text(None), yaml_text(True), yaml_text(0.0001)
        ('[greedy,sampled]', 'null', 'true', '0.0001')
    """
    if isinstance(value, list):
        return f"[{','.join(map(yaml_text, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


def _scale_files(folder: Path, scale: str) -> list[Path]:
    """A scale's file behind those of the scales that it builds on."""
    file = folder / f"{scale}.yaml"
    below = [name for name in _load(file).get("defaults", []) if name != "_self_"] if file.is_file() else []
    return [*(path for name in below for path in _scale_files(folder, name)), file]
