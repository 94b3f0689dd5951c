"""Code of the user's that a recipe loads first, for example games that it registers as tasks."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def load_plugins(names: Sequence[str]) -> list[ModuleType]:
    """Import modules by name, from the working directory or where Python finds them, or by the path of their file.

    A module is loaded once; one that was given by its path is known by its file's name from then on.

    Raises:
        ValueError: if there is no such module or file; what a module itself raises is left as it is.
    """
    if isinstance(names, str):
        raise ValueError(f"plugins={names!r} is a string; pass a list, e.g. plugins=[{names}]")
    return [_load_file(Path(name)) if name.endswith(".py") else _load_module(name) for name in names]


def plugin_files(names: Sequence[str]) -> dict[str, Path]:
    """The file of each plugin: a run goes on with the code that it was started with."""
    modules = zip(names, load_plugins(names), strict=True)
    return {name: Path(module.__file__) for name, module in modules if module.__file__ is not None}


def _load_module(name: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ValueError(
            f"plugins names the module {name!r}, which Python does not find; a file needs its .py"
        )
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"plugins names {str(path)!r}, which does not exist here ({Path.cwd()})")
    if (known := sys.modules.get(path.stem)) is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return known
        raise ValueError(
            f"plugins names {str(path)!r}, but a module {path.stem!r} is loaded already; rename the file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of any file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
