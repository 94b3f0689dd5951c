"""Every public name is shown in use: in a docstring, in a block of a page, or in an example program."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import typing

from pages import NAMES, ROOT, blocks
from public_surface import public_callables, public_objects

import xtra_rl

#: Public names that no example uses yet. The list may only become shorter.
NOT_SHOWN_YET: set[str] = set()


def programs():
    """Source of all that a reader can run: the examples of one docstring, a page or a program are one text."""
    modules = ((path, importlib.import_module(path)) for path in xtra_rl.PUBLIC_MODULES)
    for path, value in (*modules, *public_callables()):
        yield "".join(part.source for part in doctest.DocTestParser().get_examples(value.__doc__ or "", path))
    for page in NAMES:
        yield "\n".join(block.text for block in blocks(page, "python"))
    for program in (ROOT / "recipes" / "examples").glob("*.py"):
        yield program.read_text()


def used_names(program):
    """Names that a program looks up but does not make itself; ``xtra_rl.search.puct_search`` by its last part."""
    nodes = list(ast.walk(ast.parse(program)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    looked_up = {node.id for node in nodes if isinstance(node, ast.Name)} - made
    paths = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    return looked_up | {path.rpartition(".")[2] for path in paths if path.startswith("xtra_rl.")}


def is_a_record(value):
    """A type that holds results, such as a named tuple."""
    return issubclass(value, tuple) or hasattr(value, "__dataclass_fields__")


def returned_by(value, known):
    """Names of ``known`` in what a function returns, or in the fields of a record."""
    if inspect.isclass(value) and is_a_record(value):
        hints = getattr(value, "__annotations__", {}).values()
    else:
        hints = [getattr(value, "__annotations__", {}).get("return", "")]
    return known & set(re.findall(r"\w+", " ".join(map(str, hints))))


def shown_names():
    """Names that examples use, and records that come with them: returned by such a function, or part of one."""
    public = {path.rpartition(".")[2]: value for path, value in public_objects()}
    shown = set().union(*map(used_names, programs())) & set(public)
    records = {name for name, value in public.items() if inspect.isclass(value) and is_a_record(value)}
    waiting = set(shown)
    while waiting:
        value = public[waiting.pop()]
        ours = [cls for cls in getattr(value, "__mro__", ()) if cls.__module__.startswith("xtra_rl")]
        members = [value, *(member for cls in ours for member in vars(cls).values())]
        found = set().union(*(returned_by(getattr(m, "fget", None) or m, records) for m in members)) - shown
        shown |= found
        waiting |= found
    return shown


def needs_an_example(value, shown):
    """Functions and classes do; what is only caught, only implemented, or the base of something shown does not."""
    if not inspect.isclass(value) or typing.is_typeddict(value):
        return inspect.isfunction(value)
    if issubclass(value, Exception) or getattr(value, "_is_protocol", False):
        return False
    return not any(
        other is not value and inspect.isclass(other) and issubclass(other, value) for other in shown
    )


def test_every_public_function_and_class_is_shown_in_use():
    names = shown_names()
    objects = dict(public_objects())
    shown = [value for path, value in objects.items() if path.rpartition(".")[2] in names]
    missing = {
        path
        for path, value in objects.items()
        if path.rpartition(".")[2] not in names and needs_an_example(value, shown)
    }
    assert missing - NOT_SHOWN_YET == set(), "no example uses " + ", ".join(sorted(missing - NOT_SHOWN_YET))
    assert NOT_SHOWN_YET - missing == set(), "take these off the list: they are shown, or not public any more"
