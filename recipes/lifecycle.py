"""The life of a run and of its stages: opened, continued, saved now and then, stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig

from xtra_rl import distributed
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.files import to_plain
from xtra_rl.recipes import common
from xtra_rl.recipes.plugins import plugin_files
from xtra_rl.runs.settings import differences
from xtra_rl.search.checks import NotFiniteError
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner, NonFiniteLoss
from xtra_rl.training.loop import Iteration, train_offline
from xtra_rl.training.progress import progress
from xtra_rl.training.run import RunDirectory
from xtra_rl.training.session import Stateful, TrainingSession, parse_duration
from xtra_rl.training.stopwatch import Stopwatch
from xtra_rl.wording import first_of

#: Where a run lives and when it stops, not what it computes.
FREE_KEYS = ("run_dir", "artifacts", "plugins", "resume", "logger", "wandb_mode", "wandb_project")
FREE_KEYS += (
    "budget",
    "early_stop",
    "checkpoint",
    "watchdog",
    "device",
    "threads",
    "prefetch",
    "data_parallel",
    "workers",
)


def check_same_settings(cfg: DictConfig, run: RunDirectory, state: str) -> None:
    """Refuse to take a run of other settings, ``state`` says which, for this one."""
    there, here = (common.without_machine(each) for each in (run.read_config(), to_plain(common.plain(cfg))))
    compared = [key for key in here if key not in FREE_KEYS]
    there, here = (
        {key: each[key] for key in compared if key in each} | common.unusual_computation(each)
        for each in (there, here)
    )
    if other := differences(there, here):
        said = [f"{key} {before} there, {now} here" for key, (before, now) in other.items()]
        raise ValueError(
            f"{run.path} holds {state} run of other settings ({first_of(said, 4, '; ')}); pass another run_dir,"
            " or resume=restart to replace it"
        )


@contextmanager
def open_run(cfg: DictConfig, path: str | Path) -> Iterator[RunDirectory]:
    """The run directory, owned by this process meanwhile; what it gives up on ``restart`` and ``never`` is removed.

    Raises:
        ValueError: if another process owns it, or the run in it has other settings.
    """
    how = common.how_to_resume(cfg)
    run = RunDirectory(path)

    def take() -> None:
        stack.enter_context(run.owned())
        if how != "auto":
            run.clear()
        elif run.is_finished:
            check_same_settings(cfg, run, "a finished")
        elif run.has_checkpoint:
            check_same_settings(cfg, run, "an unfinished")

    with ExitStack() as stack:
        distributed.on_main(take)
        yield run


def is_over(cfg: DictConfig, run: RunDirectory) -> bool:
    """Whether there is nothing left to do: a run that was stopped early goes on if its limits are other ones now."""
    return distributed.on_main(lambda: _is_over(cfg, run))


def _is_over(cfg: DictConfig, run: RunDirectory) -> bool:
    if not run.is_finished:
        return False
    limits = ("budget", "early_stop")
    there, here = run.read_config(), common.plain(cfg)
    if run.read_summary().get("stopped") is None or all(there.get(key) == here[key] for key in limits):
        return True
    run.reopen()
    return False


def describe(cfg: DictConfig, run: RunDirectory, recipe: str, inputs: Mapping[str, Path]) -> None:
    """Write what the run is made of, or check that a run that goes on is still made of that."""
    code = {f"plugin {name}": file for name, file in plugin_files(list(cfg.plugins)).items()}
    distributed.on_main(lambda: _describe(cfg, run, recipe, {**inputs, **code}))


def _describe(cfg: DictConfig, run: RunDirectory, recipe: str, inputs: Mapping[str, Path]) -> None:
    if run.has_checkpoint:
        run.continue_manifest(common.plain(cfg), inputs)
    else:
        run.write_manifest(
            recipe=recipe, config=common.plain(cfg), device=str(common.device_of(cfg)), inputs=inputs
        )
    run.write_config(common.plain(cfg))


def reason_to_stop(cfg: DictConfig, suite: EvaluationSuite, session: TrainingSession) -> str | None:
    """Why a run should come to its end now, or None; known from what checkpoints hold, so a kill changes nothing."""
    if session.budget_is_spent:
        return f"budget={cfg.budget} was spent"
    if not suite.history:
        return None
    scores = [results[suite.modes[0]].mean_return for _, results in suite.history]
    score, patience = cfg.early_stop.score, cfg.early_stop.patience
    if score is not None and scores[-1] >= score:
        return f"early_stop.score={score} was reached"
    if patience is not None and len(scores) - 1 - scores.index(max(scores)) >= patience:
        return f"early_stop.patience={patience} evaluations were not better than the best"
    return None


def play_on_main(suite: EvaluationSuite, play: Callable[[], None]) -> None:
    """Let the main rank evaluate, and give the others the scores: what comes next depends on them."""
    state = distributed.on_main(lambda: (play(), suite.state_dict())[1])
    if not distributed.is_main():
        suite.load_state_dict(state)


def session(
    cfg: DictConfig, folder: Path, components: Mapping[str, Stateful], *, budget: bool = False
) -> TrainingSession:
    """Checkpoints of a training stage as the config says; only a run has a budget."""
    settings = cfg.checkpoint
    return TrainingSession(
        folder,
        components,
        every=parse_duration(settings.every) if settings.every is not None else None,
        keep=settings.keep,
        keep_every=settings.keep_every,
        budget=parse_duration(cfg.budget) if budget and cfg.budget is not None else None,
    )


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for the checkpoints of what is built there; gone once that is complete."""
    folder = path.with_name(f"{path.name}.training")
    yield folder
    if distributed.is_main():
        shutil.rmtree(folder, ignore_errors=True)


def learn_offline(
    cfg: DictConfig,
    source: BatchSource,
    learner: Learner,
    folder: Path,
    *,
    train_steps: int,
    description: str,
    save: Callable[[Path], Path],
) -> None:
    """Train on stored data with a progress bar, go on where ``folder`` was left, and say where the time went."""
    watch = Stopwatch()
    learner.max_skipped = 0  # what others build on must not have left out anything
    with session(cfg, folder, {"learner": learner, "source": source}) as kept:
        start = kept.restore()
        loop = stop_on_bad_loss(
            train_offline(source, learner, train_steps=train_steps, watch=watch), folder, save
        )
        with progress(train_steps, description=description, unit="train step", initial=start) as bar:
            for now in loop:
                bar.update()
                source.set_beta(common.beta(cfg, now.train_steps, train_steps))
                common.show(cfg, bar, now)
                kept.ends_after(now.position)
        # The stage is over but for its model: a kill from here on costs nothing.
        kept.save(train_steps)
    say_where_time_went(watch, train_steps - start)


def say_where_time_went(watch: Stopwatch, train_steps: int) -> None:
    """A line with the milliseconds of a training step by phase; ``sample`` and ``wait`` are waiting for data."""
    seconds = watch.read()
    if not seconds:
        return
    total = max(sum(seconds.values()), 1e-9)
    parts = [
        f"{phase} {1e3 * s / train_steps:.1f} ms ({100 * s / total:.1f} %)" for phase, s in seconds.items()
    ]
    common.say(f"a training step: {', '.join(parts)}")


def stop_on_bad_loss(
    loop: Iterator[Iteration], folder: Path, save: Callable[[Path], Path]
) -> Iterator[Iteration]:
    """Pass a training loop on; on a bad loss keep the last good model and the batch in ``folder``, and say where."""
    try:
        yield from loop
    except NonFiniteLoss as error:
        # The learner raises before it touches the weights, so the model is still the last good one.
        model_path = save(folder / "models" / "last-good")
        batch_path = keep_batch(folder, error)
        message = f"{error}; the run stops. Last good model: {model_path}; the batch: {batch_path}"
        raise NonFiniteLoss(message, error.batch) from error
    except NotFiniteError as error:
        # The loss was finite but the step it led to was not: the weights are lost.
        saved = [*folder.glob("models/step-*"), *folder.rglob("step_*")]
        newest = max(saved, key=lambda path: path.stat().st_mtime, default="none")
        raise NotFiniteError(
            f"{error} The run stops, since its weights are spoilt. Last saved: {newest}"
        ) from error


def keep_batch(folder: Path, error: NonFiniteLoss) -> Path:
    """Save the batch of a bad loss, each rank its part, to be looked at: ``torch.load(path, weights_only=True)``."""
    part = f"-rank-{distributed.rank()}" if distributed.world_size() > 1 else ""
    number = len(list(folder.glob(f"bad-batches/batch-*{part}.pt")))
    path = folder / "bad-batches" / f"batch-{number}{part}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(error.batch.detach().cpu().to_dict(), path)
    return path


def report_skipped(run: RunDirectory) -> Callable[[NonFiniteLoss], None]:
    """What a learner calls for a batch that it leaves out."""
    return lambda error: common.say(f"warning: {error}; the batch: {keep_batch(run.path, error)}")
