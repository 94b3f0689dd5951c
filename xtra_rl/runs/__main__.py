"""Command line of the runs: ``python -m xtra_rl.runs --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from xtra_rl.command_line import ArgumentParser

EXIT_STATUS = "exit status: 0; 1 if a run is broken; 2 for a wrong argument"


def parser() -> ArgumentParser:
    """The commands and their arguments."""
    top = ArgumentParser(
        prog="python -m xtra_rl.runs", description="Find, show, compare and export runs.", epilog=EXIT_STATUS
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, description: str) -> ArgumentParser:
        return commands.add_parser(name, help=help, description=description, epilog=EXIT_STATUS)

    found = add(
        "list",
        "a table of all runs below some folders",
        "Find runs; say how far they are and what they score.",
    )
    found.add_argument(
        "dir", nargs="*", default=["runs"], metavar="DIR", help="folders to search (default: runs)"
    )
    shown = add(
        "show", "everything about one run", "Print what made a run, its scores, metrics, speed and files."
    )
    shown.add_argument(
        "run", metavar="RUN", help="a run directory, such as runs/xtra_finetune/alien-quick-s0"
    )
    compared = add(
        "compare", "runs side by side", "Print the settings that differ, scores, steps and speed of runs."
    )
    compared.add_argument("run", nargs="+", metavar="RUN", help="two or more run directories")
    compared.add_argument(
        "--figure", metavar="FILE", help="write a picture with all learning curves (.png, .pdf, .svg)"
    )
    for command in (found, shown, compared):
        command.add_argument("--json", action="store_true", help="print JSON for other programs")
    _describe_export(
        add(
            "export",
            "a model to share, in the layout of the Hugging Face hub",
            "Write README.md, config.json and model.safetensors, for xtra_rl.load_pretrained and the recipes.",
        )
    )
    return top


def _describe_export(command: ArgumentParser) -> None:
    command.add_argument("source", metavar="RUN", help="a finished run directory, or a model directory")
    command.add_argument("target", metavar="DIR", help="a new folder, or one of an earlier export")
    command.add_argument(
        "--name", metavar="OWNER/NAME", help="of the model on the hub (default: the folder's)"
    )
    command.add_argument(
        "--license", default="other", metavar="ID", help="of the hub, such as mit (default: other)"
    )
    command.add_argument(
        "--model", metavar="FOLDER", help="another model of the run, such as models/step-2000"
    )
    command.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of recipes/evaluate.py with the same model",
    )


def run_list(arguments: argparse.Namespace) -> int:
    """``list``: a line for each run."""
    from xtra_rl.runs.record import find_runs, read_run
    from xtra_rl.runs.tables import facts, list_table

    runs = [read_run(path) for path in find_runs(arguments.dir)]
    if arguments.json:
        _print_json([facts(run) for run in runs])
    else:
        print(list_table(runs) if runs else f"no run directories below {', '.join(arguments.dir)}")
    return int(any(run.problem for run in runs))


def run_show(arguments: argparse.Namespace) -> int:
    """``show``: all about one run."""
    from xtra_rl.runs.record import read_run
    from xtra_rl.runs.tables import details, show_text

    run = read_run(arguments.run)
    if arguments.json:
        _print_json(details(run))
    else:
        print(show_text(run))
    return int(run.problem is not None)


def run_compare(arguments: argparse.Namespace) -> int:
    """``compare``: runs side by side."""
    from xtra_rl.runs.compare import comparison, comparison_text, draw_comparison
    from xtra_rl.runs.record import read_run

    runs = [read_run(path) for path in arguments.run]
    compared = comparison(runs)
    picture = draw_comparison(runs, arguments.figure) if arguments.figure else None
    if arguments.json:
        _print_json(compared | {"figure": picture})
    else:
        print(comparison_text(compared) + (f"\n\npicture  {picture}" if picture else ""))
    return int(any(run.problem for run in runs))


def run_export(arguments: argparse.Namespace) -> int:
    """``export``: a model to share."""
    from xtra_rl.runs.export import export_model

    folder = export_model(
        arguments.source,
        arguments.target,
        name=arguments.name,
        license=arguments.license,
        model=arguments.model,
        evaluations=arguments.evaluation,
    )
    print("\n".join(f"{file.stat().st_size:>12,} bytes  {file}" for file in sorted(folder.iterdir())))
    if arguments.license == "other":
        print(f"Choose a licence at the top of {folder / 'README.md'} before you publish, or pass --license.")
    return 0


def _print_json(value: Any) -> None:
    from xtra_rl.files import to_plain

    print(json.dumps(to_plain(value), indent=2, allow_nan=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = parser().parse_args(argv)
    commands = {"list": run_list, "show": run_show, "compare": run_compare, "export": run_export}
    try:
        status = commands[arguments.command](arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # `| head` has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
