"""What every recipe does with its config: start, complain, talk, log."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm.auto import tqdm

from xtra_rl import distributed
from xtra_rl.allocator import keep_freed_memory
from xtra_rl.envs import TASK_SETS, get_task, task_set
from xtra_rl.models import COMPONENTS
from xtra_rl.recipes.choices import check_choices
from xtra_rl.recipes.kinds import check_kinds
from xtra_rl.recipes.overrides import CONFIGS, check_overrides, groups_of
from xtra_rl.recipes.plugins import load_plugins
from xtra_rl.training.interrupt import Stopped, stop_signals
from xtra_rl.training.learner import NonFiniteLoss
from xtra_rl.training.loop import Iteration
from xtra_rl.training.schedules import linear
from xtra_rl.training.stopwatch import Stopwatch
from xtra_rl.transfer import TaskWeighting

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

#: Files that come with the repository, wherever a recipe is started.
OmegaConf.register_new_resolver("repository", lambda path: str(CONFIGS.parent / path), replace=True)

HELP = {"-h", "--help"}
SCALES = ("smoke", "quick", "laptop", "workstation", "paper", "auto")


def launch(main: Callable[[], None]) -> None:
    """Run a Hydra main: refuse misspelt keys, and resolve ``scale=auto``, which is ``quick``, the default."""
    try:
        check_overrides(Path(sys.argv[0]).stem, sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    given = [argument for argument in sys.argv[1:] if argument.startswith("scale=")]
    if given in ([], ["scale=auto"]):
        scale = "quick"  # also with a GPU: what takes days should be asked for
        words = [word for word in sys.argv[1:] if word not in given]
        # Beside the other overrides, since argparse wants them in one piece.
        place = next((place for place, word in enumerate(words) if "=" in word), len(words))
        sys.argv = [sys.argv[0], *words[:place], f"scale={scale}", *words[place:]]
        if not {*HELP, "--cfg", "-c", "--hydra-help", "--info"} & set(sys.argv):
            larger = "scale=workstation or paper" if torch.cuda.is_available() else "scale=laptop"
            print(f"scale=quick: minutes, to see it work; {larger} to learn more (--help)", flush=True)
    if HELP & set(sys.argv):
        print(inspect.cleandoc(sys.modules["__main__"].__doc__ or ""), end="\n\n")
    main()


def friendly(
    recipe: Callable[[DictConfig], Any], *, data_parallel: bool = False
) -> Callable[[DictConfig], Any]:
    """End with one sentence on a user's mistake, and with the whole traceback where HYDRA_FULL_ERROR=1.

    A recipe that is ``data_parallel`` runs on every rank that torchrun starts.
    """

    @wraps(recipe)
    def wrapper(cfg: DictConfig) -> Any:
        how = "" if cfg.resume == "auto" else " with resume=auto"
        try:
            check_kinds(Path(recipe.__code__.co_filename).stem, plain(cfg))
            load_plugins(cfg.plugins)
            prepare_process(cfg, data_parallel=data_parallel)
            with stop_signals():
                result = recipe(cfg)
            distributed.leave()
            return result
        except distributed.LostRank as lost:
            print(
                f"error: {lost}; the run ends. If another process has said why, that comes first; else the same command"
                f"{how} goes on from its last checkpoint (torchrun --max-restarts=3 does so by itself).",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # a normal exit would wait for the one that is gone
        except Stopped as stop:
            say(f"{stop}; the same command{how} goes on from here")
            sys.exit(stop.exit_code)
        except (ValueError, FileNotFoundError, NonFiniteLoss) as error:
            if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
                raise
            if distributed.is_told_elsewhere(error):
                sys.exit(1)
            where = f"rank {distributed.rank()}: " if not distributed.is_main() else ""
            sys.exit(f"error: {where}{error}")
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS or os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
                raise
            sys.exit(
                f"error: {error}; make room or choose another run_dir and artifacts, then the same command goes on"
            )

    return wrapper


def prepare_process(cfg: DictConfig, *, data_parallel: bool = False) -> None:
    """Check what no component would see, join the other ranks, set threads, quieten the libraries' chatter."""
    if not data_parallel and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "this recipe runs in one process: start it by python, not by torchrun (which is for xtra_finetune, distill,"
            " train_teacher, collect_offline and profile)"
        )
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    check_choices(cfg, loggers_of(cfg), device_of(cfg))
    distributed.join(device_of(cfg).type)
    keep_freed_memory()
    logging.getLogger("torchrl").setLevel(logging.WARNING)


def say(text: str) -> None:
    """A line for the person at the terminal, above any progress bar; of several ranks the main one talks."""
    if not distributed.is_main():
        return
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def show(cfg: DictConfig, bar: Any, now: Iteration) -> None:
    """Loss beside a progress bar."""
    if "loss/total" in now.metrics and now.train_steps % cfg.log_every == 0:
        bar.set_postfix(loss=round(float(now.metrics["loss/total"]), 3))


def beta(cfg: DictConfig, step: int, steps: int) -> float:
    """Exponent of the importance weights after ``step`` of ``steps``."""
    start, end = cfg.replay.beta
    return linear(step, start, end, steps)


def device_of(cfg: DictConfig) -> torch.device:
    """``device=auto`` takes a GPU if there is one."""
    if str(cfg.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device is {cfg.device!r}, but PyTorch sees no GPU here; pass device=cpu or device=auto"
        )
    if cfg.device != "auto":
        try:
            return torch.device(cfg.device)
        except RuntimeError as error:
            raise ValueError(f"device is {cfg.device!r}; expected auto, cpu or cuda") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def auto_or_bool(key: str, value: Any) -> bool | None:
    """None for ``auto``."""
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}; expected auto, true or false")
    return value


def how_to_resume(cfg: DictConfig) -> str:
    """How to deal with what is there: ``auto``, ``restart`` or ``never``.

    A run that torchrun starts anew after it has lost a process goes on, whatever the first start was to do.

    Raises:
        ValueError: for any other way.
    """
    if cfg.resume not in ("auto", "restart", "never"):
        raise ValueError(f"resume is {cfg.resume!r}; expected auto, restart or never")
    return "auto" if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) else cfg.resume


def plain(node: Any) -> dict[str, Any]:
    """A config node as plain Python data."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


#: Settings that say how something is computed, by section: on another machine they may be others.
_MACHINE = {"search": ("backend", "max_bytes", "cuda_graph"), "targets": ("memory_bytes",)}


def without_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide what is computed."""

    def kept(section: str, value: Any) -> Any:
        return {key: item for key, item in value.items() if key not in _MACHINE[section]}

    return {key: kept(key, value) if key in _MACHINE else value for key, value in settings.items()}


def unusual_computation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of precision, processes and workers with which a seed computes something else; empty by default."""
    norm = settings.get("data_parallel", {}).get("batch_norm", "synchronised")
    found = {"data_parallel.batch_norm": norm} if norm != "synchronised" else {}
    if settings.get("autocast"):
        found["autocast"] = settings["autocast"]
    if (dtype := settings.get("inference", {}).get("dtype", "float32")) != "float32":
        found["inference.dtype"] = dtype
    workers = settings.get("workers", {})  # absent from runs of before there were any
    keys = ("collection", "collect_ahead", "max_staleness")
    return found | {f"workers.{key}": workers[key] for key in keys if workers.get(key)}


def jobs_beside(count: int) -> int:
    """How many of so many parts Hydra runs on this machine at once: all, with a launcher that starts processes here."""
    launcher = HydraConfig.get().runtime.choices.get("hydra/launcher") if HydraConfig.initialized() else None
    return count if launcher in ("joblib", "submitit_local") else 1


def search_settings(cfg: DictConfig) -> dict[str, Any]:
    """What a search finds depends on these."""
    return without_machine(plain(cfg))["search"]


def checkpoint_of(cfg: DictConfig) -> Path:
    """The model directory that a recipe is asked to look at."""
    if cfg.checkpoint is None:
        raise ValueError(
            "checkpoint is missing; pass a model directory, e.g. checkpoint=runs/xtra_finetune/.../model"
        )
    return Path(cfg.checkpoint)


def target_of(cfg: DictConfig) -> str:
    """Canonical name of the target task."""
    return get_task(cfg.target).name


def cross_tasks_of(cfg: DictConfig) -> list[str]:
    """The cross tasks: as listed, or the first of a task set without the target."""
    target = target_of(cfg)
    if cfg.cross_tasks is not None:
        tasks = [get_task(name).name for name in cfg.cross_tasks]
        if target in tasks and cfg.student:
            raise ValueError(
                f"cross_tasks is {tasks} and names the target {target!r}; if the student has learnt it, take another"
                " target or a student of other games"
            )
        if target in tasks or len(set(tasks)) < len(tasks) or not tasks:
            raise ValueError(
                f"cross_tasks is {tasks}; expected at least one task, each once, without target {target!r}"
            )
        return tasks
    name = cfg.task_set or get_task(target).category
    if name not in TASK_SETS:
        raise ValueError(
            f"target {target!r} is of category {name!r}, of which no other games are known to learn from; pass"
            f" task_set, one of {', '.join(name for name in groups_of()['task_set'] if name != 'category')}, or"
            " cross_tasks=[...]; or cross_task=false pretrained=false to learn it alone"
        )
    return list(task_set(name, without=target))[: cfg.num_cross_tasks]


def env_kwargs(cfg: DictConfig) -> dict[str, Any]:
    """Arguments of ``make_env`` for any task."""
    return plain(cfg.env)


def run_name(cfg: DictConfig) -> str:
    """Default name of a finetuning run, with the ablations of the paper's Table 1 spelt out."""
    parts = [target_of(cfg), cfg.scale]
    parts += [f"no_{flag}" for flag in ("pretrained", "cross_task", "task_weights") if not cfg[flag]]
    parts += [cfg.task_weighting] if cfg.task_weighting != "cosine" else []
    parts += [f"freeze_{'_'.join(cfg.freeze)}"] if cfg.freeze else []
    parts += [f"transfer_{'_'.join(cfg.transfer)}"] if len(cfg.transfer) < len(COMPONENTS) else []
    return "-".join([*parts, f"s{cfg.seed}"])


def frame_shape(cfg: DictConfig) -> tuple[int, int, int]:
    """``(C, H, W)`` of one frame."""
    return (1 if cfg.env.grayscale else 3, cfg.env.image_size, cfg.env.image_size)


def loggers_of(cfg: DictConfig) -> list[str]:
    """``logger=wandb`` and ``logger=[csv,wandb]`` are both understood."""
    return [cfg.logger] if isinstance(cfg.logger, str) else list(cfg.logger)


def task_weight_metrics(scheduler: TaskWeighting | None) -> dict[str, float]:
    """Weights, and the mean cosines of the open or last measuring window."""
    if scheduler is None:
        return {}
    weights = {f"task_weight/{task}": weight for task, weight in scheduler.weights.items()}
    return weights | {f"grad_cos/{task}": cosine for task, cosine in scheduler.mean_cosines.items()}


def throughput(watch: Stopwatch) -> dict[str, float]:
    """Steps a second of training, and milliseconds per training step by phase, since the last call."""
    env_steps, train_steps, seconds = watch.env_steps, watch.train_steps, watch.read()
    elapsed = max(sum(seconds.values()), 1e-9)
    rates = {"env": env_steps / elapsed, "train": train_steps / elapsed}
    times = {f"{phase}_ms_per_train_step": 1e3 * s / max(train_steps, 1) for phase, s in seconds.items()}
    named = {f"{kind}_steps_per_s": rate for kind, rate in rates.items() if rate} | times
    return {f"throughput/{name}": value for name, value in named.items()}
