"""The whole of XTRA on real games at scale=smoke, from the command line and as functions."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from gridworld import make_gridworld
from pipeline_runs import SHORT, command_line, fails
from wandb_files import offline_runs, table

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.envs import register_task, unregister_task
from xtra_rl.evaluation.figures import read_metrics
from xtra_rl.recipes import build, common
from xtra_rl.recipes.compare_offline import compare_offline, gather_models
from xtra_rl.recipes.distill import distill
from xtra_rl.recipes.evaluate import evaluate
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.train_teacher import annotate
from xtra_rl.recipes.xtra_finetune import xtra_finetune
from xtra_rl.training.pipeline import MissingArtifact
from xtra_rl.training.run import SUMMARY_KEYS, RunDirectory


def by_path(first_run, *kinds):
    """Overrides that give the first run's artifacts of some kinds by path."""
    tasks = ("amidar", "bank_heist")
    return [f"{kind}=[{','.join(str(artifact(first_run, kind, task)) for task in tasks)}]" for kind in kinds]


def artifact(first_run, kind, name):
    return next((first_run.folder / "artifacts" / kind).glob(f"{name}-*"))


def test_every_stage_is_announced_with_rate_and_time(first_run):
    for stage in ("collect ", "teach ", "annotate ", "distil ", "finetune alien", "evaluate alien"):
        assert any(line.startswith(stage) and "/s, took" in line for line in first_run.stderr.splitlines()), (
            stage
        )
    for kind in ("dataset", "teacher", "student"):
        assert f"{kind} " in first_run.stdout
        assert "building it at scale smoke, because there is none" in first_run.stdout


def test_run_ends_with_a_table_and_says_what_it_is_worth(first_run):
    for expected in (
        "random",
        "at start",
        "at end",
        "human-normalised",
        "too small to measure transfer",
        "the paper plays 32",
    ):
        assert expected in first_run.stdout


def test_run_directory_is_complete(first_run):
    run = RunDirectory(first_run.run)
    summary = run.read_summary()
    assert set(SUMMARY_KEYS) <= set(summary)
    assert summary["env_steps"] == 120
    assert len(summary["eval/returns"]["greedy"]) == len(summary["eval/returns"]["sampled"]) == 2
    assert run.read_config()["scale"] == "smoke"
    assert set(run.read_manifest()["inputs"]) == {"dataset amidar", "dataset bank_heist", "student"}
    for name in (
        "figures/learning_curve.png",
        "figures/task_weights.png",
        "figures/losses.png",
        "videos/final.mp4",
    ):
        assert (first_run.run / name).stat().st_size > 2000, name
    assert (first_run.folder / summary["checkpoint"] / "model.safetensors").is_file()


def test_metrics_have_the_documented_names(first_run):
    names = set(read_metrics(first_run.run))
    expected = {f"loss/alien/{head}" for head in ("policy", "value", "reward", "consistency")}
    expected |= {"loss/total", "loss/amidar/policy", "task_weight/amidar", "grad_cos/amidar"}
    expected |= {
        "eval/alien/return",
        "eval/alien/hns",
        "eval/alien/return_sampled",
        "train/lr",
        "search/root_value",
    }
    assert expected <= names
    with open(first_run.run / "throughput.csv", newline="") as file:
        assert {row["metric"] for row in csv.DictReader(file)} == {
            f"throughput/{phase}_ms_per_train_step"
            for phase in ("act", "sample", "reanalyse", "forward_backward", "optimiser")
        } | {"throughput/env_steps_per_s", "throughput/train_steps_per_s"}


def test_nothing_is_written_outside_runs_and_artifacts(first_run):
    assert {path.name for path in first_run.folder.iterdir()} == {"runs", "artifacts"}


@pytest.mark.slow
def test_same_seed_gives_identical_metrics_from_nothing(first_run, config, tmp_path):
    """The second pipeline builds its own datasets, teachers and student, in another process."""
    places = (f"artifacts={tmp_path / 'artifacts'}", f"run_dir={tmp_path / 'again'}")
    again = xtra_finetune(config("xtra_finetune", "scale=smoke", *places))
    assert (again / "metrics.csv").read_bytes() == (first_run.run / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_another_seed_gives_other_metrics(config, tmp_path):
    runs = []
    for seed in (0, 1):
        flags = ("pretrained=false", "cross_task=false", f"seed={seed}", f"run_dir={tmp_path / str(seed)}")
        runs.append(xtra_finetune(config("xtra_finetune", "scale=smoke", *SHORT, *flags)))
    assert len({(run / "metrics.csv").read_bytes() for run in runs}) == 2


def test_finished_run_is_not_overwritten(first_run, reuse, capsys):
    before = (first_run.run / "summary.json").read_bytes()
    xtra_finetune(reuse(f"run_dir={first_run.run}"))
    assert "is already finished: mean return" in capsys.readouterr().out
    assert (first_run.run / "summary.json").read_bytes() == before
    message = fails(xtra_finetune, reuse(f"run_dir={first_run.run}", "targets.td_steps=1"))
    assert "finished run of other settings (targets.td_steps 2 there, 1 here)" in message


def test_ablations_have_directories_of_their_own(config):
    names = {
        common.run_name(config("xtra_finetune", *flags))
        for flags in ([], ["seed=1"], ["pretrained=false"], ["cross_task=false"], ["task_weights=false"],
                      ["freeze=[representation]"], ["transfer=[representation]"], ["scale=smoke"], ["target=hero"])
    }  # fmt: skip
    assert len(names) == 9
    assert common.run_name(config("xtra_finetune")) == "alien-quick-s0"


def test_runs_of_another_seed_share_the_pretraining(reuse, capsys):
    inputs = Inputs(reuse("seed=7"))
    inputs.student()
    assert "building" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["cross_task=false"], {"weights": False, "student": True}),
        (["pretrained=false"], {"weights": True, "student": False}),
        (["pretrained=false", "cross_task=false"], {"weights": False, "student": False}),
        (["task_weights=false"], {"weights": False, "student": True}),
        (["freeze=[representation]", "transfer=[representation,dynamics]"], {"weights": True, "student": True}),
        (["task_weighting=pcgrad"], {"weights": True, "student": True}),
        (["task_loss_reduction=mean", "variant=official"], {"weights": True, "student": True}),
        (["search.algorithm=puct", "search.num_simulations=3"], {"weights": True, "student": False}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_ablations_of_table_1_run(first_run, reuse, capsys, flags, expected):
    inputs = []
    if "search.algorithm=puct" in flags:
        # Another search makes other artifacts; the first run's are given by path.
        inputs = [*by_path(first_run, "datasets", "teachers"), "pretrained=false"]
    run = xtra_finetune(reuse(*SHORT, *inputs, *flags))
    out = capsys.readouterr().out
    names = set(read_metrics(run))
    assert ("task_weight/amidar" in names) is expected["weights"]
    assert ("transfer from" in out) is expected["student"]
    assert "building" not in out
    if "freeze=[representation]" in flags:
        table = {
            line.split()[0]: line.split()[1:3]
            for line in out.splitlines()
            if line.startswith(("repr", "dyn", "pred"))
        }
        assert table == {
            "representation": ["copied", "frozen"], "dynamics": ["copied", "trained"],
            "prediction": ["initialised", "trained"],
        }  # fmt: skip


def test_trained_model_is_evaluated_on_a_game_it_has_never_seen(first_run, reuse):
    cfg = reuse("target=ms_pacman", "eval.modes=[greedy]", recipe="evaluate")
    run = evaluate(cfg, first_run.run / "model")
    summary = RunDirectory(run).read_summary()
    assert summary["target"] == "ms_pacman"
    assert len(summary["eval/returns"]["greedy"]) == 2


def test_wandb_offline_and_tensorboard_receive_the_run(reuse):
    run = xtra_finetune(
        reuse(
            *SHORT,
            "pretrained=false",
            "cross_task=false",
            "logger=[wandb,tensorboard]",
            "wandb_mode=offline",
            "eval.baselines=[random]",
        )
    )
    (sent,) = offline_runs(run)
    assert (sent["run"].job_type, list(sent["run"].tags)) == ("xtra_finetune", ["alien", "smoke"])
    assert sent["run"].run_group.startswith("xtra_finetune-alien-smoke-")
    columns, games = table(sent, "table/evaluations")
    summary = RunDirectory(run).read_summary()
    last = [dict(zip(columns, game)) for game in games if game[0] == summary["env_steps"]]
    for mode, returns in summary["eval/returns"].items():
        assert [game["return"] for game in last if game["mode"] == mode] == returns
    assert sent["summary"]["end/return"] == summary["eval/mean_return"]
    assert sent["summary"]["baseline/random"] == summary["baselines"]["random"]
    assert list(run.glob("**/events.out.tfevents.*"))
    assert (run / "metrics.csv").is_file()


def test_distilled_student_is_rebuilt_only_when_a_setting_changes(first_run, reuse, capsys):
    Inputs(reuse(recipe="distill")).student()
    assert "building" not in capsys.readouterr().out
    Inputs(reuse("distill.train_steps=2", recipe="distill")).student()
    out = capsys.readouterr().out
    assert "student amidar+bank_heist: building it" in out
    assert "train_steps" in out
    assert "dataset amidar: building" not in out


def test_other_data_under_the_same_name_gets_a_teacher_of_its_own(first_run, reuse, tmp_path):
    given = [copy_of(artifact(first_run, "datasets", "amidar"), tmp_path / place) for place in "ab"]
    settings = TrajectoryDataset(given[1]).env_settings
    named = {name: settings.pop(name) for name in ("frame_shape", "frame_skip", "sticky", "grayscale")}
    with TrajectoryWriter(given[1], "amidar", **named, env_settings=settings) as writer:
        writer.add_episode(TrajectoryDataset(given[0]).episode(0).numpy(), checkpoint=999)
    assert given[0].name == given[1].name
    teachers = [Inputs(reuse(f"datasets=[{path}]")).teacher("amidar") for path in given]
    assert teachers[0] != teachers[1]


def test_an_annotation_by_another_search_is_stale(first_run, reuse, tmp_path):
    data = copy_of(artifact(first_run, "datasets", "amidar"), tmp_path)
    teacher = artifact(first_run, "teachers", "amidar")
    made = {}
    for simulations in (2, 3):
        cfg = reuse("teacher.annotation=search", f"search.num_simulations={simulations}")
        made[simulations] = annotate(cfg, "amidar", data, teacher)
        assert TrajectoryDataset(data).has_column("teacher_policy", provenance=made[simulations])
    assert not TrajectoryDataset(data).has_column("teacher_policy", provenance=made[2])
    assert made[3] == annotate(
        reuse("teacher.annotation=search", "search.num_simulations=3"), "amidar", data, teacher
    )


def test_a_dataset_that_comes_with_predictions_needs_no_teacher(first_run, reuse, tmp_path, capsys):
    """Annotated data can be handed on alone."""
    data = copy_of(artifact(first_run, "datasets", "amidar"), tmp_path)
    given, nothing = f"datasets=[{data}]", f"artifacts={tmp_path / 'nothing'}"
    path, provenance = Inputs(reuse(given, nothing)).annotated("amidar")
    assert (path, provenance) == (data, TrajectoryDataset(data).column_provenance("teacher_value"))
    assert f"teacher amidar: not needed, its predictions are in {data}" in capsys.readouterr().out
    # A teacher that is given speaks for itself, and so does one whose predictions are of another kind.
    teacher = artifact(first_run, "teachers", "amidar")
    Inputs(reuse(given, nothing, f"teachers=[{teacher}]")).annotated("amidar")
    assert "not needed" not in capsys.readouterr().out
    with pytest.raises(MissingArtifact, match="teacher amidar"):
        Inputs(reuse(given, nothing, "teacher.annotation=search"), build=False).annotated("amidar")
    # One of two columns is not enough.
    shutil.rmtree(data / "columns" / "teacher_value")
    with pytest.raises(MissingArtifact, match="teacher amidar"):
        Inputs(reuse(given, nothing), build=False).annotated("amidar")


@pytest.mark.slow
def test_unknown_game_and_unknown_key_end_without_a_traceback(tmp_path):
    done = command_line(tmp_path, "scale=smoke", "target=asault")
    assert done.returncode != 0
    assert "assault" in done.stderr
    assert "Traceback" not in done.stderr
    done = command_line(tmp_path, "scale=smoke", "finetune.env_stepz=3")
    assert done.returncode != 0
    assert "env_stepz" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["batch_size=-4"], ["batch_size", "-4"]),
        (["env.image_size=-32"], ["image_size", "-32"]),
        (["model.channels=0"], ["channels", "0"]),
        (["finetune.env_steps=-1"], ["env_steps=-1"]),
        (["search.num_simulations=0"], ["num_simulations", "0"]),
        (["search.algorithm=alphabeta"], ["alphabeta", "puct", "gumbel"]),
        (["transfer=[encoder]"], ["encoder", "representation"]),
        (["cross_batch_size=1"], ["batch_size=1", "2 tasks"]),
        (["task_weighting=cagrad"], ["task_weighting", "cagrad", "soft_cosine"]),
        (["task_weighting=pcgrad", "task_weights=false"], ["task_weighting=pcgrad", "task_weights=false"]),
        (["resume=maybe"], ["resume", "maybe", "auto, restart or never"]),
        (["seed=-1"], ["seed", "-1"]),
        (["logger=[neptune]"], ["neptune", "csv"]),
        (["prefetch=maybe"], ["prefetch", "maybe", "auto, true or false"]),
        (["search.cuda_graph=maybe"], ["search.cuda_graph", "maybe", "auto, true or false"]),
        (["autocast=float16"], ["autocast", "float16", "bfloat16"]),
        (["batch_size=1"], ["batch_size", "at least 2"]),
        (["targets.unroll_steps=0"], ["targets.unroll_steps is 0"]),
        pytest.param(
            ["device=cuda"],
            ["device", "cuda", "device=cpu"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
    ids=lambda value: value[0] if "=" in value[0] else "",
)
def test_impossible_settings_are_named(first_run, reuse, overrides, expected):
    message = fails(xtra_finetune, reuse(*SHORT, *overrides))
    for text in expected:
        assert text in message


def test_dataset_of_other_frames_names_both_shapes(first_run, reuse):
    dataset = artifact(first_run, "datasets", "amidar")
    cfg = reuse("env.image_size=48", "cross_tasks=[amidar]", f"datasets=[{dataset}]")
    message = fails(xtra_finetune, cfg)
    assert "32" in message
    assert "48" in message


def copy_of(dataset, folder):
    return Path(shutil.copytree(dataset, folder / "copy"))


def test_corrupt_and_empty_datasets_are_refused_by_name(first_run, reuse, tmp_path):
    dataset = copy_of(artifact(first_run, "datasets", "amidar"), tmp_path)
    shard = max((dataset / "frames").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    cfg = reuse("pretrained=false", "cross_tasks=[amidar]", f"datasets=[{dataset}]")
    assert shard.name in fails(xtra_finetune, cfg)
    (tmp_path / "empty").mkdir()
    again = ("resume=restart", "pretrained=false", "cross_tasks=[amidar]")
    assert "empty" in fails(xtra_finetune, reuse(*again, f"datasets=[{tmp_path / 'empty'}]"))
    cfg = reuse(*again, "datasets=[nowhere]")
    assert "nowhere" in fails(xtra_finetune, cfg)


def test_student_of_another_architecture_names_the_first_differing_tensor(first_run, reuse):
    student = artifact(first_run, "students", "amidar+bank_heist")
    message = fails(xtra_finetune, reuse("cross_task=false", f"student={student}", "model.channels=16"))
    assert "stem.0.weight" in message
    assert "(8, 4, 3, 3)" in message


def test_checkpoint_for_other_frames_is_refused_by_evaluate(first_run, reuse):
    message = fails(evaluate, reuse("env.image_size=48", recipe="evaluate"), first_run.run / "model")
    assert "image_size 32" in message
    assert "48" in message


@pytest.fixture
def broken_rewards():
    """A task whose every reward is NaN."""
    register_task(
        "broken", partial(make_gridworld, goal_reward=float("nan")), num_actions=5, action_ids=(0, 1, 2, 3)
    )
    yield
    unregister_task("broken")


BROKEN = ("target=broken", "env.image_size=24", "model.downsample=8", "pretrained=false", "cross_task=false")


def test_nan_loss_stops_with_the_last_good_model_and_the_batch(reuse, broken_rewards):
    cfg = reuse(*SHORT, *BROKEN)
    message = fails(xtra_finetune, cfg)
    assert "loss is nan (limit 1000), gradient norm nan at training step 0" in message
    run = Path(cfg.run_dir)
    assert str(run / "bad-batches") in message
    model, _ = build.load_model(cfg, run / "models" / "last-good")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    batch = torch.load(run / "bad-batches" / "batch-0.pt", weights_only=True)
    assert batch["value_target"].isnan().any()
    assert not (Path(cfg.run_dir) / "summary.json").exists()


def test_exploding_weights_stop_with_a_sentence(reuse):
    cfg = reuse(*SHORT, "pretrained=false", "cross_task=false", "optim.lr=1e30", "optim.warmup_steps=0")
    message = fails(xtra_finetune, cfg)
    assert "contains NaN" in message
    assert "Last saved: " in message
    assert "step-0" in message


def test_distillation_alone_gives_a_model_directory(first_run, reuse, tmp_path):
    inputs = Inputs(reuse(recipe="distill"))
    distill(
        reuse("distill.train_steps=2", recipe="distill"),
        {"amidar": inputs.annotated("amidar")},
        tmp_path / "student",
    )
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert "amidar" in json.dumps(config)


def test_student_is_compared_with_its_teachers_and_with_multi_game_offline_rl(reuse, first_run, capsys):
    def students():
        return {path for path in (first_run.folder / "artifacts" / "students").iterdir() if path.is_dir()}

    before = students()
    cfg = reuse(*SHORT, "eval.baselines=[random]", recipe="compare_offline")
    run = compare_offline(cfg)
    text = capsys.readouterr().out
    assert f"student amidar+bank_heist: reusing {first_run.folder}" in text
    with open(run / "scores.csv", newline="") as file:
        scores = list(csv.DictReader(file))
    agents = {
        "data, last checkpoint": 2,
        "random": 1,
        "teacher": 1,
        "student (distilled)": 1,
        "multi-game offline RL": 1,
    }
    for task in ("amidar", "bank_heist"):
        found = [row["agent"] for row in scores if row["task"] == task]
        assert {agent: found.count(agent) for agent in agents} == agents
    for name in agents:
        assert name in text
    assert (run / "figures" / "students_and_teachers.png").stat().st_size > 2000
    # The alternative is a student of its own, made without teachers.
    assert len(students() - before) == 1
    # A student that is given takes the place of the distilled one.
    given = f"student={artifact(first_run, 'students', 'amidar+bank_heist')}"
    models = gather_models(reuse(*SHORT, given, recipe="compare_offline"), ["amidar"])[1]
    assert str(models["amidar"]["student (distilled)"]) == given.removeprefix("student=")
