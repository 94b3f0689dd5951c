"""One page about many runs: tables and figures of the paper redrawn, with intervals over seeds, and what is missing.

Reads the studies that recipes/study.py wrote, and run directories of any recipe; changes nothing in them. What
recipes/diagnose.py found in some models gets a table and its pictures. Needs: a minute of one CPU core. Commands:

    python recipes/report.py runs
    python recipes/report.py studies/table1 studies/table2 --out report --title "XTRA, five seeds"
    python recipes/report.py runs --mode sampled --last 5 --no-videos

The page (index.html) is self-contained: it opens without a network and can be sent by mail. Beside it lie figures/*.png
and tables/*.csv with every number.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from xtra_rl.command_line import ArgumentParser
from xtra_rl.report.collect import collect
from xtra_rl.report.diagnoses import find_diagnoses
from xtra_rl.report.page import write_report
from xtra_rl.runs.tables import size_text


def parser() -> ArgumentParser:
    """The arguments."""
    arguments = ArgumentParser(
        prog="python recipes/report.py",
        description="Write one self-contained HTML page about studies and runs, with its pictures and tables as files.",
        epilog="exit status: 0; 2 for a wrong argument. Runs that are missing, broken, unfinished, of another version"
        " or of other settings than their cell are named in the page and in no average.",
    )
    arguments.add_argument(
        "runs", nargs="+", metavar="RUNS", help="study folders, run directories, or folders above them"
    )
    arguments.add_argument(
        "--out",
        default="report",
        metavar="DIR",
        help="a new folder, or one of an earlier report (default: report)",
    )
    arguments.add_argument("--title", default="Cross-task transfer: results", help="of the page")
    arguments.add_argument(
        "--mode",
        choices=("greedy", "sampled"),
        default="greedy",
        help="evaluation that counts (default: greedy)",
    )
    arguments.add_argument(
        "--last",
        type=int,
        default=1,
        metavar="N",
        help="evaluations at the end of a run that its score averages (default: 1, as in the paper)",
    )
    arguments.add_argument(
        "--max-video-mb",
        type=float,
        default=20.0,
        metavar="MB",
        help="of all videos in the page (default: 20)",
    )
    arguments.add_argument("--no-videos", action="store_true", help="leave videos out")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Write a report; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    try:
        groups = collect(arguments.runs, mode=arguments.mode, last=arguments.last)
        diagnoses = find_diagnoses(arguments.runs)
        page = write_report(
            groups,
            arguments.out,
            title=arguments.title,
            diagnoses=diagnoses,
            max_video_bytes=0 if arguments.no_videos else int(1e6 * arguments.max_video_mb),
            command=shlex.join(["python", "recipes/report.py", *words]),
            on_part=lambda part: print(f"writing {part}", flush=True),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for group in groups:
        count, left_out = len(group.counted()), sum(finding.runs for finding in group.findings)
        print(f"{group.study.title}: {count} runs count, {left_out} are left out")
        for finding in group.findings:
            print(f"  {finding.kind}: {': '.join(filter(None, (finding.where, finding.text)))}")
    if diagnoses:
        print(f"diagnosed models: {len(diagnoses)}")
    print(f"\npage      {page} ({size_text(page.stat().st_size)})")
    for folder in ("figures", "tables"):
        print(f"{folder:<9} {page.parent / folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
