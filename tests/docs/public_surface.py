"""The public names of the library, as ``xtra_rl.PUBLIC_MODULES`` says."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import xtra_rl


def public_objects() -> Iterator[tuple[str, Any]]:
    """Every public name with its path, members of classes left out."""
    for path in xtra_rl.PUBLIC_MODULES:
        module = importlib.import_module(path)
        for name in getattr(module, "__all__", None) or _defined_in(module):
            value = getattr(module, name)
            if not inspect.ismodule(value):
                yield f"{path}.{name}", value


def _defined_in(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and not isinstance(value, TypeVar)
    ]


def public_names() -> Iterator[str]:
    """Paths of public names and of the members of public classes."""
    for path, value in public_objects():
        yield path
        if inspect.isclass(value):
            yield from (f"{path}.{name}" for name in vars(value) if not name.startswith("_"))


def public_callables() -> Iterator[tuple[str, Any]]:
    """Functions, classes and the methods and properties that public classes of the library define themselves."""
    for path, value in public_objects():
        if inspect.isfunction(value) or inspect.isclass(value):
            yield path, value
        if inspect.isclass(value):
            for name, member in vars(value).items():
                function = _function_of(member)
                if function is not None and not name.startswith("_") and _is_ours(function):
                    yield f"{path}.{name}", function


def _function_of(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return (
        inspect.unwrap(getattr(member, "__func__", member))
        if callable(getattr(member, "__func__", member))
        else None
    )


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("xtra_rl") and inspect.isfunction(function)
