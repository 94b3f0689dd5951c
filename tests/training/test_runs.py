"""Runs are found, read and compared as they are; what is wrong with one is said, never passed over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_samples import config, write_run

import xtra_rl
from xtra_rl.runs.__main__ import main
from xtra_rl.runs.record import find_runs, read_run
from xtra_rl.runs.settings import changed, defaults_of, differences


def as_json(capsys, *arguments, status=0):
    assert main([*map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_list_tells_finished_from_unfinished_runs(tmp_path, capsys):
    write_run(tmp_path / "done")
    write_run(tmp_path / "a" / "half", finished=False, settings=config(seed=3, cross_task=False))
    half, done = as_json(capsys, "list", tmp_path)
    assert (done["status"], done["env_steps"], done["train_steps"], done["wall_seconds"]) == (
        "finished",
        400,
        100,
        50,
    )
    # Greedy comes first, though sampled is first in the file; its mean by hand.
    assert (done["mode"], done["episodes"], done["mean_return"], done["human_normalized"]) == (
        "greedy",
        2,
        250.0,
        0.5,
    )
    assert (half["status"], half["progress"], half["env_steps"], half["train_steps"]) == (
        "unfinished",
        0.5,
        200,
        50,
    )
    assert (half["seed"], half["variant"]) == (3, "no_cross_task")
    assert (half["mean_return"], half["human_normalized"], half["wall_seconds"]) == (250.0, 0.5, None)
    assert main(["list", str(tmp_path)]) == 0
    assert "unfinished, 50 %" in capsys.readouterr().out


def test_a_diagnosis_is_finished_when_it_has_found_something(tmp_path, capsys):
    run = write_run(tmp_path / "run", finished=False, recipe="diagnose").path
    assert as_json(capsys, "list", tmp_path)[0]["status"] == "unfinished"
    (run / "diagnosis.json").write_text("{}")
    assert as_json(capsys, "list", tmp_path)[0]["status"] == "finished"


def test_runs_are_found_below_folders_but_not_inside_runs_or_hidden_folders(tmp_path):
    for name in ("b/run", "a", ".trash/run", "a/wandb/files"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.json").touch()
    assert find_runs([tmp_path, tmp_path / "b"]) == [tmp_path / "a", tmp_path / "b" / "run"]


def edit(path: Path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


def rewrite(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGES = {
    "manifest.json is missing": lambda run: (run / "manifest.json").unlink(),
    "config.yaml is missing": lambda run: (run / "config.yaml").unlink(),
    "manifest.json is not one of this library": lambda run: (run / "manifest.json").write_text(
        '{"name": "x"}'
    ),
    "manifest.json is not valid JSON": lambda run: (run / "manifest.json").write_text('{"recipe": '),
    "config.yaml is not valid YAML": lambda run: (run / "config.yaml").write_text("a: [1"),
    "config.yaml does not hold settings": lambda run: (run / "config.yaml").write_text("3"),
    "config.yaml is not the one": lambda run: (run / "config.yaml").write_text("seed: 1"),
    "summary.json is not valid JSON": lambda run: (run / "summary.json").write_bytes(b"\xff{}"),
    "summary.json lacks eval/hns": lambda run: edit(run / "summary.json", **{"eval/hns": "gone"}),
    "summary.json has '400' for env_steps": lambda run: edit(run / "summary.json", env_steps="400"),
    "summary.json has no list of returns": lambda run: edit(
        run / "summary.json", **{"eval/returns": {"greedy": []}}
    ),
    "mean of greedy play is 9": lambda run: edit(run / "summary.json", **{"eval/mean_return": 9.0}),
    "metrics.csv has a row": lambda run: (run / "metrics.csv").write_text(
        "env_step,train_step,metric,value\n1,2\n"
    ),
    "metrics.csv is missing": lambda run: (run / "metrics.csv").unlink(),
    "metrics.csv has no evaluation of sampled play, summary.json has 150 at env step 400": lambda run: (
        rewrite(run / "metrics.csv", "400,100,eval/alien/return_sampled,150.0\n", "")
    ),
    # Cut off behind the evaluation at 200.
    "metrics.csv has its last evaluation of greedy play at env step 200, summary.json at 400": lambda run: (
        rewrite(run / "metrics.csv", "400,100,eval/alien/return,250.0\n", "")
    ),
    "metrics.csv ends with 99999 as the mean of sampled play, summary.json with 150": lambda run: rewrite(
        run / "metrics.csv", "return_sampled,150.0", "return_sampled,99999.0"
    ),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_broken_run_is_named_with_the_reason_and_never_compared(why, tmp_path, capsys):
    good, bad = write_run(tmp_path / "good").path, write_run(tmp_path / "bad").path
    DAMAGES[why](bad)
    rows = as_json(capsys, "list", tmp_path, status=1)
    assert [row["status"] for row in rows] == ["broken", "finished"]
    assert why in rows[0]["problem"]
    assert main(["list", str(tmp_path)]) == 1
    assert f"broken: {bad}: " in capsys.readouterr().out
    compared = as_json(capsys, "compare", good, bad, status=1)
    assert compared["results"]["status"] == ["finished", "broken"]
    assert all(values[1] is None for name, values in compared["results"].items() if name != "status")
    assert compared["settings"] == {}
    assert why in compared["notes"][0]
    assert main(["show", str(bad)]) == 1
    assert why in capsys.readouterr().out


def test_a_broken_run_of_another_version_says_so(tmp_path):
    run = write_run(tmp_path).path
    packages = json.loads((run / "manifest.json").read_text())["packages"]
    edit(run / "manifest.json", packages=packages | {"xtra_rl": "9.9"})
    assert read_run(run).status == "finished"
    edit(run / "summary.json", seed="gone")
    problem = read_run(run).problem
    assert problem == f"summary.json lacks seed (written by xtra_rl 9.9, this is {xtra_rl.__version__})"


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    run = write_run(tmp_path, finished=False)
    with open(run.metrics, "a") as file:
        file.write("240,60,loss/total,0.12")
    record = read_run(tmp_path)
    assert (record.status, record.steps()) == ("unfinished", (200, 50))


def test_nan_scores_of_an_unfinished_run_are_unknown(tmp_path, capsys):
    run = write_run(tmp_path, finished=False)
    with open(run.metrics, "a") as file:
        file.write("240,60,eval/alien/return,nan\n")
    assert as_json(capsys, "show", tmp_path)["mean_return"] is None


def test_reading_a_run_changes_nothing(tmp_path, capsys):
    write_run(tmp_path / "run")
    for folder in (tmp_path / "run").iterdir():
        if folder.is_dir():
            folder.rmdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    as_json(capsys, "show", tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "layout", [("checkpoints/step-0", "checkpoints/step-200"), ("models/best", "models/step-200")]
)
def test_show_has_everything_of_a_run(layout, tmp_path, capsys):
    run = write_run(tmp_path)
    for name in (*layout, "model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_bytes(b"x" * 100)
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 900)
    (run.checkpoints / "step_000000050").mkdir()
    (run.checkpoints / "step_000000050" / "state.pt").write_bytes(b"x" * 5)
    (run.videos / "final.mp4").touch()
    about = as_json(capsys, "show", tmp_path)
    states = {state["path"]: (state["kind"], state["bytes"]) for state in about["states"]}
    assert states == {str(tmp_path / name): ("model", 1000) for name in (*layout, "model")} | {
        str(run.checkpoints / "step_000000050"): ("checkpoint", 5)
    }
    assert about["pictures and videos"] == [str(run.videos / "final.mp4")]
    assert {"metric": "eval/alien/return", "env_step": 400, "train_step": 100, "value": 250.0} in about[
        "metrics"
    ]
    assert about["throughput"] == [{"speed": "act_ms_per_train_step", "mean": 130.0, "last": 250.0}]
    scores = {
        (row["agent"], row["mode"]): (row["mean_return"], row["human_normalized"]) for row in about["scores"]
    }
    # Random play of the published table is 0 on the human scale by definition.
    assert scores["random", ""] == (227.8, 0.0)
    assert scores["at start", "greedy"][0] == 10.0
    assert scores["at end", "sampled"][0] == 150.0
    assert about["settings"]["search.discount"] == {"run": 0.98, "default": 0.988053892081}
    assert "env.image_size" not in about["settings"]
    assert main(["show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*layout, "final.mp4", "loss/total", "recipe.py", "at start"))


def test_compare_shows_only_settings_that_differ(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(
        tmp_path / "b", settings=config(seed=1, search={"algorithm": "puct"}, run_dir="b"), wall_seconds=100.0
    )
    compared = as_json(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert compared["settings"] == {
        "seed": [0, 1],
        "search.algorithm": ["gumbel", "puct"],
        "search.num_simulations": [4, "(absent)"],
        "search.discount": [0.98, "(absent)"],
    }
    assert compared["results"]["score at end greedy"] == [250.0, 250.0]
    assert compared["results"]["env_steps per second"] == [8.0, 4.0]
    assert compared["notes"] == []


@pytest.mark.parametrize(
    ("change", "name"), [({"eval": {"max_steps": 50}}, "eval.max_steps"), ({"target": "amidar"}, "target")]
)
def test_scores_under_other_rules_are_said_not_to_be_comparable(change, name, tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", settings=config(**change))
    notes = as_json(capsys, "compare", tmp_path / "a", tmp_path / "b")["notes"]
    assert len(notes) == 1
    assert notes[0].endswith(f"not comparable: {name}")


def test_compare_draws_a_curve_for_each_readable_run(tmp_path, monkeypatch, capsys):
    from xtra_rl.runs import compare

    drawn = []
    real = compare.learning_curves
    monkeypatch.setattr(
        compare, "learning_curves", lambda curves, *a, **k: drawn.extend(curves) or real(curves, *a, **k)
    )
    paths = [write_run(tmp_path / name).path for name in ("a/run", "b/run", "c/run")]
    (paths[2] / "manifest.json").unlink()
    picture = tmp_path / "new" / "curves.png"
    assert main(["compare", *map(str, paths), "--figure", str(picture)]) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [(curve.label, curve.task, curve.scores.value.tolist()) for curve in drawn] == [
        ("a/run", "alien", [10.0, 250.0, 250.0]),
        ("b/run", "alien", [10.0, 250.0, 250.0]),
    ]
    assert str(picture) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{}/nowhere"], "nowhere' is not a folder; expected a run directory"),
        (["show", "{}"], "is not a run directory"),
        (["list", "{}/nowhere"], "nowhere' is not a folder"),
        (["compare", "{}/a"], "at least two different run directories"),
        (["compare", "{}/a", "{}/../{name}/a"], "at least two different run directories"),
        (["compare", "{}/a", "{}/b", "--figure", "x.doc"], "expected .png, .pdf or .svg"),
        (["compare", "{}/a", "{}/b", "--figure", "{}/a/config.yaml/x.png"], "config.yaml"),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, message, tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name)
    assert main([word.format(tmp_path, name=tmp_path.name) for word in arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_an_empty_folder_has_no_runs(tmp_path, capsys):
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no run directories below {tmp_path}\n"
    assert as_json(capsys, "list", tmp_path) == []


def test_a_reader_who_has_gone_is_not_an_error(tmp_path):
    write_run(tmp_path / "run")
    command = f"{sys.executable} -m xtra_rl.runs list {tmp_path} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["list", "show", "compare"])
def test_looking_at_runs_needs_neither_torch_nor_torchrl(command, tmp_path):
    paths = [str(write_run(tmp_path / name).path) for name in "ab"]
    arguments = [command, *(paths[:1] if command == "show" else paths)]
    code = (
        f"import sys; from xtra_rl.runs.__main__ import main; assert main({arguments!r}) == 0; "
        "print({'torch', 'torchrl', 'tensordict', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("scale", ["smoke", "quick"])
@pytest.mark.parametrize("recipe", ["xtra_finetune", "curl", "evaluate"])
def test_defaults_of_a_scale_are_those_of_the_recipe(recipe, scale, config):
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(config(recipe, f"scale={scale}"), resolve=True)
    assert differences(composed, defaults_of(recipe, scale)) == {}
    assert defaults_of("xtra_finetune", "gigantic") is None


def test_settings_differ_by_type_and_not_by_order():
    assert differences({"a": 1, "b": {"c": [1], "d": None}}, {"b": {"d": None, "c": [1]}, "a": 1}) == {}
    assert differences({"a": True}, {"a": 1}) == {"a": [True, 1]}
    # A mapping in one and nothing in the other.
    assert differences({"a": {"b": 1}}, {"a": {}}) == {"a.b": [1, "(absent)"], "a": ["(absent)", {}]}


def test_a_run_of_before_a_setting_did_what_was_done_then():
    """Before there was a mask below the root nothing was masked there."""
    old, now = (
        {"search": {"algorithm": "gumbel"}},
        {"search": {"algorithm": "gumbel", "mask_below_root": True}},
    )
    assert differences(old, now) == {"search.mask_below_root": [False, True]}
    assert differences(old, {"search": now["search"] | {"mask_below_root": False}}) == {}
    assert changed(old, {"search.mask_below_root": True}) == {"search.mask_below_root": (False, True)}
    assert differences({"seed": 1}, {"seed": 1}) == {}
