"""Trained models by path or by their name on the Hugging Face hub: :func:`load_pretrained`."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import torch

from xtra_rl.files import recover_directory
from xtra_rl.models.description import ModelDescription
from xtra_rl.models.factory import make_world_model
from xtra_rl.models.world_model import WorldModel
from xtra_rl.training.model_files import WEIGHTS, load_into, load_model_weights

#: The files of an exported model; nothing else is downloaded.
FILES = ("README.md", "config.json", WEIGHTS)

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
) -> WorldModel:
    """Build the world model of a directory, with its weights, in eval mode.

    Args:
        path: what ``python -m xtra_rl.runs export`` or :func:`~xtra_rl.training.model_files.save_model` wrote, or,
            where there is no such folder, ``owner/name`` of a model on the Hugging Face hub (needs
            ``huggingface_hub``).
        revision: branch, tag or commit on the hub.
        device: where the model goes.

    Returns:
        A :class:`~xtra_rl.models.WorldModel`. Its ``config`` holds the arguments that built it, its ``description`` (a
        :class:`~xtra_rl.models.ModelDescription`) the tasks, scores, environment and search.

    Raises:
        ValueError: if a file is missing, corrupt, of another format or format version, if it does not describe a model
            that this version can build, or if it cannot be downloaded. Nothing is unpickled.

    Example:
        >>> import tempfile, xtra_rl
        >>> from xtra_rl.training.model_files import save_model
        >>> model = make_world_model(image_size=32, channels=8, lstm_hidden=16, support_size=10)
        >>> about = {"tasks": ["pong"], "env": {"image_size": 32}}
        >>> folder = save_model(tempfile.mkdtemp(), model, config=model.config, metadata=about)
        >>> model = xtra_rl.load_pretrained(folder)
        >>> model.training, model.config["channels"], model.description.tasks, model.description.env["image_size"]
        (False, 8, ('pong',), 32)
    """
    folder = _local_folder(path, revision)
    files = load_model_weights(folder)
    if not files.config:
        raise ValueError(
            f"model={str(path)!r} was composed of its author's own modules, so config.json cannot say how to build it;"
            " compose it again and call xtra_rl.training.model_files.load_into"
        )
    try:
        model = make_world_model(**files.config)
        description = ModelDescription.from_metadata(files.metadata)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} does not describe a model that this version of xtra_rl can build: {error};"
            " use the version that wrote it"
        ) from error
    load_into(model, folder)
    model.description = description
    return model.to(device).eval()


def _local_folder(path: str | os.PathLike[str], revision: str | None) -> Path:
    recover_directory(path)
    if Path(path).is_dir() or isinstance(path, os.PathLike):
        return Path(path)
    if not _HUB_NAME.fullmatch(path):
        raise ValueError(
            f"model={path!r} is not a folder; pass one with config.json and {WEIGHTS}, or owner/name of a model on the"
            " Hugging Face hub"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f"model={path!r} is not a folder; if it is the name of a model on the Hugging Face hub, pip install"
            " huggingface_hub to download it"
        )
    return _download(path, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # Of the network, the account, the name, the disk: the hub's own, and many.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"model={name!r} is neither a folder nor a model that could be downloaded from the Hugging Face hub"
            f" ({type(error).__name__}: {reason}); check the name, the network and the account"
        ) from error
