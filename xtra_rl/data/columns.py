"""Per-row columns kept beside a dataset, such as a teacher's policy and value.

A column is a folder: ``data.bin`` with one record for each row, and ``column.json`` that says how many of its episodes
are done, for which state of the dataset, and what made them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtra_rl.data.append_file import AppendFile, DatasetError, verify_file
from xtra_rl.data.manifest import map_array
from xtra_rl.data.sealed_json import check_seal, write_sealed
from xtra_rl.files import FolderLock, to_plain


class ColumnWriter:
    """Write a column episode by episode; one that was begun with the same provenance is continued.

    Args:
        folder: of the column.
        name: of the column.
        lengths: rows of each episode of the dataset.
        fingerprint: state of the dataset.
        provenance: what makes the column, JSON values.
        commit_rows: rows after which what is written is committed, which waits for the disk.

    Attributes:
        num_episodes: how many are done; the caller goes on with the next.

    Raises:
        ValueError: if another writer is at work on the column.

    Example:
        A value for each row of an episode of three steps; the dataset makes the writer:

        >>> import tempfile
        >>> from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
        >>> path = f"{tempfile.mkdtemp()}/pong"
        >>> rows = {"pixels": np.zeros((4, 1, 8, 8), np.uint8), "action": np.zeros(4)}
        >>> rows |= {"reward": np.ones(4), "terminated": np.arange(4) == 2, "truncated": np.zeros(4) > 0}
        >>> with TrajectoryWriter(path, "pong", frame_shape=(1, 8, 8)) as writer:
        ...     _ = writer.add_episode(rows)
        >>> dataset = TrajectoryDataset(path)
        >>> column: ColumnWriter = dataset.column_writer("teacher_value")
        >>> with column:
        ...     column.add(np.full(4, 0.5, np.float32))
        ...     column.finish()
        >>> dataset.column("teacher_value")[0].shape
        torch.Size([4])
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        lengths: np.ndarray,
        fingerprint: str,
        provenance: Mapping[str, Any],
        commit_rows: int = 8192,
    ) -> None:
        self._folder, self._name, self._lengths = folder, name, lengths
        self._commit_rows = commit_rows
        self._pending_rows = 0
        self._lock = FolderLock(folder, owner="column writer")
        fresh: dict[str, Any] = {
            "name": name,
            "dataset": fingerprint,
            "provenance": to_plain(provenance),
            "layout": None,
            "num_episodes": 0,
            "complete": False,
            "file": None,
        }
        try:
            self._about = self._continued(fresh) or fresh
            self._file = AppendFile(folder / "data.bin", self._about["file"])
        except DatasetError:
            # What was begun is damaged: begin again.
            self._about = fresh
            self._file = AppendFile(folder / "data.bin")
        if self._about is fresh:
            (folder / "column.json").unlink(missing_ok=True)
        self.num_episodes = int(self._about["num_episodes"])

    def _continued(self, fresh: dict[str, Any]) -> dict[str, Any] | None:
        try:
            about = check_seal(json.loads((self._folder / "column.json").read_text()))
            same = all(about[key] == fresh[key] for key in ("dataset", "provenance"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return about if same and about["num_episodes"] > 0 else None

    def add(self, array: np.ndarray) -> None:
        """Add ``[T + 1, ...]``, a value for each row of the next episode.

        Raises:
            ValueError: if it does not fit the episode or the values before it.
        """
        number, total = self.num_episodes, len(self._lengths)
        if number >= total:
            raise ValueError(
                f"column {self._name!r} has more arrays than the {total} episodes; pass one for each"
            )
        length = int(self._lengths[number])
        if len(array) != length:
            raise ValueError(
                f"column {self._name!r} has {len(array)} rows for episode {number} of {length} rows; a row for the"
                " final observation is part of it"
            )
        layout = [array.dtype.newbyteorder("<").str, list(array.shape[1:])]
        if self._about["layout"] not in (None, layout):
            raise ValueError(
                f"column {self._name!r} changes from {self._about['layout']} to {layout} at episode {number}"
            )
        self._about["layout"] = layout
        self._file.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        self.num_episodes += 1
        self._pending_rows += length
        if self._pending_rows >= self._commit_rows or self.num_episodes == total:
            self._commit()

    def _commit(self) -> None:
        self._about |= {
            "file": self._file.sync(),
            "num_episodes": self.num_episodes,
            "complete": self.num_episodes == len(self._lengths),
        }
        write_sealed(self._folder / "column.json", self._about)
        self._pending_rows = 0

    def finish(self) -> None:
        """Check that every episode has its values.

        Raises:
            ValueError: if some have none.
        """
        if self.num_episodes < len(self._lengths):
            raise ValueError(
                f"column {self._name!r} ends after {self.num_episodes} of {len(self._lengths)} episodes; pass one array"
                " for each"
            )

    def close(self) -> None:
        """Let go of the folder; what is not committed is computed again next time."""
        self._file.close()
        self._lock.release()

    def discard(self) -> None:
        """Remove the column."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Column:
    """A column that belongs to the dataset with ``fingerprint`` (None: to any state of it).

    ``unfinished`` accepts one that is not complete, to look at it.

    Attributes:
        values: ``[rows, ...]``, mapped into memory.
        provenance: what made it.

    Raises:
        DatasetError: if it is missing, unfinished, damaged, of an older state of the dataset or of another provenance.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        fingerprint: str | None,
        provenance: Mapping[str, Any] | None = None,
        unfinished: bool = False,
    ) -> None:
        remedy = "annotate the dataset again: recipes/train_teacher.py, or dataset.write_column(...)"
        where = f"column {name!r} in {str(folder)!r}"
        try:
            about = check_seal(json.loads((folder / "column.json").read_text()))
            stored, made_by, complete = about["dataset"], about["provenance"], about["complete"]
            dtype, shape = np.dtype(about["layout"][0]), tuple(about["layout"][1])
        except FileNotFoundError:
            raise DatasetError(
                f"column {name!r} is missing from {str(folder.parent.parent)!r}; {remedy}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{where} is damaged ({error}); {remedy}") from error
        if fingerprint is not None and stored != fingerprint:
            raise DatasetError(f"{where} is stale: the dataset has changed since it was written; {remedy}")
        for key, value in (provenance or {}).items():
            if made_by.get(key) != to_plain(value):
                raise DatasetError(
                    f"{where} is stale: it was made with {key}={made_by.get(key)!r}, {key}={value!r} was asked;"
                    f" {remedy}"
                )
        if not (complete or unfinished):
            raise DatasetError(f"{where} is unfinished: {about['num_episodes']} episodes are done; {remedy}")
        self.provenance: dict[str, Any] = made_by
        self._file, self._entry = folder / "data.bin", about["file"]
        self.values = map_array(self._file, self._entry, dtype, shape)

    def verify(self) -> None:
        """Compare the hash of the values.

        Raises:
            DatasetError: naming the file if it differs.
        """
        verify_file(self._file, self._entry)
