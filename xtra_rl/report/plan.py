"""Runs without a plan, sorted as if there had been one: a study for each scale, made from what the runs say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xtra_rl.envs.tasks import get_task
from xtra_rl.runs.record import Run
from xtra_rl.runs.settings import decisive, defaults_of, flatten, variant_of, yaml_text
from xtra_rl.studies.plan import PlannedRun, Study, System
from xtra_rl.wording import first_of

#: The paper's columns that variants redraw.
_PUBLISHED = {
    "xtra_finetune": "xtra",
    "xtra_finetune no_cross_task": "no_cross_task",
    "xtra_finetune no_pretrained": "no_pretraining",
    "xtra_finetune no_task_weights": "no_task_weights",
    "xtra_finetune no_pretrained no_cross_task": "efficientzero",
    "xtra_finetune no_pretrained no_cross_task large": "efficientzero_l",
    "behaviour_cloning": "bc_finetuned",
    "curl": "curl",
    "curl pretrained": "curl_pretrained",
}

#: What a reader sees for the variants of ``xtra_finetune``, and for the other recipes that play a game.
_LABELS = {
    "xtra_finetune": "XTRA",
    "xtra_finetune no_cross_task": "XTRA, no cross-task",
    "xtra_finetune no_pretrained": "XTRA, no pretraining",
    "xtra_finetune no_task_weights": "XTRA, no task weights",
    "xtra_finetune no_pretrained no_cross_task": "EfficientZero",
    "xtra_finetune no_pretrained no_cross_task large": "EfficientZero-L",
    "behaviour_cloning": "Behaviour cloning",
    "curl": "CURL",
    "curl pretrained": "CURL, pretrained",
    "evaluate": "Evaluation of a model",
}

#: Settings that the variant names.
_NAMED = (
    "pretrained", "cross_task", "task_weights", "task_weighting", "freeze", "transfer", "curl.pretrain",
    "behaviour_cloning.pretrain",
)  # fmt: skip


def study_of_runs(runs: Sequence[Run]) -> Iterator[tuple[Study, list[Run]]]:
    """A study for each scale, with the runs that it does not plan: broken ones, and those without a single game.

    A seed that one of its systems has on some game, and another has not, is planned for both.
    """
    scales = dict.fromkeys(str(run.config.get("scale", "unknown")) for run in runs)
    for scale in scales:
        members = [run for run in runs if str(run.config.get("scale", "unknown")) == scale]
        placed = [
            run
            for run in members
            if not run.problem and run.target is not None and not is_unfinished_diagnosis(run)
        ]
        rest = [run for run in members if run not in placed]
        yield _study(scale, placed), rest


def is_unfinished_diagnosis(run: Run) -> bool:
    """Whether a run is of ``recipes/diagnose.py``, among runs that are no finished diagnoses: it has no scores."""
    return not run.problem and run.manifest.get("recipe") == "diagnose"


def _study(scale: str, runs: Sequence[Run]) -> Study:
    systems: dict[str, System] = {}
    printed = []
    planned: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        system = _system_of(run)
        systems.setdefault(system.name, system)
        printed += [run] if system.published else []
        target, seed = str(run.target), _seed(run)
        plan = PlannedRun(system.name, target, seed, (), str(run.path))
        planned.setdefault((system.name, target), []).append(plan)
    seeds = tuple(sorted({_seed(run) for run in runs}))
    for (name, target), plans in planned.items():
        missing = set(seeds) - {plan.seed for plan in plans}
        plans += [PlannedRun(name, target, seed, (), "") for seed in sorted(missing)]
    # What the others are compared with comes first.
    order = sorted(
        systems.values(),
        key=lambda system: (not system.label.startswith("EfficientZero"), not system.published),
    )
    return Study(
        experiment=f"runs-{scale}",
        title=f"Runs at scale {scale}",
        scale=scale,
        tables=_tables(printed),
        figures=(),
        systems=tuple(order),
        targets=tuple(sorted({str(run.target) for run in runs})),
        seeds=seeds,
        runs=tuple(plan for plans in planned.values() for plan in plans),
    )


def _seed(run: Run) -> int:
    seed = run.summary.get("seed", run.config.get("seed"))
    return seed if isinstance(seed, int) else 0


def _blocks(run: Run) -> int:
    model = run.config.get("model")
    blocks = model.get("num_blocks") if isinstance(model, Mapping) else None
    return blocks if isinstance(blocks, int) else 1


def _tables(runs: Sequence[Run]) -> tuple[str, ...]:
    """Tables of the paper that runs can stand in, by the games that they were pretrained on."""
    diverse = any(str(run.config.get("task_set")).startswith("diverse") for run in runs)
    curl = any(run.manifest.get("recipe") == "curl" for run in runs)
    if diverse:
        return ("table2", "table6", "table7", *(["table4"] if curl else []))
    return ("table1", "table3", *(["table5"] if curl else []))


def _system_of(run: Run) -> System:
    """The recipe, what was switched off in it, and settings that neither recipe nor scale has."""
    recipe = str(run.manifest.get("recipe"))
    cloning = run.config.get("behaviour_cloning")
    variant = variant_of(run.config) if recipe == "xtra_finetune" else None
    if recipe == "behaviour_cloning" and isinstance(cloning, Mapping) and cloning.get("pretrain") is False:
        variant = "no_pretrain"
    curl = run.config.get("curl")
    if recipe == "curl" and isinstance(curl, Mapping) and curl.get("pretrain"):
        variant = "pretrained"
    # The paper's EfficientZero has one residual block a stage, EfficientZero-L has XTRA's four.
    if variant == "no_pretrained no_cross_task" and _blocks(run) > 1:
        variant += " large"
    name = " ".join(part for part in (recipe, variant) if part)
    label = _LABELS.get(name) or ", ".join(
        [_LABELS.get(recipe, recipe), *([variant.replace("_", " ")] if variant else [])]
    )
    changes = _changes(run, _usual(run, name))
    if not changes:
        return System(name, label, recipe, published=_PUBLISHED.get(name))
    # The paper's column is of other settings.
    return System(" ".join([name, *changes]), f"{label}, {first_of(changes, 3, ', ')}", recipe)


def _changes(run: Run, usual: Mapping[str, Sequence[Any]]) -> list[str]:
    """Settings of the method that are not the recipe's own at that scale, nor among ``usual`` values: ``a.b=c``."""
    defaults = defaults_of(str(run.manifest.get("recipe")), str(run.config.get("scale")))
    own = flatten(defaults or {})
    return [
        f"{name}={yaml_text(value)}"
        for name, value in decisive(run.config).items()
        if name in own and value not in (own[name], *usual.get(name, ()))
        if not any(name == named or name.startswith(f"{named}.") for named in _NAMED)
        if "${" not in str(own[name])
    ]


def _usual(run: Run, name: str) -> dict[str, list[Any]]:
    """Other values than the defaults that the paper's systems have, too, by setting."""
    # After the last env step only the diverse games are trained on.
    usual: dict[str, list[Any]] = {"finetune.extra_train_steps": [0]}
    usual["task_set"] = [_category(str(run.target)), "diverse8"]
    if run.config.get("task_set") == "diverse8":
        usual["num_cross_tasks"] = [8]
    scratch = name.startswith("xtra_finetune no_pretrained no_cross_task")
    if scratch:
        usual["model.num_blocks"] = [1]
    if scratch or name in ("curl", "behaviour_cloning no_pretrain"):
        # No other game is looked at.
        usual |= {key: [run.config.get(key)] for key in ("task_set", "cross_tasks", "num_cross_tasks")}
    return usual


def _category(target: str) -> str | None:
    try:
        return get_task(target).category
    except ValueError:  # A task of the user's own.
        return None
