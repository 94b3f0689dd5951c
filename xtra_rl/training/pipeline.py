"""Which artifact comes from where: given by path, reused from the artifact folder, or built.

An artifact is a directory that is named after a hash of the settings that make it. It is built in a hidden
sibling and moved into place when complete, so a build that was killed is never taken for a finished one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xtra_rl.distributed import is_main, on_main
from xtra_rl.files import config_sha256, read_json, to_plain, write_json

try:
    import fcntl
except ImportError:  # Windows has no fcntl; two processes may then build the same artifact twice.
    fcntl = None  # type: ignore[assignment]

__all__ = ["MissingArtifact", "Pipeline"]

ArtifactKind = Literal["dataset", "teacher", "student"]
KINDS: tuple[ArtifactKind, ...] = ("dataset", "teacher", "student")
DESCRIPTION = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """An input that a pipeline resolved."""

    kind: ArtifactKind
    name: str
    path: Path


class MissingArtifact(LookupError):
    """Something that would have to be built first."""


class Pipeline:
    """Resolve the inputs of a recipe inside one artifact folder.

    Args:
        root: the artifact folder; holds ``datasets/``, ``teachers/`` and ``students/``.
        scale: name of the scale; part of what makes an artifact, and of the announcements.
        build: whether what is missing is built; :class:`MissingArtifact` is raised otherwise.

    Example:
        >>> import tempfile
        >>> pipeline = Pipeline(tempfile.mkdtemp(), "smoke")
        >>> def build(path):
        ...     (path / "episodes.bin").write_bytes(b"")
        >>> path = pipeline.resolve(
        ...     "dataset", "pong", key={"episodes": 4}, build=build, announce=lambda text: None
        ... )
        >>> sorted(file.name for file in path.iterdir())
        ['artifact.json', 'episodes.bin']
    """

    def __init__(self, root: str | os.PathLike[str], scale: str, *, build: bool = True) -> None:
        self.root = Path(root)
        self.scale = scale
        self.builds = build
        self.resolved: list[Artifact] = []

    def resolve(
        self,
        kind: ArtifactKind,
        name: str,
        *,
        given: str | os.PathLike[str] | None = None,
        key: Mapping[str, Any],
        build: Callable[[Path], None],
        announce: Callable[[str], None],
        resumable: bool = False,
    ) -> Path:
        """Path of an artifact that exists when this returns.

        All ranks of a distributed run call this together: the main one looks, decides and locks, all of them build.

        Args:
            kind: what it is.
            name: task or task set.
            given: a path of the user's; used as it is.
            key: all settings that make the artifact, plain values.
            build: called with an empty folder to fill, only if no finished artifact has this key.
            announce: called with one sentence: what is used or built, and why.
            resumable: ``build`` can go on with a folder that an earlier call left half filled.

        Raises:
            ValueError: if ``given`` does not exist or is another kind of artifact.
            MissingArtifact: if it would have to be built, and this pipeline does not build.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; known kinds: {', '.join(KINDS)}")
        if given is not None:
            path = _check_given(kind, name, Path(given))
            announce(f"{kind} {name}: using {path}")
        else:
            path = self._find_or_build(
                kind, name, to_plain({"scale": self.scale, **key}), build, announce, resumable
            )
        self.resolved.append(Artifact(kind, name, path))
        return path

    def path_of(self, kind: ArtifactKind, name: str, key: Mapping[str, Any]) -> Path:
        """Where the artifact with these settings is or will be."""
        digest = config_sha256({"scale": self.scale, **key})[:8]
        return self.root / f"{kind}s" / f"{name}-{digest}"

    def _find_or_build(
        self,
        kind: ArtifactKind,
        name: str,
        key: dict[str, Any],
        build: Callable[[Path], None],
        announce: Callable[[str], None],
        resumable: bool,
    ) -> Path:
        path = self.path_of(kind, name, key)
        temporary = path.with_name(f".{path.name}.building")

        def is_there() -> bool:
            if _is_complete(path, key):
                announce(f"{kind} {name}: reusing {path}")
                return True
            if not self.builds:
                raise MissingArtifact(f"{kind} {name}: there is no {path}")
            if path.exists():
                raise ValueError(
                    f"{kind} {name}: {str(path)!r} exists but is not a finished {kind} ({DESCRIPTION} is "
                    "missing or of other settings); move it away, or pass the path of a finished one"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            return False

        def was_built_meanwhile() -> bool:
            stack.enter_context(
                locked(path.with_name(f".{path.name}.lock"), lambda: announce(_waiting(kind, name)))
            )
            if _is_complete(path, key):
                announce(f"{kind} {name}: reusing {path}, which another process has just built")
                return True
            # This process holds the lock, so what is there was left by a build that was killed.
            if not resumable:
                shutil.rmtree(temporary, ignore_errors=True)
            if temporary.exists():
                announce(f"{kind} {name}: continuing the build that was left in {temporary}")
            else:
                announce(
                    f"{kind} {name}: building it at scale {self.scale}, because {_reason(path, name, key)}"
                )
                temporary.mkdir()
            return False

        def finish() -> None:
            write_json(temporary / DESCRIPTION, {"kind": kind, "name": name, "key": key})
            os.replace(temporary, path)

        with contextlib.ExitStack() as stack:
            if on_main(is_there) or on_main(was_built_meanwhile):
                return path
            try:
                build(temporary)
                on_main(finish)
            finally:
                if not resumable and is_main():
                    shutil.rmtree(temporary, ignore_errors=True)
        return path


def read_artifact(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What made an artifact (``kind``, ``name``, ``key`` with all settings); None for another folder."""
    file = Path(path) / DESCRIPTION
    return read_json(file) if file.is_file() else None


def _check_given(kind: str, name: str, path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(
            f"{kind} {name}: the path {str(path)!r} is not a directory; pass an existing one, or none to "
            "have it built"
        )
    if not any(path.iterdir()):
        raise ValueError(f"{kind} {name}: the directory {str(path)!r} is empty; pass a finished {kind}")
    found = read_artifact(path)
    if found and found["kind"] != kind:
        raise ValueError(f"{kind} {name}: {str(path)!r} is a {found['kind']}, but a {kind} was expected")
    return path


def _is_complete(path: Path, key: Mapping[str, Any]) -> bool:
    found = read_artifact(path)
    return found is not None and found["key"] == key


def _waiting(kind: str, name: str) -> str:
    return f"{kind} {name}: waiting for another process that is building it"


def _reason(path: Path, name: str, key: Mapping[str, Any]) -> str:
    """Why nothing can be reused; compares with the most similar artifact of the same name."""
    others = []
    for folder in path.parent.glob(f"{name}-*"):
        description = read_artifact(folder)
        if description and description["name"] == name:
            others.append((len(_differences(description["key"], key)), folder.name, description["key"]))
    if not others:
        return f"there is none in {path.parent}"
    _, folder_name, other_key = min(others, key=lambda other: other[:2])
    settings = "; ".join(_differences(other_key, key))
    return f"the settings of {folder_name} differ: {settings}"


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    result = []
    for name in [*wanted, *(name for name in there if name not in wanted)]:
        old, new = there.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            result += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            result.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return result


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that the operating system releases when the process ends, however it ends."""
    with open(path, "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
