"""The diagnosis of a run of the smoke pipeline, from its model to the picture."""

from __future__ import annotations

import csv
import json

import pytest
from pipeline_runs import fails

from xtra_rl.recipes import build, build_curl
from xtra_rl.recipes.diagnose import diagnose

SMALL = ("diagnose.episodes=2", "diagnose.positions=70", "diagnose.unroll_steps=3", "diagnose.horizon=5")


@pytest.mark.slow
def test_a_trained_model_is_examined_on_games_it_plays(first_run, reuse, capsys):
    run = diagnose(reuse(*SMALL, recipe="diagnose"), first_run.run / "model")
    out = capsys.readouterr().out
    assert "The next latent" in out
    assert "The emulator shows another frame" in out
    numbers = json.loads((run / "diagnosis.json").read_text())
    assert numbers["positions"] == 70
    assert numbers["games"] == 2
    assert 0 <= numbers["action/true_beats_random"] <= 1
    assert 0 < numbers["action/differs"] <= 1
    with open(run / "diagnosis.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    assert (run / "figures" / "diagnosis.png").stat().st_size > 20_000


def test_stored_games_do_instead(first_run, reuse):
    data = next((first_run.folder / "artifacts" / "datasets").glob("amidar-*"))
    cfg = reuse(*SMALL, "target=amidar", f"datasets=[{data}]", recipe="diagnose")
    run = diagnose(cfg, first_run.run / "model")
    assert not (run / "games").exists()
    numbers = json.loads((run / "diagnosis.json").read_text())
    assert numbers["target"] == "amidar"
    assert numbers["action/differs"] is None  # from what seeds they were played is not known


def test_mistakes_are_named(first_run, reuse):
    model = first_run.run / "model"
    assert "diagnose.horizon is 0" in fails(diagnose, reuse("diagnose.horizon=0", recipe="diagnose"), model)
    data = next((first_run.folder / "artifacts" / "datasets").glob("amidar-*"))
    message = fails(diagnose, reuse(f"datasets=[{data}]", recipe="diagnose"), model)
    assert "target 'alien'" in message


def test_agents_without_a_world_model_are_refused(reuse, config, tmp_path):
    cfg = config("curl", "scale=smoke")
    network = build_curl.network(cfg, "alien", "agent")
    model = build.save(tmp_path / "model", cfg, network, build_curl.STAGE, ["alien"])
    assert "is of CURL, which has no world model" in fails(diagnose, reuse(recipe="diagnose"), model)
