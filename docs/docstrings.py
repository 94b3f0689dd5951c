"""Docstrings as the site needs them: Sphinx's roles become links, formulas become pictures.

Docstrings follow Sphinx, which editors and PyTorch's users know; mkdocstrings reads Markdown.
"""

from __future__ import annotations

import base64
import html
import io
import re
from textwrap import dedent
from typing import Any

import griffe
from matplotlib import mathtext, rc_context

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(~?)([\w.]+)`")
INLINE_MATH = re.compile(r":math:`([^`]+)`")
MATH = re.compile(r"^( *)\.\. math::\s+(.+(?:\n(?:\1 +\S.*))*)", re.M)
#: mkdocstrings would take a single example for a remark.
EXAMPLE = re.compile(r"^( *)Example:$", re.M)


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package as it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._visit(pkg)

    def _visit(self, item: griffe.Object) -> None:
        if item.docstring:
            text = MATH.sub(lambda found: found[1] + picture(found[2]) + "\n", item.docstring.value)
            text = EXAMPLE.sub(r"\1Examples:", text)
            text = INLINE_MATH.sub(lambda found: picture(found[1]), text)
            item.docstring.value = ROLE.sub(lambda found: link(found[2], item, short=bool(found[1])), text)
        for member in item.members.values():
            if not member.is_alias:
                self._visit(member)


def link(name: str, item: griffe.Object, *, short: bool) -> str:
    """A link to ``name``; a name of this package must be on the site, or ``mkdocs build --strict`` fails."""
    shown = name.rpartition(".")[2] if short else name
    path = path_of(name, item)
    optional = "" if path.startswith("xtra_rl.") else " optional"
    return f'<autoref{optional} identifier="{path}"><code>{shown}</code></autoref>'


def path_of(name: str, item: griffe.Object) -> str:
    """Full path of a name as the docstring of ``item`` uses it: of its class, of its module, or full already."""
    if name.startswith("xtra_rl."):
        return name
    scope: griffe.Object | None = item
    first, _, rest = name.partition(".")
    while scope is not None:
        if first in scope.members:
            return ".".join(filter(None, (scope.members[first].canonical_path, rest)))
        scope = scope.parent
    return name


def picture(formula: str) -> str:
    """An inline SVG of a formula in LaTeX."""
    formula = " ".join(dedent(formula).split())
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "xtra_rl", "mathtext.fontset": "cm"}):
        mathtext.math_to_image(f"${known(formula)}$", buffer, dpi=100, format="svg")
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="formula" alt="{html.escape(formula)}" src="data:image/svg+xml;base64,{source}">'


def known(formula: str) -> str:
    """The formula in the words that matplotlib knows."""
    formula = re.sub(
        r"\\text\{([^}]*)\}", lambda found: r"\mathrm{" + found[1].replace(" ", r"\ ") + "}", formula
    )
    for word, other in (
        (r"\lVert", r"\Vert"),
        (r"\rVert", r"\Vert"),
        (r"\qquad", r"\quad\quad"),
        (r"\tfrac", r"\frac"),
        (r"\Big", r"\,"),
    ):
        formula = formula.replace(word, other)
    return formula
