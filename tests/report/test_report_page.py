"""The page is whole without a network, escapes what users write, and every picture has its numbers beside it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image
from report_samples import SYSTEMS, fast_manifests, write_run, write_sample

from xtra_rl.recipes.report import main
from xtra_rl.report import page as page_module
from xtra_rl.studies import System, write_study

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Elements of a page; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Without the pictures, which take seconds to draw."""
    fast_manifests(monkeypatch)
    monkeypatch.setattr(page_module, "pictures", lambda group: [])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder, page and text of a report with everything in it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        fast_manifests(patch)
        write_sample(folder / "study", video=True)
    return folder / "report", *report(folder)


def report(tmp_path, *arguments, study="study"):
    assert main([str(tmp_path / study), "--out", str(tmp_path / "report"), *arguments]) == 0
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    return Page(text), text


def test_a_page_needs_nothing_beside_it(whole):
    folder, page, text = whole
    for tag, attributes in page.elements:
        for name in ("src", "href", "poster", "srcset"):
            if (link := attributes.get(name)) is not None:
                local = link.startswith(("data:", "#")) or (folder / link).is_file()
                assert local, (tag, link[:80])
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(page.all("video")) == 4
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    anchors = [attributes["href"][1:] for attributes in page.all("a") if attributes["href"][0] == "#"]
    assert set(anchors) <= set(identifiers)


def test_pictures_say_in_words_what_they_show(whole):
    _, page, _ = whole
    texts = [picture["alt"] for picture in page.all("img")]
    assert all(texts)
    assert "Gain over EfficientZero by game. At the end: XTRA on Alien +50 %; XTRA on Amidar +100 %." in texts
    assert "A frame of Alien" in texts


def test_every_picture_and_table_has_its_numbers_as_csv(whole):
    folder, _, _ = whole
    pictures = {path.stem for path in (folder / "figures").glob("*.png")}
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert pictures == {
        "learning-curves", "aggregate-curve", "gain-curve", "improvement", "aggregates-human",
        "aggregates-relative", "task-weights",
    }  # fmt: skip
    named = {"scores", "aggregates", "efficiency", "table1", "table3", "runs"}
    assert tables == named | {f"figure-{p}" for p in pictures}
    with open(folder / "tables" / "scores.csv", newline="") as file:
        rows = {(row["game"], row["system"]): row for row in csv.DictReader(file)}
    assert (rows["alien", "XTRA"]["mean"], rows["alien", "XTRA"]["seeds"]) == ("300.0", "3")


def test_what_users_write_is_escaped(tmp_path):
    evil = "<script>alert('x')</script> & \"quotes\""
    study = write_sample(tmp_path / "study", title=evil)
    systems = (SYSTEMS[0], System("xtra", evil, "xtra_finetune", ("pretrained=true",), "xtra"))
    write_study(tmp_path / "study", study.__class__(**(vars(study) | {"systems": systems})))
    write_run(tmp_path / "study" / "runs" / "<b>", "xtra", "alien", 0, 1.0)
    page, text = report(tmp_path, "--title", evil)
    assert "<script>alert" not in text
    assert len(page.all("script")) == 1
    assert page.all("b") == []
    assert "alert('x')" in page.text


def test_runs_that_do_not_count_are_named_on_the_page(tmp_path):
    write_sample(tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "runs" / "xtra" / "alien-s0")
    (tmp_path / "study" / "runs" / "xtra" / "amidar-s2" / "manifest.json").unlink()
    page, _ = report(tmp_path)
    assert "Left out: 2 runs are in no number below" in page.text
    assert "missing XTRA, alien, seed 0: not there yet" in page.text
    assert "broken XTRA, amidar, seed 2: manifest.json is missing" in page.text
    assert "10 of 12 planned count, 1 missing, 1 broken" in page.text


def write_diagnosis(path, target="alien", **changes):
    """As recipes/diagnose.py leaves it, with a picture of one pixel."""
    write_run(path, "xtra", target, 0, 1.0, finished=False)
    numbers = {
        "target": target, "checkpoint": "studies/table1/runs/xtra/alien-s0/model", "positions": 1200, "games": 8,
        "action/true_beats_random": 0.5761, "action/interval": [0.546, 0.606], "reward/explained": None,
        "action/where_it_differs": 0.7012, "action/where_it_differs_interval": [0.66, 0.74],
        "value/explained": 0.26, "search/improvement": 0.0991, "search/improvement_interval": [0.05, None],
    }  # fmt: skip
    (path / "diagnosis.json").write_text(json.dumps(numbers | changes))
    (path / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (1, 1)).save(path / "figures" / "diagnosis.png")


def test_diagnosed_models_have_a_table_and_their_pictures_and_are_no_runs_of_the_study(tmp_path):
    write_sample(tmp_path / "study")
    write_diagnosis(tmp_path / "study" / "diagnosis")
    write_diagnosis(tmp_path / "study" / "again", "amidar", checkpoint="elsewhere/model")
    page, _ = report(tmp_path)
    assert "Left out" not in page.text
    assert "Alien: xtra/alien-s0/model 0.576 [0.546, 0.606] 0.701 [0.660, 0.740] not run 0.26" in page.text
    assert "0.099 1,200 8 games" in page.text  # an interval that lacks an end is none
    assert "Amidar: elsewhere/model" in page.text
    assert len([each for each in page.all("img") if each["alt"].startswith("Effect of the action")]) == 2
    with open(tmp_path / "report" / "tables" / "diagnosis.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["game"] for row in rows] == ["alien", "amidar"]
    assert (rows[0]["action/interval_low"], rows[0]["reward/explained"]) == ("0.546", "")


def test_diagnoses_alone_have_a_page(tmp_path):
    write_diagnosis(tmp_path / "diagnose" / "alien")
    page, _ = report(tmp_path, study="diagnose")
    assert "Alien: xtra/alien-s0/model 0.576 [0.546, 0.606]" in page.text
    assert len(page.all("img")) == 1
    assert [each["id"] for each in page.all("section")] == ["models"]


def test_a_diagnosis_of_an_earlier_version_has_empty_cells(tmp_path):
    write_sample(tmp_path / "study")
    old, new = tmp_path / "study" / "a", tmp_path / "study" / "b"
    write_diagnosis(old, **{"action/former": 3})
    write_diagnosis(new, "amidar", **{"action/differs": 0.25, "action/interval_of_it": [0.1, 0.4]})
    report(tmp_path)
    with open(tmp_path / "report" / "tables" / "diagnosis.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["action/differs"] for row in rows] == ["", "0.25"]
    assert [row["action/interval_of_it_high"] for row in rows] == ["", "0.4"]
    assert [row["action/former"] for row in rows] == ["3", ""]
    assert list(rows[0])[-4:] == [
        "action/former", "action/differs", "action/interval_of_it_low", "action/interval_of_it_high",
    ]  # fmt: skip


def test_a_diagnosis_that_cannot_be_read_is_named(tmp_path, capsys):
    write_sample(tmp_path / "study")
    write_diagnosis(tmp_path / "study" / "diagnosis")
    (tmp_path / "study" / "diagnosis" / "diagnosis.json").write_text("{}")
    assert main([str(tmp_path / "study"), "--out", str(tmp_path / "report")]) == 2
    assert "diagnosis.json' names no target" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_only_the_paper_s_scale_is_compared_with_it(scale, tmp_path):
    write_sample(tmp_path / "study", scale=scale)
    assert ("Not comparable with the paper" in report(tmp_path)[0].text) == (scale != "paper")


def test_studies_of_one_scale_are_told_from_the_paper_at_once(tmp_path):
    for name in ("One", "Two"):
        write_sample(tmp_path / "study" / name, title=name)
    text = " ".join(report(tmp_path)[0].text.split())
    assert text.count("Not comparable with the paper") == 1
    assert "One; Two: ran at scale laptop" in text


def test_the_head_says_what_was_measured(whole):
    text = whole[1].text
    for fact in (
        "Scale laptop",
        "Seeds 0, 1, 2",
        "Env steps 400",
        "2 greedy episodes of at most 500 env steps; frame skip 4, sticky actions 0.0, no-ops up to 30",
        "Commit 0123456789ab",
        "0:12:00 in all, 0:01:00 a run",
    ):
        assert fact in text


def test_videos_fit_into_their_limit_or_stay_out(tmp_path):
    write_sample(tmp_path / "study", video=True)
    size = (tmp_path / "study/runs/xtra/alien-s0/videos/final.mp4").stat().st_size
    page, _ = report(tmp_path, "--max-video-mb", str(1.5 * size / 1e6))
    assert len(page.all("video")) == 1
    assert page.text.count("xtra/amidar-s0/videos/final.mp4") == 1
    assert report(tmp_path, "--no-videos")[0].all("video") == []


def test_several_studies_share_a_page_and_no_file(tmp_path):
    write_sample(tmp_path / "study" / "a", title="First")
    write_sample(tmp_path / "study" / "b", title="Second")
    page, _ = report(tmp_path)
    assert [attributes["id"] for attributes in page.all("section")] == ["1-table1", "2-table1", "games"]
    assert (tmp_path / "report" / "tables" / "1-table1" / "scores.csv").is_file()
    assert (tmp_path / "report" / "tables" / "2-table1" / "runs.csv").is_file()


def test_a_study_without_runs_has_a_page(tmp_path):
    study = write_sample(tmp_path / "full")
    write_study(tmp_path / "study", study)
    page, _ = report(tmp_path)
    assert "No run of this study counts yet" in page.text
    assert "missing EfficientZero, alien, seeds 0, 1, 2" in page.text


def test_a_report_replaces_a_report_and_nothing_else(tmp_path, capsys):
    write_sample(tmp_path / "study")
    report(tmp_path)
    report(tmp_path)
    (tmp_path / "report" / "notes.txt").write_text("mine")
    capsys.readouterr()
    for out, why in (
        (tmp_path / "report", "holds 'notes.txt'"),
        (tmp_path / "study/study.json", "is a file"),
    ):
        assert main([str(tmp_path / "study"), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert why in error
        assert len(error.splitlines()) == 1
    assert (tmp_path / "report" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "is not a folder"), ("empty", "no runs and no studies")]
)
def test_a_mistake_ends_with_one_sentence(name, why, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
