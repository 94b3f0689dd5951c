"""Plain-text tables for the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None) -> str:
    """Aligned plain-text table, one line per row under a header.

    Numbers are aligned to the right and share their decimals within a column (one where the column reaches
    10, three below). ``None`` and NaN are shown as ``-``.

    Args:
        rows: cells by column name.
        columns: order of the columns; default: as they first appear in the rows.

    Example:
        >>> print(format_table([{"task": "assault", "random": 222.4, "score at end": 507.25, "HNS": 0.548}]))
        task     random  score at end    HNS
        -------  ------  ------------  -----
        assault   222.4         507.2  0.548
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return "(no results)"
    cells = {name: [row.get(name) for row in rows] for name in columns}
    texts = {name: _column(values) for name, values in cells.items()}
    widths = [max(len(text) for text in [name, *texts[name]]) for name in columns]
    numeric = [all(isinstance(value, (int, float, type(None))) for value in cells[name]) for name in columns]

    def line(values: Sequence[str]) -> str:
        pairs = zip(values, widths, numeric)
        return "  ".join(v.rjust(width) if right else v.ljust(width) for v, width, right in pairs).rstrip()

    body = [line([texts[name][i] for name in columns]) for i in range(len(rows))]
    return "\n".join([line(columns), line(["-" * width for width in widths]), *body])


def _column(values: Sequence[Any]) -> list[str]:
    magnitudes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    decimals = 1 if magnitudes and max(magnitudes) >= 10 else 3
    return [_cell(value, decimals) for value in values]


def _cell(value: Any, decimals: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
