"""Command line of the datasets: ``python -m xtra_rl.data --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xtra_rl.command_line import ArgumentParser

if TYPE_CHECKING:
    from xtra_rl.data.trajectories import TrajectoryDataset


def parser() -> ArgumentParser:
    """The commands and their arguments."""
    top = ArgumentParser(
        prog="python -m xtra_rl.data",
        description="Look at offline datasets, copy a part of one, import public ones.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser(
        "inspect",
        help="print what datasets hold; check their hashes; draw sample frames",
        description="Print games, episodes, transitions, returns by checkpoint, actions, sizes and provenance.",
    )
    inspect.add_argument(
        "path", metavar="PATH", help="a dataset, or a folder of datasets such as artifacts/datasets"
    )
    inspect.add_argument(
        "--verify", action="store_true", help="compare the sha256 of every file with the manifest's"
    )
    inspect.add_argument(
        "--sheet", metavar="FILE", help="write a picture (PNG) with a row of sample frames per dataset"
    )
    inspect.add_argument("--frames", type=int, default=8, help="pictures in a row of the sheet (default 8)")
    part = commands.add_parser(
        "extract",
        help="copy the first games of every checkpoint into a small dataset, with the teacher's predictions",
        description="Copy games, and every column beside them that is up to date, into a new dataset.",
    )
    part.add_argument("path", metavar="DATASET", help="to copy from")
    part.add_argument("out", metavar="OUT", help="a new folder")
    part.add_argument("--games-per-checkpoint", type=int, default=4, metavar="N", help="default 4")
    dqn = commands.add_parser(
        "import-dqn",
        help="bring DQN Replay logs (arXiv 1907.04543) into the format of this library",
        description="Import checkpoints of DQN Replay: 84x84 grey frames, sticky actions. A killed import continues.",
    )
    dqn.add_argument("game", metavar="GAME", help="such as pong or MsPacman")
    dqn.add_argument("out", metavar="DATASET", help="folder of the dataset, made or continued")
    dqn.add_argument(
        "--source", required=True, metavar="FOLDER", help="where the $store$_*_ckpt.N.gz files are or go"
    )
    dqn.add_argument(
        "--download", action="store_true", help="fetch the chosen checkpoints first (about 1 GB each)"
    )
    dqn.add_argument(
        "--checkpoints", type=int, nargs="+", metavar="N", help="0 to 50; default: all in the folder"
    )
    dqn.add_argument("--run", type=int, default=1, help="which of the five agents to download (default 1)")
    dqn.add_argument(
        "--image-size", type=int, help="resize frames to this height and width (default: keep 84)"
    )
    minari = commands.add_parser(
        "import-minari",
        help="bring an Atari dataset of Minari into the format of this library",
        description="Import a Minari dataset, by id or folder. Its settings are recorded; a killed import continues.",
    )
    minari.add_argument(
        "dataset", metavar="ID|FOLDER", help="such as atari/phoenix/expert-v0, or a folder of one"
    )
    minari.add_argument("game", metavar="GAME", help="such as phoenix")
    minari.add_argument("out", metavar="DATASET", help="folder of our dataset, made or continued")
    minari.add_argument(
        "--download", action="store_true", help="fetch the dataset of that id if it is not here"
    )
    minari.add_argument(
        "--image-size", type=int, help="resize frames to this height and width (default: keep)"
    )
    minari.add_argument("--grayscale", action="store_true", help="turn RGB frames grey")
    minari.add_argument("--max-episodes", type=int, help="take only as many, from the front")
    benchmark = commands.add_parser(
        "benchmark",
        help="measure codecs and window reads on real frames",
        description="Record eight games (96x96 RGB, random play), then compare codecs, stores and memory.",
    )
    benchmark.add_argument(
        "--out", default="results/data", help="folder of the tables (default results/data)"
    )
    benchmark.add_argument("--work", required=True, help="folder for the recorded frames: about 7 GB, kept")
    benchmark.add_argument("--frames", type=int, default=26_000, help="frames per game (default 26000)")
    return top


def run_inspect(arguments: argparse.Namespace) -> int:
    """``inspect``: exit status 0, or 1 if something is damaged."""
    from xtra_rl.data.append_file import DatasetError
    from xtra_rl.data.inspect import describe, find_datasets, frame_sheet, summary_rows
    from xtra_rl.data.trajectories import TrajectoryDataset
    from xtra_rl.evaluation.report import format_table

    datasets, problems = [], []
    for path in find_datasets(arguments.path):
        try:
            datasets.append(TrajectoryDataset(path))
        except DatasetError as error:
            problems.append(str(error))
    print("\n\n".join(describe(dataset) for dataset in datasets))
    if len(datasets) > 1:
        print("\nall datasets\n" + format_table(summary_rows(datasets)))
    if arguments.verify:
        problems += [problem for dataset in datasets for problem in _verify(dataset)]
    if arguments.sheet and datasets:
        print(f"picture {frame_sheet(datasets, arguments.sheet, frames=arguments.frames)}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run_extract(arguments: argparse.Namespace) -> int:
    """``extract``: copies, then shows what came of it."""
    from xtra_rl.data.extract import extract, first_games
    from xtra_rl.data.inspect import describe
    from xtra_rl.data.trajectories import TrajectoryDataset

    dataset = TrajectoryDataset(arguments.path)
    print(describe(extract(dataset, arguments.out, first_games(dataset, arguments.games_per_checkpoint))))
    return 0


def run_import_dqn(arguments: argparse.Namespace) -> int:
    """``import-dqn``: imports, then shows what came of it."""
    from xtra_rl.data.importers import import_dqn_replay
    from xtra_rl.data.inspect import describe

    if arguments.download and not arguments.checkpoints:
        raise ValueError(
            "--download needs --checkpoints, for example --checkpoints 0 25 50; each is about 1 GB"
        )
    dataset = import_dqn_replay(
        "download" if arguments.download else arguments.source,
        arguments.out,
        arguments.game,
        run=arguments.run,
        checkpoints=arguments.checkpoints,
        image_size=arguments.image_size,
        cache=arguments.source,
    )
    print(describe(dataset))
    return 0


def run_import_minari(arguments: argparse.Namespace) -> int:
    """``import-minari``: imports, then shows what came of it."""
    from xtra_rl.data.importers import import_minari
    from xtra_rl.data.inspect import describe

    dataset = import_minari(
        arguments.dataset,
        arguments.out,
        arguments.game,
        image_size=arguments.image_size,
        grayscale=True if arguments.grayscale else None,
        max_episodes=arguments.max_episodes,
        download=arguments.download,
    )
    print(describe(dataset))
    return 0


def run_benchmark(arguments: argparse.Namespace) -> int:
    """``benchmark``: writes codecs.csv, windows.csv and memory.csv, and prints them."""
    from pathlib import Path

    import torch

    from xtra_rl.data import benchmark
    from xtra_rl.evaluation.report import format_table
    from xtra_rl.files import write_csv

    torch.set_num_threads(1)
    work = Path(arguments.work)
    datasets = benchmark.record(work / "datasets", arguments.frames)
    tables = {"memory": [benchmark.memory_of_sampling(datasets, 100)]}
    samples = {dataset.task: dataset.frames.read(0, 1000) for dataset in datasets}
    tables["codecs"] = benchmark.compare_codecs(samples)
    readers = benchmark.WindowReaders(datasets, work / "others")
    tables["windows"] = benchmark.compare_stores(readers, warm_rounds=40, cold_rounds=5)
    for name, rows in tables.items():
        write_csv(Path(arguments.out) / f"{name}.csv", rows)
        print(f"\n{name}\n{format_table(rows)}")
    return 0


def _verify(dataset: TrajectoryDataset) -> list[str]:
    """Check all hashes of a dataset with a progress bar; returns what is wrong."""
    from xtra_rl.data.append_file import DatasetError
    from xtra_rl.training.progress import progress

    with progress(dataset.num_checks, description=f"verify {dataset.task}", unit="file") as bar:
        try:
            dataset.verify(lambda name: bar.update())
        except DatasetError as error:
            return str(error).splitlines()
    print(f"{dataset.path}: every hash is right")
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        commands = {
            "inspect": run_inspect,
            "extract": run_extract,
            "import-dqn": run_import_dqn,
            "import-minari": run_import_minari,
            "benchmark": run_benchmark,
        }
        return commands[arguments.command](arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
