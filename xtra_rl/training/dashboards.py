"""What a run shows in Weights & Biases and in TensorBoard, without anything to set up there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtra_rl.files import atomic_write_text

if TYPE_CHECKING:
    from wandb.plot import CustomChart

#: Charts of several lines in TensorBoard's tab "Custom scalars".
_LAYOUT = {
    "transfer": {
        "task weights": ["Multiline", ["task_weight/.*"]],
        "gradient cosines": ["Multiline", ["grad_cos/.*"]],
    },
    "scores": {"returns": ["Multiline", ["eval/.*/return", "eval/.*/return_sampled"]]},
}

_WAYS_OUT = "run `wandb login`, or use wandb_mode=offline (no account, no network) or logger=csv"


def start_tensorboard(path: Path, run_name: str, config: Mapping[str, Any]) -> Any:
    """A TorchRL logger that writes below ``path/tensorboard``.

    Raises:
        ValueError: if TensorBoard is not installed.
    """
    try:
        from torchrl.record.loggers.tensorboard import TensorboardLogger

        logger = TensorboardLogger(exp_name=run_name, log_dir=str(path / "tensorboard"))
    except ImportError as error:
        raise ValueError(f"logger 'tensorboard' cannot start ({error}); pip install tensorboard") from error
    import yaml

    logger.experiment.add_text("config", f"```\n{yaml.safe_dump(config, sort_keys=False)}```")
    logger.experiment.add_custom_scalars(_LAYOUT)
    return logger


def check_wandb(mode: str | None) -> None:
    """Refuse to go on where wandb would not start, or would have to ask who is there.

    Args:
        mode: online, offline or disabled; None takes the environment's ``WANDB_MODE``, else online.

    Raises:
        ValueError: if wandb is not installed, or is to be online and nobody is logged in.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"logger 'wandb' cannot start ({error}); pip install wandb") from error
    online = (mode or os.environ.get("WANDB_MODE") or "online") == "online"
    if online and not (wandb.api.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")):
        raise ValueError(f"logger 'wandb' cannot start (nobody is logged in); {_WAYS_OUT}")


def start_wandb(path: Path, about: Mapping[str, Any], x_axis: str, *, resume: bool) -> Any:
    """A TorchRL logger of a wandb run whose local files lie below ``path/wandb``.

    Args:
        path: the run directory; keeps the id of the wandb run.
        about: arguments of ``wandb.init``: ``name``, ``project``, ``config``, ``mode``, ``group``, ``job_type``,
            ``tags``.
        x_axis: metric that all others are drawn against.
        resume: go on in the wandb run whose id is there.

    Raises:
        ValueError: if wandb refuses to start.
    """
    id_file = path / "wandb_run_id.txt"
    run_id = id_file.read_text().strip() if resume and id_file.is_file() else None
    about = {**about, "group": os.environ.get("WANDB_RUN_GROUP") or about["group"]}
    try:
        from torchrl.record.loggers.wandb import WandbLogger

        # Not through WandbLogger(offline=True): that sets WANDB_MODE for the rest of the process.
        # "create_new": a stage that runs inside another one must not write into the other's run.
        # The list of packages (with paths of the machine) is left out: the run's manifest has the versions.
        logger = WandbLogger(
            exp_name=about.pop("name"),
            save_dir=str(path),
            id=run_id,
            reinit="create_new",
            log_env_packages=False,
            **about,
        )
    except Exception as error:
        raise ValueError(
            f"logger 'wandb' cannot start ({type(error).__name__}: {error}); {_WAYS_OUT}"
        ) from error
    atomic_write_text(id_file, logger.experiment.id)
    logger.experiment.define_metric("env_step")
    logger.experiment.define_metric("train_step")
    logger.experiment.define_metric("*", step_metric=x_axis)
    return logger


def wandb_video(path: Path) -> Any:
    """A video from its file: TorchRL's own ``log_video`` would need moviepy to encode the tensor a second time."""
    import wandb

    return wandb.Video(str(path), format=path.suffix[1:])  # type: ignore[arg-type]


def wandb_image(path: Path) -> Any:
    """A picture from its file."""
    import wandb

    return wandb.Image(str(path))


def wandb_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A table that wandb can filter, group and draw."""
    import wandb

    columns: list[str | int] = list(rows[0])
    return wandb.Table(columns=columns, data=[[row[str(name)] for name in columns] for row in rows])


def wandb_lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, x_name: str
) -> CustomChart:
    """One chart with all lines."""
    import wandb

    xs, ys = ([[float(v) for v in part] for part in parts] for parts in zip(*series.values(), strict=True))
    return wandb.plot.line_series(xs, ys, keys=list(series), title=title.replace("_", " "), xname=x_name)
