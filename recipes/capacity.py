"""The capacity plan: hours, memory and disk of the paper's whole matrix on some numbers of GPUs, from a calibration.

Prints its tables as Markdown and writes them with a picture of what limits the speed as ranks, actors and tasks grow.
The formulas are in docs/capacity.md. Needs: minutes of one CPU core, most of them to compose the settings of all runs.
Commands:

    python recipes/capacity.py results/capacity/h100.json --out results/capacity/h100
    python recipes/capacity.py results/capacity/h100.json --gpus 4 16 --seeds 3 --experiments table1 table2
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from xtra_rl.command_line import ArgumentParser
from xtra_rl.evaluation.scaling_figure import draw_scaling
from xtra_rl.files import read_json
from xtra_rl.recipes import capacity_matrix, capacity_scaling
from xtra_rl.recipes.costs import CONFIGS, compose_run
from xtra_rl.studies.capacity import read_cases
from xtra_rl.studies.schedule import longest_chain, makespan

#: Experiments of the repository's own, which the paper does not have.
_OWN = ("laptop", "laptop_mazes", "laptop_parts", "laptop_variants", "task_weights")


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def parser() -> ArgumentParser:
    """The arguments."""
    arguments = ArgumentParser(
        prog="python recipes/capacity.py",
        description="Hours, memory and disk of many runs on some numbers of GPUs.",
        epilog="exit status: 0; 2 for a wrong argument.",
    )
    arguments.add_argument("calibration", metavar="FILE", help="of recipes/calibrate.py")
    arguments.add_argument("--out", default="capacity", metavar="DIR", help="default: capacity")
    arguments.add_argument("--gpus", type=positive, nargs="+", default=[1, 8, 64], help="default: 1 8 64")
    arguments.add_argument("--seeds", type=positive, default=5, help="of every run (default: 5)")
    # Tables first: figures take most of their runs from them.
    names = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
    names.sort(key=lambda name: not name.startswith("table"))
    paper = [name for name in names if name not in _OWN]
    arguments.add_argument(
        "--experiments", nargs="+", choices=names, default=paper, metavar="NAME", help="default: the paper's"
    )
    arguments.add_argument(
        "--episode-steps",
        type=float,
        metavar="N",
        help="env steps of a game (default: as calibrated, of random play)",
    )
    arguments.add_argument(
        "--bandwidth",
        type=float,
        default=100.0,
        metavar="GB/S",
        help="between GPUs, of averaging gradients; an assumption (default: 100)",
    )
    arguments.add_argument(
        "--compression", type=float, default=32.0, help="of stored frames (default: 32, measured)"
    )
    return arguments


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """A table; numbers with three significant digits."""

    def text(value: object) -> str:
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([text(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a plan; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        content = read_json(arguments.calibration)
        cases = read_cases(content)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {arguments.calibration}: {error}", file=sys.stderr)
        return 2
    steps = arguments.episode_steps or content["episode_steps"]
    jobs = capacity_matrix.jobs_of(arguments.experiments, content["scale"], arguments.seeds, cases, steps)
    tasks, out = [job.task for job in jobs], Path(arguments.out)
    total, chain = sum(task.seconds for task in tasks), longest_chain(tasks)
    gpus = [
        {
            "GPUs": count,
            "days": makespan(tasks, count) / 86400,
            "hours": makespan(tasks, count) / 3600,
            "busy, %": 100 * total / count / makespan(tasks, count),
        }
        for count in arguments.gpus
    ]
    fresh = capacity_matrix.fresh_of(compose_run("xtra_finetune", [f"scale={content['scale']}"]))
    case, bandwidth = capacity_scaling.largest(cases, fresh), 1e9 * arguments.bandwidth
    memory = capacity_matrix.memory_rows(content["scale"], cases, steps, arguments.compression, jobs)
    about = f"{content['machine']}, {content['date']}, torch {content['torch']}, scale={content['scale']}"
    sections = {
        "Work": capacity_matrix.work_rows(jobs),
        "On so many GPUs": gpus,
        "Where the time of a run goes": capacity_matrix.share_rows(cases, content["scale"]),
        "One run on several GPUs": capacity_scaling.rank_rows(case, bandwidth),
        "Memory and disk": memory,
    }
    page = f"# Capacity plan from `{os.path.basename(arguments.calibration)}`\n\n{about}\n"
    page += "".join(f"\n## {name}\n\n{markdown(rows)}\n" for name, rows in sections.items())
    page += f"\n{total / 3600:,.0f} GPU hours; the longest chain of inputs and run takes {chain / 3600:.1f} hours.\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "plan.md").write_text(page)
    print(page)
    curves = capacity_scaling.curves(case, content["num_envs"], bandwidth)
    title = f"{about}; lines: formula, points: simulation, times vary by 20 %"
    picture = draw_scaling(curves, out / "scaling.png", title=title)
    print(f"plan      {out / 'plan.md'}\npicture   {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
