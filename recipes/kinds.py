"""Settings of the wrong kind, found before any work: a text in place of a switch would be true, whatever it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xtra_rl.recipes.overrides import keys_of

#: Whole in the configs, and fractions as well.
_NUMBERS = {"watchdog.max_loss", "workers.gpus", "curl.value_limit", "search.pb_c_base"}

#: Numbers that may be null.
_OR_NULL = {"targets.age_interval", "watchdog.max_loss", "optim.decay_steps"}

#: What null stands for.
_UNLESS_NULL: dict[str, Any] = {
    "threads": 1,
    "cross_tasks": [""],
    "search.max_bytes": 1,
    "early_stop.score": 1.0,
    "early_stop.patience": 1,
    "checkpoint.keep_every": 1,
}

#: Of several kinds, checked where they are used.
_FREE = {"logger", "plugins", "seeds", "targets", "checkpoint", "task_set"}

_ABSENT = object()


def check_kinds(recipe: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that is of another kind than its value in the recipe's config.

    Args:
        recipe: its name.
        settings: all of them, nested.

    Raises:
        ValueError: naming the first one, what it is and what was expected.
    """
    for key, usual in _leaves(keys_of(recipe)):
        value: Any = settings
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is _ABSENT:
            continue  # In some recipes ``checkpoint`` is the path of a model.
        usual = _UNLESS_NULL.get(key) if usual is None and value is not None else usual
        if key in _FREE or usual is None or (value is None and key in _OR_NULL):
            continue
        number = 1.0 if key in _NUMBERS else usual
        expected = _wrong(value, number) or _wrong_item(value, number)
        if expected:
            raise ValueError(f"{key} is {_shown(value)}; expected {expected.format(key=key, value=value)}")


def _leaves(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in keys.items():
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _wrong(value: Any, usual: Any) -> str | None:
    """What was expected in place of a value, if it is of another kind than the usual one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(usual, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(usual, int):
        if isinstance(value, float) and value.is_integer():
            return f"a whole number, {value:.0f}"
        return None if number and isinstance(value, int) else "a whole number"
    if isinstance(usual, float):
        return None if number else "a number"
    if isinstance(usual, list) and not isinstance(value, list):
        return "a list, {key}=[{value}]" if isinstance(value, str) else "a list"
    if isinstance(usual, Mapping):  # A schedule.
        ok = isinstance(value, Mapping) and all(_wrong(each, 1.0) is None for each in value.values())
        return None if ok else "numbers by step, such as {{0: 1.0}}"
    return None


def _wrong_item(value: Any, usual: Any) -> str | None:
    if isinstance(usual, list) and usual and isinstance(usual[0], int | float):
        return "a list of numbers" if any(_wrong(each, 1.0) for each in value) else None
    return None


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
