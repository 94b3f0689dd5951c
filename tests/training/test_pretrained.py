"""A model that was exported is the model that is loaded, and says the same of itself; anything else is refused."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
import small_models
import torch
import yaml
from run_samples import config, write_run
from safetensors.torch import save_file
from torch import nn

import xtra_rl
from xtra_rl.evaluation.metrics import TaskScore
from xtra_rl.files import directory_sha256, file_sha256
from xtra_rl.models import WorldModel, make_world_model
from xtra_rl.runs.__main__ import main
from xtra_rl.runs.export import export_model
from xtra_rl.training.model_files import load_into, load_model_weights, save_model
from xtra_rl.training.pipeline import Pipeline
from xtra_rl.training.run import RunDirectory

SMALL = small_models.SMALL | {"num_actions": 18}
ABOUT = {"tasks": ["alien", "amidar"], "stage": "finetune", "env": {"image_size": 32, "grayscale": True}}


def save(path, metadata=ABOUT) -> WorldModel:
    """A model with statistics of its own, in a model directory."""
    model = make_world_model(**SMALL)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    save_model(path, model, config=model.config, metadata=metadata)
    return model.eval()


@pytest.fixture
def run(tmp_path):
    """A finished run with its final model, and that model."""
    path = tmp_path / "runs" / "alien"
    write_run(path, settings=config(datasets=["home/me/data"], collect={"policy": "home/me/policy"}))
    return path, save(path / "model")


def outputs(model: WorldModel):
    """What the model says of two observations, and after a step from them."""
    images = torch.linspace(0, 1, 2 * 4 * 32 * 32).view(2, 4, 32, 32)
    with torch.no_grad():
        root = model.initial_inference(images)
        after, _ = model.recurrent_inference(torch.tensor([1, 7]), root.embedding)
    return [root.prior_logits, root.value, after.reward, after.value, after.prior_logits]


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_an_exported_run_is_loaded_as_the_same_model(run, tmp_path):
    path, model = run
    folder = export_model(path, tmp_path / "share" / "alien")
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    loaded = xtra_rl.load_pretrained(str(folder))
    assert not any(module.training for module in loaded.modules())
    assert loaded.config == model.config
    for ours, theirs in zip(outputs(model), outputs(loaded)):
        assert torch.equal(ours, theirs)
    assert file_sha256(folder / "model.safetensors") == file_sha256(path / "model" / "model.safetensors")


def test_the_description_tells_tasks_settings_and_every_episode(run, tmp_path):
    path, _ = run
    about = xtra_rl.load_pretrained(export_model(path, tmp_path / "share")).description
    assert about.tasks == ("alien", "amidar")
    assert about.env == ABOUT["env"]
    assert about.search == config()["search"]
    greedy, sampled = about.scores
    assert greedy == TaskScore("alien", "greedy", 250.0, 0.5, (220.0, 280.0))
    # Human-normalised by hand: (150 - 227.8) / (7127.7 - 227.8).
    assert sampled.returns == (100.0, 200.0)
    assert sampled.human_normalized == pytest.approx(-77.8 / 6899.9)
    made = about.metadata["run"]
    manifest = RunDirectory(path).read_manifest()
    assert (made["git_commit"], made["date"]) == (manifest["git_commit"], manifest["date"])
    assert (made["env_steps"], made["seed"], made["baselines"]) == (400, 0, {"random": 227.8})
    assert made["settings"]["eval"] == {"episodes": 2, "max_steps": 40}


def test_nothing_shared_names_a_folder_of_this_machine(run, tmp_path):
    path, _ = run
    folder = export_model(path, tmp_path / "share")
    text = (folder / "config.json").read_text() + (folder / "README.md").read_text()
    assert not [
        word
        for word in (str(tmp_path), "home/me", "somewhere", "elsewhere", "recipe.py", sys.executable)
        if word in text
    ]


def test_the_model_card_has_the_scores_in_the_schema_of_the_hub(run, tmp_path):
    path, _ = run
    card = front_matter(export_model(path, tmp_path / "share", name="me/alien", license="mit"))
    assert (card["license"], card["library_name"], card["pipeline_tag"]) == (
        "mit",
        "xtra_rl",
        "reinforcement-learning",
    )
    assert {"reinforcement-learning", "alien", "amidar"} <= set(card["tags"])
    (entry,) = card["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "alien"
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"type": "alien", "name": "Alien (Atari 2600)"}
    values = {(metric["type"], metric["args"]["mode"]): metric["value"] for metric in result["metrics"]}
    # Standard deviation by hand: 220 and 280 are both 30 from their mean.
    assert values["mean_reward", "greedy"] == 250.0
    assert values["std_reward", "greedy"] == 30.0
    assert values["human_normalized_score", "greedy"] == 0.5
    assert values["mean_reward", "sampled"] == 150.0


def test_an_unnamed_licence_is_left_to_the_owner(run, tmp_path, capsys):
    path, _ = run
    assert main(["export", str(path), str(tmp_path / "share")]) == 0
    assert "Choose a licence" in capsys.readouterr().out
    assert front_matter(tmp_path / "share")["license"] == "other"


@pytest.mark.parametrize("stage", ["finetune", "behaviour cloning"])
def test_the_example_of_the_model_card_runs(stage, tmp_path):
    search = {"num_simulations": 2, "algorithm": "puct", "mask_below_root": True}
    save(tmp_path / "model", ABOUT | {"stage": stage, "search": search})
    card = (export_model(tmp_path / "model", tmp_path / "share", name="me/alien") / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert ("PriorPolicy" in example) == (stage != "finetune")
    assert ("MCTSPlanner(InferenceModel(model), num_simulations=2, seed=0)" in example) == (
        stage == "finetune"
    )
    example = example.replace("me/alien", str(tmp_path / "share")).replace("rollout(100", "rollout(2")
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["rollout"].batch_size == (1, 2)


def test_the_example_of_the_model_card_searches_as_the_scores_were_made(tmp_path):
    search = {
        "algorithm": "gumbel", "num_simulations": 3, "discount": 0.9, "max_num_considered_actions": 2,
        "rescale_floor": 0.5, "root_logit_scale": 0.25, "dirichlet_alpha": 0.3, "temperature": {0: 1.0},
        "backend": "auto", "cuda_graph": "auto", "max_bytes": None,
    }  # fmt: skip
    save(tmp_path / "model", ABOUT | {"stage": "finetune", "search": search})
    card = (export_model(tmp_path / "model", tmp_path / "share") / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.S)
    agent = (
        "GumbelMCTSPlanner(\n    InferenceModel(model),\n    num_simulations=3,\n    mask_below_root=False,\n"
    )
    assert f"{agent}    discount=0.9,\n" in example  # of before there was such a mask
    names = {}
    example = example.replace("rollout(100", "rollout(2").replace('"share"', repr(str(tmp_path / "share")))
    exec(compile(example, "README.md", "exec"), names)
    assert names["agent"].discount == 0.9


def test_a_bare_model_and_an_export_can_be_exported(run, tmp_path):
    path, model = run
    bare = export_model(path / "model", tmp_path / "bare")
    assert xtra_rl.load_pretrained(bare).description.scores == ()
    assert "model-index" not in front_matter(bare)
    once = export_model(path, tmp_path / "once")
    again = export_model(once, tmp_path / "again", name="once")
    assert directory_sha256(again) != directory_sha256(bare)
    assert (again / "config.json").read_text() == (once / "config.json").read_text()


def test_exports_are_models_of_the_recipes(run, tmp_path):
    path, model = run
    folder = export_model(path, tmp_path / "share")
    other = make_world_model(**SMALL)
    # What the recipes do with checkpoint=DIR, and with student=DIR.
    files = load_into(other, Pipeline(tmp_path / "artifacts", "smoke").resolve(
        "student", "alien", given=folder, key={}, build=pytest.fail, announce=str
    ))  # fmt: skip
    assert files.metadata["tasks"] == ["alien", "amidar"]
    assert torch.equal(outputs(other.eval())[0], outputs(model)[0])


def test_a_student_s_card_says_what_it_was_made_from(tmp_path):
    """Data, teachers and settings, as the recipes noted them; also after it was exported once more."""
    made = {"alien": {"dataset": "d" * 64, "teacher": "7" * 64, "annotation": "prior"}}
    key = {"scale": "laptop", "seed": 0, "search": {"num_simulations": 8}, "distill": {"train_steps": 5000}}

    def build(path):
        save(path, {"tasks": ["alien"], "stage": "student"})

    student = Pipeline(tmp_path / "artifacts", "laptop").resolve(
        "student", "alien", key=key | {"teachers": made}, build=build, announce=str
    )
    first = export_model(student, tmp_path / "first")
    card = (export_model(first, tmp_path / "second") / "README.md").read_text()
    for text in (
        "A student of `scale=laptop`, seed 0.",
        "| alien | `dddddddddddd` | `777777777777` | prior |",
        "distill.train_steps=5000",
        "num_simulations=8",  # in the code to copy, too
    ):
        assert text in card, text
    assert "teachers.alien" not in card
    assert xtra_rl.load_pretrained(first).description.search == {"num_simulations": 8}


def evaluation(path, model, task="amidar"):
    """A run of the recipe evaluate on that model."""
    settings = config(target=task, checkpoint=str(model))
    run = write_run(path, recipe="evaluate", settings=settings, **{"eval/hns": None}, env_steps=0)
    run.write_manifest(recipe="evaluate", config=settings, device="cpu", inputs={"checkpoint": model})
    return path


def test_scores_of_further_games_come_from_evaluations_of_this_model_alone(run, tmp_path):
    path, _ = run
    played = evaluation(tmp_path / "played", path / "model")
    about = xtra_rl.load_pretrained(export_model(path, tmp_path / "share", evaluations=[played])).description
    assert [(score.task, score.mode) for score in about.scores] == [
        ("alien", "greedy"), ("alien", "sampled"), ("amidar", "greedy"), ("amidar", "sampled"),
    ]  # fmt: skip
    alone = xtra_rl.load_pretrained(export_model(played, tmp_path / "alone")).description
    assert [score.task for score in alone.scores] == ["amidar", "amidar"]
    save(tmp_path / "other")
    with pytest.raises(ValueError, match="played' is of another model"):
        export_model(tmp_path / "other", tmp_path / "share", evaluations=[played])
    save(path / "model", {"tasks": []})
    with pytest.raises(ValueError, match="is not there any more or has changed"):
        export_model(played, tmp_path / "share")


def test_an_earlier_model_of_a_run_has_no_scores_of_the_final_one(run, tmp_path):
    path, _ = run
    save(path / "models" / "step-200")
    about = xtra_rl.load_pretrained(export_model(path, tmp_path / "a", model="models/step-200")).description
    assert (about.scores, "run" in about.metadata) == ((), False)
    about = xtra_rl.load_pretrained(export_model(path, tmp_path / "b", model="model")).description
    assert len(about.scores) == 2


def test_unfinished_and_broken_runs_are_not_exported(run, tmp_path):
    path, _ = run
    save(path / "checkpoints" / "step-200")
    (path / "summary.json").unlink()
    with pytest.raises(
        ValueError, match=r"not finished.*pass --model with one of model, checkpoints/step-200"
    ):
        export_model(path, tmp_path / "share")
    with pytest.raises(ValueError, match="'x' is no model of"):
        export_model(path, tmp_path / "share", model="x")
    (path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="is broken: config.yaml is not the one"):
        export_model(path, tmp_path / "share")
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize("content", ["thesis.tex", "README.md", "config.json", ".git/HEAD"])
def test_a_folder_of_something_else_is_not_replaced(content, run, tmp_path, capsys):
    file = tmp_path / "share" / content
    file.parent.mkdir(parents=True)
    file.write_text('{"model_type": "bert"}')
    assert main(["export", str(run[0]), str(tmp_path / "share")]) == 2
    assert "would be replaced as a whole" in capsys.readouterr().err
    assert [path for path in (tmp_path / "share").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == '{"model_type": "bert"}'


def test_an_earlier_export_and_an_empty_folder_are_replaced(run, tmp_path):
    (tmp_path / "share").mkdir()
    folder = export_model(run[0], tmp_path / "share", license="mit")
    export_model(run[0], folder, license="apache-2.0")
    assert front_matter(folder)["license"] == "apache-2.0"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(ValueError, match="is the model to export"):
        export_model(folder, folder)
    with pytest.raises(ValueError, match="is a file"):
        export_model(folder, folder / "README.md")


def test_a_crash_while_exporting_leaves_the_old_export(run, tmp_path, monkeypatch):
    folder = export_model(run[0], tmp_path / "share")
    before = directory_sha256(folder)

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        export_model(run[0], folder, license="mit")
    assert directory_sha256(folder) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def edit(folder, **changes):
    description = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        part, _, key = name.rpartition("__")
        (description[part] if part else description)[key] = value
    (folder / "config.json").write_text(json.dumps(description))


def replace_weights(folder, content: bytes):
    """Weights whose hash is right and whose content is not."""
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, sha256={"model.safetensors": file_sha256(folder / "model.safetensors")})


def flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


FAULTS = {
    "model.safetensors is corrupt: its sha256": flip,
    "model.safetensors is missing": lambda folder: (folder / "model.safetensors").unlink(),
    "config.json is missing": lambda folder: (folder / "config.json").unlink(),
    "config.json is not valid JSON": lambda folder: (folder / "config.json").write_text("{"),
    "does not describe a model of this library": lambda folder: edit(folder, format="bert"),
    "format_version 2, but this version of xtra_rl reads 1": lambda folder: edit(folder, format_version=2),
    "config.json is incomplete": lambda folder: edit(folder, sha256={}),
    "model.safetensors is not a safetensors file": lambda folder: replace_weights(folder, b"\x80\x04N."),
    "unexpected keyword argument 'heads'": lambda folder: edit(folder, config__heads=3),
    "channels is -8; expected a positive integer": lambda folder: edit(folder, config__channels=-8),
    "has another architecture": lambda folder: edit(folder, config__channels=16),
    "composed of its author's own modules": lambda folder: edit(folder, config={}),
    "tasks is 'alien'; expected a list": lambda folder: edit(folder, metadata__tasks="alien"),
    "env is 3; expected settings by name": lambda folder: edit(folder, metadata__env=3),
    "a score is {'task': 'alien'}": lambda folder: edit(folder, metadata__scores=[{"task": "alien"}]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_is_wrong_with_a_folder_is_named(message, tmp_path):
    save(tmp_path / "model")
    FAULTS[message](tmp_path / "model")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        xtra_rl.load_pretrained(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path):
    save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(make_world_model(**SMALL).state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        xtra_rl.load_pretrained(tmp_path / "model")


def test_a_model_without_a_description_is_still_a_model(tmp_path):
    save(tmp_path / "model", {})
    about = xtra_rl.load_pretrained(tmp_path / "model").description
    assert (about.tasks, about.scores, about.env) == ((), (), {})
    assert front_matter(export_model(tmp_path / "model", tmp_path / "share"))["license"] == "other"


def test_a_name_of_the_hub_needs_its_library_and_other_words_a_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'me/alien' is not a folder; .* pip install huggingface_hub"):
        xtra_rl.load_pretrained("me/alien")
    for path in ("alien", "/nowhere/alien", "../me/alien", "runs/me/alien"):
        with pytest.raises(ValueError, match="is not a folder; pass one with config.json"):
            xtra_rl.load_pretrained(path)


def test_a_model_of_the_hub_is_downloaded(tmp_path, monkeypatch):
    model = save(tmp_path / "cache" / "snapshot")
    (tmp_path / "huggingface_hub.py").write_text(
        "calls = []\n"
        "def snapshot_download(*args, **kwargs):\n"
        "    calls.append((args, kwargs))\n"
        "    if args[0] != 'me/alien':\n"
        "        raise ConnectionError('404:\\nno such model')\n"
        f"    return {str(tmp_path / 'cache' / 'snapshot')!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    loaded = xtra_rl.load_pretrained("me/alien", revision="v1")
    assert torch.equal(outputs(loaded)[1], outputs(model)[1])
    files = ["README.md", "config.json", "model.safetensors"]
    assert sys.modules["huggingface_hub"].calls == [
        (("me/alien",), {"revision": "v1", "allow_patterns": files})
    ]
    with pytest.raises(
        ValueError, match=r"could be downloaded .*\(ConnectionError: 404: no such model\); check the name"
    ):
        xtra_rl.load_pretrained("me/nothing")


def test_only_tensors_in_a_safetensors_file_are_weights(tmp_path):
    save(tmp_path / "model")
    state = load_model_weights(tmp_path / "model").state_dict
    name = next(iter(state))
    save_file(
        {key: value for key, value in state.items() if key != name}, tmp_path / "model" / "model.safetensors"
    )
    edit(
        tmp_path / "model",
        sha256={"model.safetensors": file_sha256(tmp_path / "model" / "model.safetensors")},
    )
    with pytest.raises(ValueError, match=rf"{name} is absent in the file"):
        xtra_rl.load_pretrained(tmp_path / "model")


def test_the_package_knows_no_other_names():
    with pytest.raises(AttributeError, match="has no attribute 'load_pretrainde'"):
        _ = xtra_rl.load_pretrainde


def test_who_may_read_the_folder_may_read_the_weights(tmp_path):
    model = small_models.small_model()
    save_model(tmp_path / "model", model, config=model.config, metadata={})
    (tmp_path / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode}
