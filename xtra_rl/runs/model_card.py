"""The ``README.md`` of a shared model: metadata for the Hugging Face hub, and what a reader has to know."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Mapping
from typing import Any

from xtra_rl.envs.tasks import get_task
from xtra_rl.evaluation.metrics import TaskScore
from xtra_rl.models.description import ModelDescription
from xtra_rl.runs.settings import as_it_was, flatten, yaml_text

TAGS = (
    "reinforcement-learning",
    "deep-reinforcement-learning",
    "model-based-rl",
    "muzero",
    "efficientzero",
    "xtra",
)

_CHOOSE = "# Choose one before you publish: https://huggingface.co/docs/hub/repositories-licenses\n"

#: Settings of a machine, and the temperature, a schedule over training.
_NOT_PASSED = ("backend", "max_bytes", "cuda_graph", "temperature")

_LOAD = """\
```python
import xtra_rl
from xtra_rl.envs import make_env
from xtra_rl.models import {import_name}
{search_import}
model = xtra_rl.load_pretrained("{name}")  # or the folder with these files
env = make_env("{task}", 1, seed=0, **model.description.env)
agent = {agent}
rollout = env.rollout(100, agent)
score = rollout["next", "reward"].sum()
```"""


def model_card(description: ModelDescription, *, name: str, license: str) -> str:
    """Model card in Markdown with YAML front matter.

    Args:
        description: of the model.
        name: ``owner/name`` on the hub, or the name of the folder.
        license: identifier of the hub; ``other`` leaves the choice to the owner of the weights.

    Example:
        >>> card = model_card(ModelDescription(tasks=("pong",)), name="me/pong", license="mit")
        >>> card.splitlines()[:3]
        ['---', 'license: mit', 'library_name: xtra_rl']
    """
    import yaml

    header = yaml.safe_dump(card_metadata(description, name, license), sort_keys=False, allow_unicode=True)
    about = description.metadata
    tasks = ", ".join(f"`{task}`" for task in description.tasks) or "tasks that its config does not name"
    stage = f" (stage: {about['stage']})" if about.get("stage") else ""
    parts = [
        f"---\n{_CHOOSE if license == 'other' else ''}{header}---",
        f"# {name}",
        f"A world model of [XTRA](https://arxiv.org/abs/2210.10763) on"
        f" [EfficientZero](https://arxiv.org/abs/2111.00210), trained with `xtra_rl` on {tasks}{stage}.",
        "## Use",
        _usage(description, name),
        "## Scores",
        _scores(description),
        *_training(about.get("run")),
        *_made_from(about.get("artifact")),
        "## Files",
        "`model.safetensors` holds the weights. `config.json` holds the arguments that build the network, the tasks,"
        " every evaluation episode, the settings of the training and the sha256 of the weights, which is checked when"
        " they are loaded. Nothing is unpickled.",
    ]
    return "\n\n".join(parts) + "\n"


def card_metadata(description: ModelDescription, name: str, license: str) -> dict[str, Any]:
    """Front matter in the hub's schema; ``model-index`` has one result for each task that was evaluated."""
    metadata: dict[str, Any] = {"license": license}
    if license == "other":
        metadata["license_name"] = "not-chosen-yet"
    metadata |= {
        "library_name": "xtra_rl",
        "pipeline_tag": "reinforcement-learning",
        "tags": [*TAGS, *description.tasks],
    }
    tasks = dict.fromkeys(score.task for score in description.scores)
    if tasks:
        results = [_result(task, [s for s in description.scores if s.task == task]) for task in tasks]
        metadata["model-index"] = [{"name": name.rpartition("/")[2], "results": results}]
    return metadata


def _result(task: str, scores: list[TaskScore]) -> dict[str, Any]:
    metrics = []
    for score in scores:
        how = {"mode": score.mode, "episodes": len(score.returns)}
        values = {"mean_reward": score.mean_return, "human_normalized_score": score.human_normalized}
        values["std_reward"] = statistics.pstdev(score.returns) if score.returns else None
        metrics += [
            {
                "type": name,
                "value": value,
                "name": f"{name} ({score.mode})",
                "args": dict(how),
                "verified": False,
            }
            for name, value in values.items()
            if value is not None
        ]
    return {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"type": task, "name": _task_title(task)},
        "metrics": metrics,
    }


def _task_title(task: str) -> str:
    try:
        is_atari = get_task(task).ale_name is not None
    except ValueError:
        is_atari = False
    return f"{task.replace('_', ' ').title()} (Atari 2600)" if is_atari else task


def _usage(description: ModelDescription, name: str) -> str:
    search = description.search
    task = description.tasks[0] if description.tasks else "alien"
    if str(description.metadata.get("stage", "")).startswith("behaviour cloning"):
        # Cloning leaves the dynamics untrained: a search would plan with noise.
        names = {"import_name": "InferenceModel, PriorPolicy", "search_import": ""}
        return _LOAD.format(name=name, task=task, agent="PriorPolicy(InferenceModel(model))", **names)
    planner = "MCTSPlanner" if search.get("algorithm", "gumbel") == "puct" else "GumbelMCTSPlanner"
    parts = ["InferenceModel(model)", *_search_arguments(planner, search), "seed=0"]
    arguments = ", ".join(parts)
    if len(arguments) > 80:
        arguments = "".join(["\n", *(f"    {part},\n" for part in parts)])
    return _LOAD.format(
        name=name,
        task=task,
        import_name="InferenceModel",
        search_import=f"from xtra_rl.search import {planner}\n",
        agent=f"{planner}({arguments})",
    )


def _search_arguments(planner: str, settings: Mapping[str, Any]) -> list[str]:
    """The arguments of a planner that make it the one the scores are of."""
    from xtra_rl import search

    settings = {
        key.removeprefix("search."): value for key, value in as_it_was(flatten({"search": settings})).items()
    }

    usual = inspect.signature(getattr(search, planner)).parameters
    asked = {
        "num_simulations": 16,
        **{key: value for key, value in settings.items() if key not in _NOT_PASSED},
    }
    return [
        f"{name}={value!r}" for name, value in asked.items() if name in usual and value != usual[name].default
    ]


def _scores(description: ModelDescription) -> str:
    if not description.scores:
        return "The model was not evaluated when it was exported."
    lines = ["| task | mode | mean return | human-normalised | episodes | lowest | highest |"]
    lines.append("|---|---|---|---|---|---|---|")
    for score in description.scores:
        hns = "" if score.human_normalized is None else f"{score.human_normalized:.3f}"
        ends = [f"{end(score.returns):g}" if score.returns else "" for end in (min, max)]
        cells = [score.task, score.mode, f"{score.mean_return:.1f}", hns, str(len(score.returns)), *ends]
        lines.append(f"| {' | '.join(cells)} |")
    rows = description.metadata.get("scores", [])
    steps = {row.get("max_steps") for row in rows} - {None}
    limit = (
        f" of at most {max(steps)} env steps (4 frames each); the paper plays 32 of 27000" if steps else ""
    )
    baselines = (description.metadata.get("run") or {}).get("baselines", {})
    known = ", ".join(f"{name} {value:.1f}" for name, value in baselines.items() if value is not None)
    return (
        "\n".join(lines)
        + f"\n\nRaw returns of whole games{limit}."
        + (f" Baselines: {known}." if known else "")
    )


def _training(run: Mapping[str, Any] | None) -> list[str]:
    if not run:
        return []
    facts = {
        "recipe": f"`recipes/{run['recipe']}.py target={run['target']} scale={run['scale']} seed={run['seed']}`",
        "steps": f"{run['env_steps']} env steps, {run['train_steps']} train steps, {run['wall_seconds']:.0f} s",
        "device": run.get("device"),
        "commit": run.get("git_commit"),
        "date": run.get("date"),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    small = run["scale"] in ("smoke", "quick")
    note = (
        "\n\nThis scale shows the machinery at work; its budgets are too small to learn a game."
        if small
        else ""
    )
    return ["## Training", "\n".join(lines) + note, _all_settings(run["settings"])]


def _made_from(artifact: Mapping[str, Any] | None) -> list[str]:
    """A teacher's or student's data and settings; their hashes are those of the datasets' and teachers' own files."""
    if not artifact:
        return []
    settings = dict(artifact["key"])
    teachers = settings.pop("teachers", {})
    lines = [f"A {artifact['kind']} of `scale={settings['scale']}`, seed {settings['seed']}."]
    if teachers:
        lines += ["", "| learnt from | dataset | its teacher | which says |", "|---|---|---|---|"]
    for task, made in teachers.items():
        hashes = [f"`{made[name][:12]}`" if made.get(name) else "" for name in ("dataset", "teacher")]
        lines.append(f"| {' | '.join([task, *hashes, made.get('annotation', '')])} |")
    return ["## Training", "\n".join(lines), _all_settings(settings)]


def _all_settings(settings: Mapping[str, Any]) -> str:
    text = "\n".join(f"{name}={yaml_text(value)}" for name, value in flatten(settings).items())
    return f"<details><summary>All settings</summary>\n\n```\n{text}\n```\n\n</details>"
