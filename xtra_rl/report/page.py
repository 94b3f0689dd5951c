"""Write a report: one HTML page that needs nothing beside it, and its pictures and tables as files."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import xtra_rl
from xtra_rl.files import atomic_write_text, write_csv, write_directory
from xtra_rl.report.collect import Group
from xtra_rl.report.diagnoses import DiagnosedModel, diagnosis_pictures, diagnosis_table
from xtra_rl.report.efficiency import ablation_table, efficiency_table
from xtra_rl.report.facts import head, protocols_differ, runs_table
from xtra_rl.report.media import Video, game_sheets, videos
from xtra_rl.report.paper_tables import paper_tables
from xtra_rl.report.pictures import Picture, pictures
from xtra_rl.report.tables import Table, aggregates_table, offline_table, scores_table
from xtra_rl.runs.tables import size_text

__all__ = ["write_report"]

PAGE = "index.html"
_LEFT_OUT = "findings"


#: Tables of a study's own numbers, those beside the paper's come after them.
_TABLES = (scores_table, aggregates_table, efficiency_table, ablation_table)


@dataclass(frozen=True)
class Shown:
    """A table or picture on the page: where its files lie, relative to the page, and how wide it is shown."""

    content: Table | Picture
    csv: str
    png: str = ""
    source: str = ""
    width: int = 0


def write_report(
    groups: Sequence[Group],
    out: str | os.PathLike[str],
    *,
    title: str = "Report",
    diagnoses: Sequence[DiagnosedModel] = (),
    max_video_bytes: int = 20_000_000,
    command: str = "",
    on_part: Callable[[str], None] = lambda part: None,
) -> Path:
    """Write ``index.html``, ``figures/*.png`` and ``tables/*.csv`` into a folder; returns the page.

    Args:
        groups: what :func:`xtra_rl.report.collect.collect` returned.
        out: a new folder, or one of an earlier report, which is replaced once the new one is complete.
        title: of the page.
        diagnoses: of models, from :func:`xtra_rl.report.diagnoses.find_diagnoses`.
        max_video_bytes: of all videos inside the page together; 0 leaves videos out.
        command: that made the report, for the foot of the page.
        on_part: called with a word for the reader before each part is made.

    Raises:
        ValueError: if ``out`` is a file, or holds anything but a report.

    Example:
        >>> import tempfile
        >>> from xtra_rl.training.logging import RunLogger
        >>> from xtra_rl.training.run import RunDirectory
        >>> folder = tempfile.mkdtemp()
        >>> for seed in (0, 1):
        ...     run, config = RunDirectory(f"{folder}/seed{seed}"), {"target": "pong", "scale": "quick", "seed": seed}
        ...     run.write_config(config)
        ...     _ = run.write_manifest(recipe="xtra_finetune", config=config, device="cpu")
        ...     with RunLogger(run.path) as logger:
        ...         logger.log({"eval/pong/return": 3.0 + seed}, env_step=100, train_step=100)
        >>> from xtra_rl.report.collect import collect
        >>> write_report(collect([folder]), f"{folder}/report").name
        'index.html'
    """
    out = Path(out)
    _check(out)

    def write(folder: Path) -> None:
        sections, left = [], max_video_bytes
        for place, group in enumerate(groups):
            name = f"{place + 1}-{_slug(group.study.experiment)}" if len(groups) > 1 else ""
            on_part(group.study.title)
            clips = videos(group, left) if max_video_bytes else []
            left -= sum(clip.size for clip in clips if clip.content is not None)
            sections.append(_section(group, folder, name, clips))
        on_part("game sheets")
        page = _environment().get_template("report.html.j2").render(
            title=title,
            sections=sections,
            diagnosis=_diagnosis(diagnoses, folder),
            games=game_sheets(list(groups)),
            version=xtra_rl.__version__,
            command=command,
            css=_asset("report.css"),
            js=_asset("report.js"),
        )  # fmt: skip
        atomic_write_text(folder / PAGE, page)

    write_directory(out, write)
    return out / PAGE


def _check(out: Path) -> None:
    """Refuse to replace anything but an earlier report."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r} is a file; expected a folder for the report")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    foreign = sorted(names - {PAGE, "figures", "tables"})
    if foreign or (names and PAGE not in names):
        what = f"holds {foreign[0]!r}" if foreign else f"holds no {PAGE}"
        raise ValueError(
            f"out={str(out)!r} {what} and is no report, which would be replaced; pass a new folder, or one of a report"
        )


def _section(group: Group, out: Path, name: str, clips: list[Video]) -> dict[str, Any]:
    """One study for the template: everything but its texts is written to files on the way."""
    folder = f"{name}/" if name else ""
    offline = [
        offline_table(run, "offline" if not i else f"offline-{i + 1}") for i, run in enumerate(group.offline)
    ]
    tables = [make(group) for make in _TABLES] if group.cells else []
    tables += [*(paper_tables(group) if group.cells else []), *offline]
    shown = [_write_table(table, out, folder) for table in tables if table]
    findings = [finding._asdict() for finding in group.findings]
    if findings:
        write_csv(out / f"tables/{folder}{_LEFT_OUT}.csv", findings)
    return {
        "id": name or "study",
        "group": group,
        "head": head(group),
        "differ": protocols_differ(group),
        "findings": group.findings,
        "findings_csv": f"tables/{folder}{_LEFT_OUT}.csv" if findings else "",
        "tables": shown,
        "pictures": [_write_picture(picture, out, folder) for picture in pictures(group)],
        "videos": clips,
        "runs": _write_table(runs_table(group), out, folder) if group.runs else None,
    }


def _diagnosis(models: Sequence[DiagnosedModel], out: Path) -> dict[str, Any] | None:
    """What is known of single models, after all studies."""
    table = diagnosis_table(models)
    if table is None:
        return None
    pictures = [_write_picture(picture, out, "") for picture in diagnosis_pictures(models)]
    return {"table": _write_table(table, out, ""), "pictures": pictures}


def _write_table(table: Table, out: Path, folder: str) -> Shown:
    path = f"tables/{folder}{table.name}.csv"
    write_csv(out / path, table.numbers)
    return Shown(table, path)


def _write_picture(picture: Picture, out: Path, folder: str) -> Shown:
    png, numbers = f"figures/{folder}{picture.name}.png", f"tables/{folder}figure-{picture.name}.csv"
    picture.draw(out / png)
    write_csv(out / numbers, picture.numbers)
    content = (out / png).read_bytes()
    return Shown(picture, numbers, png, data_uri("image/png", content), _css_width(content))


def _css_width(png: bytes) -> int:
    """Width of a picture at its size on paper, 96 pixels to the inch; ours are drawn with 200."""
    return round(int.from_bytes(png[16:20], "big") * 96 / 200)


def data_uri(mime: str, content: bytes) -> str:
    """Content as part of a page.

    Example:
        >>> data_uri("text/plain", b"abc")
        'data:text/plain;base64,YWJj'
    """
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,  # Names and paths are the user's.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": lambda content, mime: data_uri(mime, content), "size": size_text}
    return environment


def _asset(name: str) -> str:
    return (files("xtra_rl.report") / "assets" / name).read_text(encoding="utf-8")


def _slug(text: str) -> str:
    """Part of a file name.

    Example:
        >>> _slug("Table 1 <b>")
        'table-1-b'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words) or "study"
