"""``export``: a model of a run, or a bare one, as a folder to share, in the layout of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xtra_rl.evaluation.metrics import TaskScore
from xtra_rl.files import directory_sha256
from xtra_rl.models.description import ModelDescription
from xtra_rl.pretrained import load_pretrained
from xtra_rl.runs.files import is_model, models_of
from xtra_rl.runs.model_card import model_card
from xtra_rl.runs.record import Run, read_run
from xtra_rl.runs.settings import PLACES
from xtra_rl.training.model_files import save_model
from xtra_rl.training.pipeline import read_artifact

__all__ = ["export_model"]

#: Settings that name places of the machine on which a run was made.
LOCAL = (*PLACES, "datasets", "teachers", "student", "checkpoint")


class Source(NamedTuple):
    """A model directory, the run that made and evaluated it, and other runs that evaluated it."""

    model: Path
    run: Run | None = None
    evaluations: tuple[Path, ...] = ()


def export_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    name: str | None = None,
    license: str = "other",
    model: str | None = None,
    evaluations: Sequence[str | os.PathLike[str]] = (),
) -> Path:
    """Write ``README.md``, ``config.json`` and ``model.safetensors``, atomically, and return the folder.

    :func:`xtra_rl.load_pretrained` reads it, and the recipes take it as ``student=`` and ``checkpoint=``. Paths of this
    machine are left out.

    Args:
        source: a run directory, or a model directory.
        target: a new or empty folder, or one of an earlier export, which is replaced.
        name: ``owner/name`` that the model will have on the hub, for the model card.
        license: identifier of the hub, such as ``mit`` or ``cc-by-4.0``.
        model: folder of another model than the final one in the run directory, such as ``models/step-2000``; it has no
            scores of its own.
        evaluations: run directories of ``recipes/evaluate.py`` with further games that this model has played.

    Raises:
        ValueError: if the source is broken or not finished, an evaluation is of another model, the model cannot be
            loaded, or ``target`` holds something else.

    Example:
        A model directory as a folder to share; of a run it is the final model:

        >>> import tempfile
        >>> from xtra_rl.models import make_world_model
        >>> model = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> folder = tempfile.mkdtemp()
        >>> path = save_model(f"{folder}/model", model, config=model.config, metadata={"tasks": ["pong"]})
        >>> sorted(file.name for file in export_model(path, f"{folder}/shared", name="me/pong").iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    found = _find(Path(source), model)
    if Path(target).resolve() == found.model.resolve():
        raise ValueError(f"target={str(target)!r} is the model to export; pass another folder")
    world_model = load_pretrained(found.model)
    metadata = dict(world_model.description.metadata)
    scores = _run_scores(found.run) if found.run else list(metadata.get("scores", []))
    played = [_evaluation_of(found.model, Path(path)) for path in (*found.evaluations, *evaluations)]
    for run in played:
        scores += _run_scores(run)
        metadata.setdefault("search", run.config.get("search", {}))
    # The last evaluation of a game in a mode counts.
    metadata["scores"] = list({(row["task"], row["mode"]): row for row in scores}.values())
    if found.run:
        metadata |= {"search": found.run.config.get("search", {}), "run": _provenance(found.run)}
    if made := read_artifact(found.model):
        metadata["artifact"] = _without_paths(made)
        metadata.setdefault("search", made["key"].get("search", {}))
    name = name or Path(target).resolve().name
    card = model_card(ModelDescription.from_metadata(metadata), name=name, license=license)
    return save_model(target, world_model, config=world_model.config, metadata=metadata, readme=card)


def _find(source: Path, model: str | None) -> Source:
    if is_model(source):
        if model is not None:
            raise ValueError(
                f"source={str(source)!r} is a model directory; --model={model} chooses one of a run"
            )
        return Source(source)
    run = read_run(source)
    if run.problem:
        raise ValueError(
            f"run={str(source)!r} is broken: {run.problem}; restore it, or export a model directory of it"
        )
    if model is not None:
        folder = source / model
        if not is_model(folder):
            raise ValueError(f"model={model!r} is no model of {str(source)!r}; {_known_models(source)}")
        is_final = bool(run.summary) and folder.resolve() == (source / "model").resolve()
        return Source(folder, run if is_final else None)
    if not run.summary:
        raise ValueError(
            f"run={str(source)!r} is not finished, so it has no final model; {_known_models(source)}"
        )
    if run.manifest["recipe"] == "evaluate":
        return Source(_evaluated_model(run), evaluations=(source,))
    if not is_model(source / "model"):
        raise ValueError(
            f"run={str(source)!r} has no final model in {source / 'model'}; {_known_models(source)}"
        )
    return Source(source / "model", run)


def _known_models(run: Path) -> str:
    names = [str(path.relative_to(run)) for path in models_of(run)]
    return f"pass --model with one of {', '.join(names)}" if names else "it holds no model directory at all"


def _evaluated_model(run: Run) -> Path:
    """The model that an evaluation played, if it is still what it was."""
    stored = run.manifest.get("inputs", {}).get("checkpoint", {})
    path = Path(str(stored.get("path")))
    if not is_model(path) or directory_sha256(path) != stored.get("sha256"):
        raise ValueError(
            f"run={str(run.path)!r} evaluated the model {str(path)!r}, which is not there any more or has changed;"
            " export the model directory itself"
        )
    return path


def _evaluation_of(model: Path, path: Path) -> Run:
    run = read_run(path)
    stored = run.manifest.get("inputs", {}).get("checkpoint", {})
    if run.status != "finished" or stored.get("sha256") != directory_sha256(model):
        why = run.problem or ("not finished" if run.status != "finished" else "of another model")
        raise ValueError(
            f"evaluation={str(path)!r} is {why}; expected a finished run of recipes/evaluate.py with"
            f" checkpoint={model}"
        )
    return run


def _run_scores(run: Run) -> list[dict[str, Any]]:
    settings = run.config.get("eval", {})
    about = {"max_steps": settings.get("max_steps")} if isinstance(settings, Mapping) else {}
    return [_score_row(score) | about for score in run.scores()]


def _score_row(score: TaskScore) -> dict[str, Any]:
    return score._asdict() | {"returns": list(score.returns)}


def _provenance(run: Run) -> dict[str, Any]:
    """What made a model, without the paths of the machine where."""
    manifest, summary = run.manifest, run.summary
    about = {
        name: manifest.get(name) for name in ("recipe", "git_commit", "packages", "python", "device", "date")
    }
    about |= {
        name: summary[name]
        for name in ("scale", "seed", "target", "env_steps", "train_steps", "wall_seconds")
    }
    about["baselines"] = summary.get("baselines") or {}
    about["inputs"] = {name: item.get("sha256") for name, item in manifest.get("inputs", {}).items()}
    about["settings"] = _without_paths({name: run.config[name] for name in run.config if name not in LOCAL})
    return about


def _without_paths(value: Any) -> Any:
    """Settings with the last part of every path; ``collect.policy`` may be one."""
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    return value.rpartition("/")[2] if isinstance(value, str) else value
