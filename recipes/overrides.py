"""Overrides of the command line, checked before Hydra sees them: what is misspelt is answered with the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

#: ``key=value`` as people write it; Hydra's own keys and its signs for adding and deleting keys are left to it.
_OVERRIDE = re.compile(r"(?!hydra[./])([A-Za-z_][\w./]*)=(.*)")


def check_overrides(recipe: str, arguments: Sequence[str]) -> None:
    """Refuse a key or an option of a group that the recipe does not have.

    Raises:
        ValueError: naming the argument and the nearest key or option.
    """
    keys, groups, used = keys_of(recipe), groups_of(), _groups_of_recipe(recipe)
    for place, argument in enumerate(arguments):
        found = _OVERRIDE.match(argument)
        if found is None:
            if argument.startswith("--") and argument[2:].partition("=")[0] in (*keys, *groups):
                raise ValueError(
                    f"{argument}: keys have no dashes; write {argument[2:].partition('=')[0]}=VALUE"
                )
            after_flag = place > 0 and arguments[place - 1].startswith("-")
            if re.fullmatch(r"\w+", argument) and not after_flag:
                raise ValueError(f"{argument} is no KEY=VALUE{_meant(_options_named(argument, groups))}")
            continue
        key, value = found.groups()
        if key in groups:
            if used and key not in used:
                raise ValueError(f"{argument}: {recipe} has no {key}; --help lists what it has")
            _check_option(key, value, groups[key])
            continue
        unknown = _unknown_part(key, keys)
        if unknown is not None:
            path, siblings = unknown
            near = _near(path, [*siblings, *groups] if "." not in path else siblings)
            raise ValueError(f"{argument}: unknown key {path}{_meant(near or _with_leaf(path, keys))}")
        _check_schedule(key, value, keys)
        if isinstance(keys.get(key), dict) and not value.startswith(("{", "$")):
            near = _near(key, [name for name in keys if not isinstance(keys[name], dict)])
            raise ValueError(f"{argument}: {key} is a section, with keys of its own{_meant(near)}")


def keys_of(recipe: str) -> dict[str, Any]:
    """The nested keys of a recipe's config, as its files have them; those of all recipes, if it has no file."""
    file = CONFIGS / f"{recipe}.yaml"
    own = yaml.safe_load(file.read_text()) if file.is_file() else {}
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    for name in ("defaults", "hydra"):
        own.pop(name, None)
    return _merge(base, own)


def groups_of() -> dict[str, list[str]]:
    """The options of each config group."""
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "__pycache__")
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def _groups_of_recipe(recipe: str) -> set[str]:
    file = CONFIGS / f"{recipe}.yaml"
    defaults = yaml.safe_load(file.read_text()).get("defaults", []) if file.is_file() else []
    return {name for entry in defaults if isinstance(entry, dict) for name in entry}


def _merge(base: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = _merge(base[key], value) if both else value
    return base


def _check_option(group: str, value: str, options: list[str]) -> None:
    for option in value.split(","):  # Several for a sweep.
        if option not in (*options, "auto"):
            near = f"; did you mean {_near(option, options)[0]}?" if _near(option, options) else ""
            if group == "experiment" and (home := _experiment_with(option)):
                near = f"; {option} is redrawn by experiment={home}"
            if group == "experiment" and option == "figure10":
                near = "; recipes/compare_offline.py is about figure10"
            raise ValueError(f"{group}={option}: {group} is one of {', '.join(options)}{near}")


def _check_schedule(key: str, value: str, keys: Mapping[str, Any]) -> None:
    """Refuse a schedule, whose keys are steps, that Hydra would merge into the config's."""
    here: Any = keys
    for part in key.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    schedule = isinstance(here, Mapping) and here and not any(isinstance(name, str) for name in here)
    if schedule and value.startswith("{") and value != "{}":
        raise ValueError(
            f"{key}={value} would be merged into {here}; to replace that, pass '~{key}' '+{key}={value}'"
        )


def _experiment_with(part: str) -> str | None:
    """The experiment whose report has a table or figure of the paper that is none of its own, such as ``table3``."""
    files = sorted((CONFIGS / "experiment").glob("*.yaml"))
    # The paper's own before those that take their runs at a smaller scale.
    for file in sorted(files, key=lambda file: not file.stem.startswith(("table", "figure"))):
        content = yaml.safe_load(file.read_text())
        if part in (*content["tables"], *content["figures"]):
            return file.stem
    return None


def _unknown_part(key: str, keys: Mapping[Any, Any]) -> tuple[str, list[str]] | None:
    """The path of a key up to its first unknown part, and the names that this level has; None for a known key."""
    parts, level, walked = key.split("."), keys, ""
    for part in parts:
        if not all(isinstance(name, str) for name in level):
            return None  # A schedule, whose keys are steps.
        path = f"{walked}{part}"
        if part not in level:
            return path, [f"{walked}{name}" for name in level]
        level, walked = level[part], f"{path}."
        if not isinstance(level, Mapping):
            level = {}
    return None


def _near(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)[:1]


def _with_leaf(path: str, keys: Mapping[str, Any]) -> list[str]:
    """Keys of any section whose last part is that of ``path``, or the nearest one."""
    leaves = {
        f"{section}.{leaf}": leaf for section, part in keys.items() if isinstance(part, dict) for leaf in part
    }
    wanted = path.rpartition(".")[2]
    near = difflib.get_close_matches(wanted, {str(leaf) for leaf in leaves.values()}, n=1, cutoff=0.8)
    return [full for full, leaf in leaves.items() if leaf in near]


def _options_named(word: str, groups: Mapping[str, list[str]]) -> list[str]:
    """What an argument without ``=`` may have meant, a scale first."""
    return [f"{group}={word}" for group in ("scale", *groups) if word in groups[group]][:1]


def _meant(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else "; --help lists all keys"
