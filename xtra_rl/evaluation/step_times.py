"""A picture of where the time of a training step goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtra_rl.evaluation.figures import COLOURS, new_figure, styled

_PHASES = ("act", "sample", "reanalyse", "learn", "priorities")


@styled
def draw_step_times(profiles: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Stacked bars of milliseconds by section, one bar for each phase and profile (``profile.json`` by label).

    Acting is drawn for one env step, the other phases for one update.
    """
    sections = list(dict.fromkeys(row["section"] for found in profiles.values() for row in found["times"]))
    # The networks first and in the strongest colours: what is not theirs is what can be removed.
    sections.sort(key=lambda name: (not name.startswith("network,"), name == "rest", name))
    shades = (*COLOURS[:-1], "#000000", "#666666", "#999999", "#CCCCCC", "#8C564B", "#BCBD22")
    looks = [shades[i % len(shades)] for i in range(len(sections))]
    bars = [(phase, label) for phase in _PHASES for label in profiles]
    figure = new_figure(7.5, 0.9 + 0.42 * len(bars))
    axes = figure.subplots()
    left = [0.0] * len(bars)
    for section, colour in zip(sections, looks, strict=True):
        widths = [_milliseconds(profiles[label], phase, section) for phase, label in bars]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=section, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(f" {total:.1f}", (total, place), va="center", fontsize=8)
    one = len(profiles) == 1
    axes.set_yticks(range(len(bars)), [phase if one else f"{phase}, {label}" for phase, label in bars])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of an update (of an env step: act)")
    axes.set_xlim(0, 1.12 * max(left))
    axes.grid(axis="y", visible=False)
    found = list(profiles.values())[-1]
    axes.set_title(f"scale={found['scale']}, batch {found['batch']}, {found['machine']}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    return path


def _milliseconds(found: Mapping[str, Any], phase: str, section: str) -> float:
    count = found["env_steps"] if phase == "act" else found["updates"]
    times = [row["seconds"] for row in found["times"] if (row["phase"], row["section"]) == (phase, section)]
    return 1e3 * sum(times) / count
