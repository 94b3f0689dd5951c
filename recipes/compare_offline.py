"""Is one student as good as its teachers? Each of its training games, played by both, and by multi-game offline RL.

The question of the paper's Figure 10 (XTRA, arXiv 2210.10763, appendix C). Per game: random play, the best constant
action, the data's last checkpoint, the game's teacher, the distilled student, and a student trained by reanalysis of
all games' data without teachers. What is missing is built first, by the earlier recipes. Commands:

    python recipes/compare_offline.py target=alien task_set=maze
    python recipes/compare_offline.py cross_tasks=[alien,ms_pacman] target=amidar scale=laptop eval.episodes=32
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from xtra_rl.data import TrajectoryDataset
from xtra_rl.evaluation.comparison import agent_bars
from xtra_rl.evaluation.report import format_table
from xtra_rl.files import write_csv
from xtra_rl.recipes import build, common
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.training.run import RunDirectory

Scores = list[dict[str, Any]]


def gather_models(cfg: DictConfig, tasks: list[str]) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
    """Datasets by task, and by task the models that play it, under the names of the table.

    ``student=PATH`` is the distilled one; the alternative is always built here, or found.
    """
    inputs = Inputs(OmegaConf.merge(cfg, {"distill": {"targets": "teacher"}}))
    alternative = Inputs(OmegaConf.merge(cfg, {"distill": {"targets": "reanalyze"}, "student": None}))
    students = {"student (distilled)": inputs.student(), "multi-game offline RL": alternative.student()}
    datasets = {task: inputs.dataset(task) for task in tasks}
    return datasets, {task: {"teacher": inputs.teacher(task), **students} for task in tasks}


def data_scores(task: str, path: Path) -> Scores:
    """Returns of the episodes of the dataset's last checkpoint."""
    episodes = TrajectoryDataset(path).episodes
    last = episodes[episodes["checkpoint"] == episodes["checkpoint"].max()]
    return [_row(task, "data, last checkpoint", "", i, r) for i, r in enumerate(last["raw_return"].tolist())]


def play(cfg: DictConfig, task: str, models: dict[str, Path]) -> Scores:
    """Every model's episodes on one game, and the baselines'."""
    scores: Scores = []
    baselines: dict[str, float] = {}
    for agent, path in models.items():
        model, _ = build.load_model(cfg, path)
        suite = build.evaluation_suite(cfg, task, model)
        if not baselines:
            baselines = suite.measure_baselines([name for name in cfg.eval.baselines if name != "untrained"])
        common.say(f"{task}: {agent}")
        suite.play(0)
        for mode, result in suite.history[-1][1].items():
            scores += [_row(task, agent, mode, i, score) for i, score in enumerate(result.returns)]
    return [_row(task, name, "", 0, score) for name, score in baselines.items()] + scores


def _row(task: str, agent: str, mode: str, episode: int, score: float) -> dict[str, Any]:
    return {"task": task, "agent": agent, "mode": mode, "episode": episode, "return": score}


def table(scores: Scores) -> Scores:
    """Mean return of every agent and mode, a column for each game."""
    means: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in scores:
        by_task = means.setdefault((row["agent"], row["mode"]), {})
        by_task.setdefault(row["task"], []).append(float(row["return"]))
    return [
        {"agent": agent, "mode": mode, **{task: sum(r) / len(r) for task, r in by_task.items()}}
        for (agent, mode), by_task in means.items()
    ]


def compare_offline(cfg: DictConfig) -> Path:
    """Build what is missing, play, and report; returns the run directory."""
    started, tasks = time.time(), common.cross_tasks_of(cfg)
    datasets, models = gather_models(cfg, tasks)
    run = RunDirectory(
        cfg.run_dir or f"runs/compare_offline/{'+'.join(tasks)}-{cfg.scale}-s{cfg.artifact_seed}"
    )
    run.write_config(common.plain(cfg))
    inputs = {f"{agent} {task}": path for task, agents in models.items() for agent, path in agents.items()}
    run.write_manifest(
        recipe="compare_offline",
        config=common.plain(cfg),
        device=str(common.device_of(cfg)),
        inputs=inputs | {f"dataset {task}": path for task, path in datasets.items()},
    )
    scores = [
        row for task in tasks for row in (*data_scores(task, datasets[task]), *play(cfg, task, models[task]))
    ]
    write_csv(run.path / "scores.csv", scores)
    labels = {"scale": cfg.scale, "seed": cfg.artifact_seed}
    picture = agent_bars(scores, run.figures / "students_and_teachers.png", **labels)
    run.write_summary(
        {
            "recipe": "compare_offline",
            "scale": cfg.scale,
            "seed": cfg.artifact_seed,
            "target": None,
            "env_steps": 0,
            "train_steps": cfg.distill.train_steps,
            "wall_seconds": round(time.time() - started, 1),
            "eval/mean_return": None,
            "eval/hns": None,
            "eval/returns": None,
            "checkpoint": None,
            "table": table(scores),
        }
    )
    common.say("\n" + format_table(table(scores)))
    common.say(f"\n{cfg.eval.episodes} episodes of at most {cfg.eval.max_steps} env steps.")
    common.say(f"\nrun       {run.path}\nepisodes  {run.path / 'scores.csv'}\npicture   {picture}")
    return run.path


@hydra.main(config_path="../configs", config_name="compare_offline", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    compare_offline(cfg)


if __name__ == "__main__":
    common.launch(main)
