"""The runs that lie in results/ are whole, as their own reader sees them, and say nothing of the machine."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import pytest

from xtra_rl.runs.record import read_run

RESULTS = Path(__file__).parents[2] / "results"
ARCHIVES = sorted(RESULTS.glob("**/runs.tar.xz"))


def test_there_are_published_runs():
    assert ARCHIVES


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_published_runs_are_whole_and_as_their_table_says(archive, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    with (archive.parent / "runs.csv").open(newline="") as file:
        table = {
            (row["study"], row["system"], f"{row['target']}-s{row['seed']}"): row
            for row in csv.DictReader(file)
        }
    folders = tmp_path.glob("studies/*/runs/*/*")
    runs = {(path.parts[-4], path.parts[-2], path.name): path for path in folders}
    assert runs.keys() == table.keys()
    for name, folder in runs.items():
        assert read_run(folder).status == table[name]["status"] != "broken", name
        assert "/tmp/" not in (folder / "config.yaml").read_text() + (folder / "manifest.json").read_text()
