"""Public names have docstrings that say what types cannot: shapes, errors, units and sources."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from functools import cache

import pytest
from pages import ROOT
from public_surface import public_callables, public_objects

import xtra_rl

#: Codes of pydoclint: broken section, arguments that are not those of the signature, errors that are not documented.
BROKEN, ARGUMENTS, RAISES = {"DOC001"}, {"DOC101", "DOC102", "DOC103"}, {"DOC501"}
SHAPE = re.compile(r"``[^`]*\[[^\]]*\][^`]*``")
MODULES = xtra_rl.PUBLIC_MODULES
#: The shapes are said there.
REFERS = re.compile(r"\b(?:as|see|like|restore|invert)\b[^.]*(?::\w+:`|there)", re.I)
SOURCE = re.compile(r"README|arXiv|et al\.|section \d|appendix|equation|eq\. |Table \d|algorithm \d", re.I)
ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`~?([\w.]+)`")
#: What a documented argument of this name must say in words, unless it refers to another place.
UNITS = {
    "discount": "step|\\bas\\b",
    "max_steps": "step",
    "max_frames": "frame",
    "env_steps": "step",
    "train_steps": "step",
    "warmup_steps": "step",
    "interval": "step",
    "max_bytes": "byte|memory",
    "every": "second|step",
    "budget": "second|wall",
    "fps": "second",
    "shift": "pixel",
    "pad": "pixel",
    "image_size": "pixel",
}


def documented(value):
    """A name's own docstring."""
    return inspect.cleandoc(value.__doc__ or "")


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there_and_in_the_reference(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    names = [path for path, _ in public_objects() if path.rpartition(".")[0] == module]
    assert module == "xtra_rl" or names
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    shown = [module] if module != "xtra_rl" else names
    assert all(re.search(rf"^::: {re.escape(name)}$", pages, re.M) for name in shown)


def test_every_package_of_the_library_is_an_attribute_and_has_public_modules():
    for name in xtra_rl.__all__:
        value = getattr(xtra_rl, name)
        if inspect.ismodule(value):
            assert any(f"{path}.".startswith(f"xtra_rl.{name}.") for path in xtra_rl.PUBLIC_MODULES)


def test_every_public_callable_has_a_docstring():
    missing = [path for path, value in public_callables() if not documented(value)]
    assert not missing, "\n".join(missing)


def test_functions_of_tensors_say_shapes():
    missing = []
    for path, value in public_callables():
        hints = {name: str(hint) for name, hint in getattr(value, "__annotations__", {}).items()}
        # Numbers that may come as tensors, and states that are only saved and restored, have none.
        tensors = [
            hint for name, hint in hints.items() if re.match(r"(?:tuple\[)?(?:Tensor|np\.ndarray)\b", hint)
        ]
        text = documented(value)
        said = SHAPE.search(text) or REFERS.search(text) or "rng_state" in path
        if inspect.isfunction(value) and tensors and not said:
            missing.append(path)
    assert not missing, "\n".join(map(str, missing))


def test_formulas_have_a_source():
    missing = []
    for path, value in public_callables():
        module = sys.modules[value.__module__].__doc__ or ""
        if ".. math::" in documented(value) and not SOURCE.search(documented(value) + module):
            missing.append(path)
    assert not missing, "\n".join(map(str, missing))


def test_documented_arguments_say_their_unit():
    missing = []
    for path, value in public_callables():
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", documented(value), re.M)
        for name, text in entries:
            unit = UNITS.get(name)
            if unit and not re.search(rf"{unit}|\bsee\b|there", text):
                missing.append(f"{path}({name}): {text}")
    assert not missing, "\n".join(map(str, missing))


def test_roles_lead_to_names_that_a_reader_can_look_up():
    """Names of the reference, or of other libraries: a link to a private name would be a dead end."""
    documented_ones = [*public_callables(), *((path, importlib.import_module(path)) for path in MODULES)]
    broken = []
    for path, value in documented_ones:
        for name in ROLE.findall(value.__doc__ or ""):
            found = _find(name, value)
            if found is None or not _is_public(*found):
                broken.append(f"{path}: {name} {'is private' if found else 'does not exist'}")
    assert not broken, "\n".join(map(str, broken))


def _find(name, value):
    """Owner and object of a docstring's name: one of its class, of its module, or a full path."""
    if inspect.ismodule(value):
        scopes = [value]
    else:
        scopes = [sys.modules[value.__module__]]
        owner = value.__qualname__.rpartition(".")[0] if inspect.isfunction(value) else value.__qualname__
        if owner:
            scopes.append(getattr(scopes[0], owner, None))
    for scope in scopes:
        if found := _reach(scope, name.split(".")):
            return found
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return _reach(module, parts[length:])
    return None


def _reach(scope, names):
    owner = None
    for name in names:
        owner, scope = scope, getattr(scope, name, None)
    return None if scope is None else (owner, scope)


def _is_public(owner, found):
    ours = [value for _, value in public_objects()]
    module = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", owner.__name__)
    if not module.startswith("xtra_rl"):
        return True
    if inspect.ismodule(found):
        return module in MODULES
    if any(found is value or owner is value for value in ours):
        return True
    # A constant of a module that lists no names.
    return not callable(found) and getattr(owner, "__name__", "") in MODULES and not hasattr(owner, "__all__")


def test_signatures_speak_of_types_that_a_reader_can_look_up():
    public = {id(value) for _, value in public_objects()}
    private = []
    for path, value in public_callables():
        function = value.__init__ if inspect.isclass(value) else value
        for name, hint in getattr(function, "__annotations__", {}).items():
            # An underscore says that nobody is to pass or use it.
            for word in re.findall(r"\b[a-zA-Z]\w*", str(hint)):
                found = getattr(sys.modules[value.__module__], word, None)
                ours = inspect.isclass(found) and found.__module__.startswith("xtra_rl")
                if ours and id(found) not in public:
                    private.append(f"{path}({name}: {word})")
    assert not private, "\n".join(private)


#: Four arguments are more than a sentence can explain.
MANY_ARGUMENTS = 4


def test_functions_of_many_arguments_explain_each():
    missing = []
    for path, value in public_callables():
        # Where nothing is done with the arguments, nothing is to be said of them.
        if documented(value) == "Nothing." or (inspect.isclass(value) and _is_a_record(value)):
            continue
        names = [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]
        if len(names) >= MANY_ARGUMENTS and "Args:" not in documented(value):
            missing.append(f"{path}({', '.join(names)})")
    assert not missing, "\n".join(missing)


def _is_a_record(value):
    """A class whose fields are explained where they stand, or as attributes; what the user does not call."""
    uncalled = getattr(value, "_is_protocol", False) or issubclass(value, Exception)
    if uncalled or "Attributes:" in documented(value):
        return True
    if not dataclasses.is_dataclass(value):
        return issubclass(value, tuple)
    strings = [
        node for node in ast.parse(inspect.getsource(value)).body[0].body if isinstance(node, ast.Expr)
    ]
    return len(strings) > len(dataclasses.fields(value))


@cache
def complaints():
    """What pydoclint says of public functions, as (code, file, name)."""
    options = ["--style=google", "--arg-type-hints-in-docstring=False", "--check-return-types=False"]
    options += ["--check-yield-types=False", "--skip-checking-short-docstrings=False"]
    options += ["--check-class-attributes=False", "--allow-init-docstring=True", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pydoclint.main", *options, "xtra_rl"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found, file = [], ""
    for line in (done.stdout + done.stderr).splitlines():
        if line.endswith(".py"):
            file = line.strip()
        elif match := re.match(r"\s+\d+: (DOC\d+): \S+ `([\w.]+)`", line):
            found.append((match[1], file, match[2]))
    assert "No violations" in done.stdout + done.stderr or found
    return [
        entry
        for entry in found
        if not any(part.startswith("_") and part != "__init__" for part in entry[2].split("."))
        and not re.match(r"xtra_rl/(recipes|kernels|configs)/|.*/__main__\.py", entry[1])
    ]


def docstring_of(file, name):
    """The docstring that documents a function; that of its class for ``__init__``."""
    node = ast.parse((ROOT / file).read_text())
    for part in name.removesuffix(".__init__").split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    return ast.get_docstring(node) or ""


pydoclint = pytest.mark.skipif(
    importlib.util.find_spec("pydoclint") is None, reason="needs pydoclint, extra dev"
)


@pydoclint
def test_sections_of_docstrings_are_well_formed():
    found = [entry for entry in complaints() if entry[0] in BROKEN]
    assert not found, "\n".join(map(str, found))


@pydoclint
def test_listed_arguments_are_those_of_the_signature():
    found = []
    for code, file, name in complaints():
        text = docstring_of(file, name)
        # Options of a base class may be documented there.
        if code in ARGUMENTS and "Args:" in text and "options not listed here" not in text:
            found.append((code, file, name))
    assert not found, "\n".join(map(str, found))


@pydoclint
def test_errors_that_are_raised_are_documented():
    found = [entry for entry in complaints() if entry[0] in RAISES]
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs, extra docs")
def test_the_site_builds_without_a_warning_and_shows_every_public_name(tmp_path):
    import zlib

    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        "docs/mkdocs.yml",
        "-d",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    packed = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    shown = {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}
    for path, value in [*public_objects(), *public_callables()]:
        # A name may stand where it is defined, if a module has the same name.
        own = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        assert {path, own} & shown, path
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(https?://[^" >]+)', page.read_text()
        )
        assert loaded == [], page
