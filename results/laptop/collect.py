"""Every game, the task weights, and what each run was: small CSV files out of the runs of a study.

    python results/laptop/collect.py STUDIES results/laptop [--cut FOLDER/]

STUDIES holds the study folders (``table1-laptop/runs/<system>/<target>-s<seed>``). Writes ``games.csv`` (every game of
every evaluation), ``task_weights.csv`` (a row whenever one changed), ``runs.csv`` (a row a run: commit, hours, means,
command) and ``datasets.csv`` (every game that cross tasks were learnt from). Unfinished runs are in it, too, and named
so. ``runs.tar.xz`` holds plans and runs without weights and pictures, as far as ``recipes/report.py`` and
``recipes/study.py`` read them; ``--cut`` leaves a folder of the machine out of paths in settings and commands, and
writes the hash of the settings anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from xtra_rl.data import TrajectoryDataset
from xtra_rl.files import config_sha256, write_csv
from xtra_rl.runs.record import Run, read_run
from xtra_rl.training.checkpoint import load_checkpoint


def games(run: Run) -> Iterator[dict[str, Any]]:
    """Games of all evaluations; runs of before there was an ``evaluations.csv`` have them in checkpoint and summary."""
    path = run.path / "evaluations.csv"
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                del row["task"]
                yield row
        return
    kept = load_checkpoint(run.path / "checkpoints")
    history = kept.states["suite"]["history"] if kept is not None else []
    for env_step, results in history:
        for mode, (returns, lengths, truncated) in results.items():
            for number, (score, length, cut) in enumerate(zip(returns, lengths, truncated, strict=True)):
                row = {"env_step": env_step, "mode": mode, "episode": number, "return": score}
                yield row | {"length": length, "truncated": bool(cut)}
    if run.summary and (not history or history[-1][0] != run.summary["env_steps"]):
        for mode, returns in run.summary["eval/returns"].items():
            for number, score in enumerate(returns):
                row = {"env_step": run.summary["env_steps"], "mode": mode, "episode": number, "return": score}
                yield row | {"length": "", "truncated": ""}


def weights(run: Run) -> Iterator[dict[str, Any]]:
    """Task weights and mean cosines where they change."""
    for name, series in sorted(run.metrics.items()):
        kind, _, task = name.partition("/")
        if kind not in ("task_weight", "grad_cos"):
            continue
        before = None
        for env_step, train_step, value in zip(series.env_step, series.train_step, series.value, strict=True):
            if value != before:
                row = {"env_step": int(env_step), "train_step": int(train_step), "task": task}
                yield row | {"measure": kind, "value": round(float(value), 5)}
            before = value


def about(run: Run, cut: str) -> dict[str, Any]:
    """What the run was."""
    manifest, summary = run.manifest, run.summary
    row = {"status": run.status, "env_steps": run.steps()[0], "train_steps": run.steps()[1]}
    for mode in ("greedy", "sampled"):
        series = run.evaluations(mode)
        row[f"last_{mode}"] = "" if series is None else round(float(series.value[-1]), 2)
    row |= {name: round(score, 2) for name, score in (summary.get("baselines") or {}).items()}
    row["hours"] = round(summary["wall_seconds"] / 3600, 3) if summary else ""
    row["commit"] = (manifest.get("git_commit") or "")[:12]
    skipped = ("run_dir=", "artifacts=")  # places on the machine
    words = [Path(word).name if word.endswith(".py") else word for word in manifest.get("command_line", [])]
    row["command"] = " ".join(word.replace(cut, "") for word in words if not word.startswith(skipped))
    return row


def recorded(studies: Path) -> Iterator[dict[str, Any]]:
    """Games of the datasets of the study."""
    for path in sorted(studies.glob("artifacts/datasets/*/manifest.json")):
        dataset = TrajectoryDataset(path.parent)
        for entry in dataset.episodes:
            row = {name: int(entry[name]) for name in ("checkpoint", "number", "length")}
            yield {"task": dataset.task} | row | {"return": float(entry["raw_return"])}


#: Files of a run that a report is made from.
KEPT = ("config.yaml", "manifest.json", "summary.json", "metrics.csv", "evaluations.csv")


def about_without(cut: str, run: Path) -> dict[str, Any]:
    """A run's manifest without a folder of the machine, and without that of the recipe's checkout."""
    manifest = json.loads((run / "manifest.json").read_text().replace(cut, ""))
    script = Path(manifest["command_line"][0])
    manifest["command_line"][0] = f"{script.parent.name}/{script.name}"
    if not cut:
        return manifest
    settings = yaml.safe_load((run / "config.yaml").read_text().replace(cut, ""))
    return manifest | {"config_sha256": config_sha256(settings)}


def pack(studies: Path, out: Path, cut: str) -> None:
    """Plans and runs as one archive, the same for the same runs."""
    with tarfile.open(out, "w:xz") as archive:
        paths = [*studies.glob("*/study.json"), *studies.glob("*/runs/*/*/*")]
        for path in sorted(path for path in paths if path.name in ("study.json", *KEPT)):
            content = path.read_bytes()
            if path.name == "config.yaml" and cut:
                content = content.replace(cut.encode(), b"")
            if path.name == "manifest.json":
                content = (json.dumps(about_without(cut, path.parent), indent=2) + "\n").encode()
            entry = tarfile.TarInfo(str(Path("studies") / path.relative_to(studies)))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def main(studies: Path, out: Path, cut: str) -> None:
    """Read all runs below ``studies`` and write the tables into ``out``."""
    cut = f"{cut.rstrip('/')}/" if cut else ""
    tables: dict[str, list[dict[str, Any]]] = {"games": [], "task_weights": [], "runs": []}
    for path in sorted(studies.glob("*/runs/*/*/config.yaml")):
        run = read_run(path.parent)
        target, _, seed = path.parent.name.rpartition("-s")
        cell = {
            "study": path.parents[3].name,
            "system": path.parents[1].name,
            "target": target,
            "seed": int(seed),
        }
        tables["games"] += [cell | row for row in games(run)]
        tables["task_weights"] += [cell | row for row in weights(run)]
        tables["runs"].append(cell | about(run, cut))
    tables["datasets"] = list(recorded(studies))
    for name, rows in filter(lambda item: item[1], tables.items()):
        columns = dict.fromkeys(key for row in rows for key in row)
        write_csv(out / f"{name}.csv", [{key: row.get(key, "") for key in columns} for row in rows])
        print(f"{out / name}.csv: {len(rows)} rows")
    pack(studies, out / "runs.tar.xz", cut)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("studies", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cut", default="", metavar="FOLDER/")
    main(**vars(arguments.parse_args()))
