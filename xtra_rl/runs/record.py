"""One run as it lies on the disk: read whole, checked, and named as broken where it does not fit together.

Example:
    >>> import tempfile
    >>> from xtra_rl.training.logging import RunLogger
    >>> from xtra_rl.training.run import RunDirectory
    >>> folder = tempfile.mkdtemp()
    >>> for seed in (0, 1):
    ...     run, config = RunDirectory(f"{folder}/seed{seed}"), {"target": "pong", "scale": "quick", "seed": seed}
    ...     run.write_config(config)
    ...     _ = run.write_manifest(recipe="xtra_finetune", config=config, device="cpu")
    ...     with RunLogger(run.path) as logger:
    ...         logger.log({"eval/pong/return": 3.0 + seed}, env_step=100, train_step=100)
    >>> runs = [read_run(path) for path in find_runs([folder])]
    >>> [(run.status, run.target, run.scores()[0].mean_return) for run in runs]
    [('unfinished', 'pong', 3.0), ('unfinished', 'pong', 4.0)]
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xtra_rl
from xtra_rl.envs.tasks import get_task
from xtra_rl.evaluation.figures import Series, read_metrics
from xtra_rl.evaluation.metrics import TaskScore, task_human_normalized
from xtra_rl.files import config_sha256, read_json
from xtra_rl.training.run import SUMMARY_KEYS

Status = Literal["finished", "unfinished", "broken"]

#: A folder with one of these is taken for a run; ``manifest.json`` alone may belong to a dataset.
MARKS = ("summary.json", "metrics.csv", "config.yaml")

_NUMBER = (int, float)
_NONE = type(None)
_SUMMARY_TYPES: dict[str, tuple[type, ...]] = {
    "recipe": (str,),
    "scale": (str,),
    "seed": (int,),
    "target": (str, _NONE),
    "env_steps": (int,),
    "train_steps": (int,),
    "wall_seconds": _NUMBER,
    "eval/mode": (str,),
    "eval/mean_return": (*_NUMBER, _NONE),
    "eval/hns": (*_NUMBER, _NONE),
    "eval/returns": (dict, _NONE),
    "start/returns": (dict, _NONE),
    "baselines": (dict, _NONE),
}


@dataclass(frozen=True, eq=False)
class Run:
    """What :func:`read_run` found; what could not be read is empty, and ``problem`` says why.

    Attributes:
        path: the run directory.
        manifest: what made the run.
        config: the settings, nested.
        summary: what came out; empty while the run is not finished.
        metrics: by name, from ``metrics.csv``.
        throughput: by name, from ``throughput.csv``.
        problem: what is wrong, in one sentence each; ``None`` for a run that can be believed.
    """

    path: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    throughput: Mapping[str, Series] = field(default_factory=dict)
    problem: str | None = None

    @property
    def status(self) -> Status:
        """``finished`` runs have a summary."""
        if self.problem:
            return "broken"
        return "finished" if self.summary else "unfinished"

    @property
    def target(self) -> str | None:
        """Canonical name of the task that was evaluated; ``None`` where a run has no single one."""
        if self.summary:
            return self.summary["target"]
        name = self.config.get("target")
        try:
            return get_task(name).name if isinstance(name, str) else None
        except ValueError:  # A task of the user's own, registered in another process.
            return name

    def steps(self) -> tuple[int | None, int | None]:
        """Env steps and train steps: of the summary, or the last that were logged."""
        if self.summary:
            return self.summary["env_steps"], self.summary["train_steps"]
        return _last_step(self.metrics, "env_step"), _last_step(self.metrics, "train_step")

    def evaluations(self, mode: str) -> Series | None:
        """Mean returns on the target in that mode, ``greedy`` or ``sampled``, by step; ``None`` if none was logged."""
        return self.metrics.get(f"eval/{self.target}/return{'' if mode == 'greedy' else f'_{mode}'}")

    def scores(self) -> list[TaskScore]:
        """Last evaluation by mode, the main mode (greedy, if it was played) first."""
        task = self.target
        if task is None:
            return []
        if self.summary:
            main, returns = self.summary.get("eval/mode", "greedy"), self.summary["eval/returns"] or {}
            scores = [self.score(mode, tuple(episodes)) for mode, episodes in returns.items()]
            hns = self.summary["eval/hns"]
            # A task of the user's own is known to the run, not here.
            scores = [s._replace(human_normalized=hns) if s.mode == main else s for s in scores]
        else:
            scores = []
            for mode, suffix in (("greedy", ""), ("sampled", "_sampled")):
                if (series := self.metrics.get(f"eval/{task}/return{suffix}")) is not None:
                    hns = self.metrics.get(f"eval/{task}/hns{suffix}")
                    normalized = None if hns is None else float(hns.value[-1])
                    scores.append(TaskScore(task, mode, float(series.value[-1]), normalized))
        return sorted(scores, key=lambda score: score.mode != "greedy")

    def score(self, mode: str, returns: Sequence[float]) -> TaskScore:
        """Mean of some episodes on the target."""
        mean = sum(returns) / len(returns)
        task = self.target or ""
        return TaskScore(task, mode, mean, task_human_normalized(task, mean), tuple(returns))


def find_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Run directories in and below some folders, sorted; hidden folders and the insides of runs are not searched.

    Raises:
        ValueError: if a folder does not exist.
    """
    return sorted({run for folder in folders for run in _runs_below(Path(folder))})


def _runs_below(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise ValueError(
            f"{str(root)!r} is not a folder; expected one with run directories below it, such as runs"
        )
    for folder, children, files in os.walk(root):
        if any(mark in files for mark in MARKS):
            yield Path(folder)
            children.clear()
        children[:] = [child for child in children if not child.startswith(".")]


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read and check one run directory; nothing in it is changed.

    Returns:
        A :class:`Run`, ``broken`` if a file is missing, torn, of another make, or contradicts another one.

    Raises:
        ValueError: if ``path`` is not a folder, or holds no file of a run.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            f"run={str(path)!r} is not a folder; expected a run directory, which `python -m xtra_rl.runs list` finds"
        )
    if not any((path / mark).is_file() for mark in MARKS):
        raise ValueError(
            f"run={str(path)!r} is not a run directory, none of {', '.join(MARKS)} is there; expected what a recipe"
            " wrote, which `python -m xtra_rl.runs list` finds"
        )
    problems: list[str] = []
    manifest = _read(path / "manifest.json", _read_manifest, problems)
    config = _read(path / "config.yaml", _read_config, problems)
    parts: dict[str, Any] = {"manifest": manifest, "config": config}
    for name, read in (
        ("summary.json", _read_summary),
        ("metrics.csv", read_metrics),
        ("throughput.csv", read_metrics),
    ):
        if (path / name).is_file():
            parts[name.partition(".")[0]] = _read(path / name, read, problems)
    if manifest and config and config_sha256(config) != manifest.get("config_sha256"):
        problems.append("config.yaml is not the one that manifest.json has the hash of")
    if not problems:
        problems += _check_evaluations(Run(path, **parts))
    problem = "; ".join(problems) if problems else None
    writer = manifest.get("packages", {}).get("xtra_rl", xtra_rl.__version__)
    if problem and writer != xtra_rl.__version__:
        problem += f" (written by xtra_rl {writer}, this is {xtra_rl.__version__})"
    return Run(path, **parts, problem=problem)


def _read(path: Path, read: Callable[[Path], Any], problems: list[str]) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (ValueError, OSError) as error:
        problems.append(str(error).replace(str(path), path.name).partition("; ")[0])
    return {}


def _read_manifest(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("recipe"), str):
        raise ValueError("manifest.json is not one of this library: it names no recipe")
    if not isinstance(manifest.get("packages", {}), dict) or not isinstance(manifest.get("inputs", {}), dict):
        raise ValueError("manifest.json has packages or inputs that are not by name")
    return manifest


def _read_config(path: Path) -> Any:
    import yaml

    try:
        # The parser in C reads a config in 2 ms instead of 30.
        config = yaml.load(
            path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except yaml.YAMLError as error:
        raise ValueError(f"config.yaml is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise ValueError("config.yaml does not hold settings by name")
    return config


def _read_summary(path: Path) -> Any:
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise ValueError("summary.json does not hold results by name")
    if missing := [key for key in SUMMARY_KEYS if key not in summary]:
        raise ValueError(f"summary.json lacks {', '.join(missing)}")
    for key, types in _SUMMARY_TYPES.items():
        value = summary.get(key)
        if key in summary and (not isinstance(value, types) or isinstance(value, bool)):
            raise ValueError(f"summary.json has {value!r} for {key}")
    _check_scores(summary)
    return summary


def _check_scores(summary: Mapping[str, Any]) -> None:
    """A mean that is not that of its episodes belongs to something else."""
    for key in ("eval/returns", "start/returns"):
        for mode, returns in (summary.get(key) or {}).items():
            if (
                not isinstance(returns, list)
                or not returns
                or not all(_is_finite(value) for value in returns)
            ):
                raise ValueError(f"summary.json has no list of returns for {key}, {mode}")
    for name, value in (summary.get("baselines") or {}).items():
        if value is not None and not _is_finite(value):
            raise ValueError(f"summary.json has {value!r} for the baseline {name}")
    mode = summary.get("eval/mode", "greedy")
    returns, mean = (summary["eval/returns"] or {}).get(mode), summary["eval/mean_return"]
    if returns and (mean is None or not math.isclose(sum(returns) / len(returns), mean, rel_tol=1e-6)):
        raise ValueError(f"summary.json says that the mean of {mode} play is {mean}, and its episodes do not")


def _check_evaluations(run: Run) -> Iterator[str]:
    """The summary's scores are the last of ``metrics.csv``: averages over evaluations read them there."""
    returns = run.summary.get("eval/returns") or {}
    if run.target is None or not returns:
        return
    if not (run.path / "metrics.csv").is_file():
        yield "metrics.csv is missing"
        return
    for mode, episodes in returns.items():
        series, end, mean = run.evaluations(mode), run.summary["env_steps"], sum(episodes) / len(episodes)
        if series is None:
            yield f"metrics.csv has no evaluation of {mode} play, summary.json has {mean:g} at env step {end}"
        elif (step := series.env_step[-1]) != end:
            yield (
                f"metrics.csv has its last evaluation of {mode} play at env step {step:.0f}, summary.json at {end}"
            )
        elif not math.isclose(value := float(series.value[-1]), mean, rel_tol=1e-6, abs_tol=1e-6):
            yield f"metrics.csv ends with {value:g} as the mean of {mode} play, summary.json with {mean:g}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value)


def _last_step(metrics: Mapping[str, Series], axis: Literal["env_step", "train_step"]) -> int | None:
    steps = [float(series.x(axis)[-1]) for series in metrics.values()]
    finite = [step for step in steps if math.isfinite(step)]
    return int(max(finite)) if finite else None
