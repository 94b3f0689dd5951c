"""Slips in a setting are answered before any input is built for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pipeline_runs import ROOT, end_of, fails

from xtra_rl.recipes import build, common
from xtra_rl.recipes.choices import check_choices
from xtra_rl.recipes.kinds import check_kinds
from xtra_rl.recipes.task_weighting import task_weighting
from xtra_rl.training.dashboards import check_wandb
from xtra_rl.transfer import rules


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("freeze=[encoder]", "freeze names 'encoder'; expected a subset of representation, dynamics"),
        ("transfer=[encoder]", "transfer names 'encoder'"),
        ("logger=mlflow", "logger 'mlflow' is unknown; known loggers: csv, wandb, tensorboard"),
        ("wandb_mode=remote", "wandb_mode='remote' is unknown"),
        ("budget=soon", "'soon' is no duration; expected something like 2h"),
        ("checkpoint.every=often", "'often' is no duration"),
        ("search.algorithm=alphazero", "search.algorithm is 'alphazero'; expected puct or gumbel"),
        ("optim.decay=linear", "optim.decay is 'linear'; expected step, cosine or none"),
        (
            "task_weighting=foo",
            "task_weighting is 'foo'; expected cosine, soft_cosine, constant, pcgrad or gradvac",
        ),
        ("eval.modes=[greeedy]", "eval.modes names 'greeedy'; expected some of greedy, sampled"),
        ("eval.baselines=[none]", "eval.baselines names 'none'"),
        ("eval.every=0", "eval.every is 0; expected at least 1"),
        ("optim.lr=-1", "optim.lr is -1; expected a positive"),
        ("collect.policy=nope", "collect.policy is 'nope'; expected efficientzero, curl, random or the path"),
        ("device=gpu", "device is 'gpu'; expected auto, cpu or cuda"),
        ("search.backend=cuda", "backend"),
        (
            "data_parallel.batch_norm=no",
            "data_parallel.batch_norm is 'no'; expected synchronised or per_rank",
        ),
    ],
)
def test_slips_end_a_recipe_before_it_begins(config, override, message):
    def recipe(cfg):
        raise AssertionError("the recipe was begun")

    overrides = [override] if isinstance(override, str) else override
    assert message in fails(recipe, config("xtra_finetune", "scale=smoke", *overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrained=no", "pretrained is 'no'; expected true or false"),
        ("cross_task=off", "cross_task is 'off'; expected true or false"),
        ("task_weights=1", "task_weights is 1; expected true or false"),
        ("model.value_prefix=flase", "model.value_prefix is 'flase'; expected true or false"),
        ("seed=one", "seed is 'one'; expected a whole number"),
        ("finetune.env_steps=10.5", "finetune.env_steps is 10.5; expected a whole number"),
        ("finetune.env_steps=1e5", "finetune.env_steps is 100000.0; expected a whole number, 100000"),
        ("num_envs=true", "num_envs is True; expected a whole number"),
        ("batch_size=null", "batch_size is null; expected a whole number"),
        ("optim.lr=abc", "optim.lr is 'abc'; expected a number"),
        ("threads=two", "threads is 'two'; expected a whole number"),
        ("early_stop.score=abc", "early_stop.score is 'abc'; expected a number"),
        ("freeze=representation", "freeze is 'representation'; expected a list, freeze=[representation]"),
        ("cross_tasks=carnival", "cross_tasks is 'carnival'; expected a list, cross_tasks=[carnival]"),
        ("eval.modes=greedy", "eval.modes is 'greedy'; expected a list, eval.modes=[greedy]"),
        ("replay.beta=[a,b]", "replay.beta is ['a', 'b']; expected a list of numbers"),
        ("+search.temperature={0:hot}", "search.temperature is"),
    ],
)
def test_a_value_of_another_kind_ends_a_recipe_before_it_begins(config, override, message):
    test_slips_end_a_recipe_before_it_begins(config, override, message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.env_steps=48000", "zero from update 6100 on, and finetune.env_steps means 11750 updates"),
        ("collect.env_steps=60000", "zero from update 6100 on, and collect.env_steps means 14750 updates"),
        ("teacher.train_steps=6101", "zero from update 6100 on, and teacher.train_steps means 6101 updates"),
        ("distill.train_steps=20000", "optim.decay_steps=null decays over each stage's own"),
        (["optim.decay=step", "optim.decay_steps=null"], "not for step"),
    ],
)
def test_a_learning_rate_that_would_end_before_its_stage_is_refused(config, override, message):
    overrides = [override] if isinstance(override, str) else override
    test_slips_end_a_recipe_before_it_begins(config, ["scale=laptop", *overrides], message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task_weighting=pcgrad", "task_weights=false"], "pcgrad has no effect with task_weights=false"),
        (["task_weighting=pcgrad", "cross_task=false"], "pcgrad has no effect with cross_task=false"),
        (
            ["task_weighting=soft_cosine", "variant=official"],
            "estimator=official has no effect with task_weighting=soft",
        ),
    ],
)
def test_settings_of_task_weights_that_nothing_reads_are_refused(config, overrides, message):
    test_slips_end_a_recipe_before_it_begins(config, overrides, message)


def test_decay_over_each_stage_ends_with_it(config):
    cfg = config("xtra_finetune", "scale=laptop", "finetune.env_steps=48000", "optim.decay_steps=null")
    check_choices(cfg, ["csv"], torch.device("cpu"))
    model = build.world_model(cfg, "alien")
    for updates in (5_000, 11_750):
        learner = build.learner(cfg, model, ["alien"], updates=updates)
        assert learner.lr_factor(updates) == 0
        assert learner.lr_factor(100 + (updates - 100) // 2) == pytest.approx(0.5, abs=1e-3)
    check_choices(
        config("xtra_finetune", "scale=laptop", "teacher.train_steps=6100"), ["csv"], torch.device("cpu")
    )


@pytest.mark.parametrize(
    "override",
    ["optim.lr=1", "watchdog.max_loss=0.5", "targets.age_interval=null", "threads=2", "logger=wandb",
     "optim.decay_steps=null", "workers.gpus=0.25", "early_stop.score=300", "cross_tasks=[carnival]",
     "search.max_bytes=1000", "student=null"],
)  # fmt: skip
def test_what_a_setting_may_be(config, override):
    check_kinds("xtra_finetune", common.plain(config("xtra_finetune", "scale=smoke", override)))


@pytest.mark.parametrize("scale", [name for name in common.SCALES if name != "auto"])
@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")))
def test_no_scale_has_a_setting_of_another_kind(config, recipe, scale):
    if (ROOT / "recipes" / f"{recipe}.py").is_file():
        check_kinds(recipe, common.plain(config(recipe, f"scale={scale}")))


@pytest.mark.parametrize("mode", ["online", None])
def test_wandb_without_an_account_ends_a_recipe_before_it_begins(config, monkeypatch, mode):
    import wandb

    monkeypatch.setattr(wandb, "api", SimpleNamespace(api_key=None))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    test_slips_end_a_recipe_before_it_begins(
        config, ["logger=[wandb]", f"wandb_mode={mode or 'null'}"], "nobody is logged in"
    )
    check_wandb("offline")


def test_a_rule_of_a_plugin_is_known(config, tmp_path, monkeypatch):
    (tmp_path / "my_own_rule.py").write_text(
        "from xtra_rl.transfer import TaskWeighting, register_task_weighting\n"
        "class Half(TaskWeighting):\n"
        "    measuring = False\n"
        "    weights = property(lambda self: dict.fromkeys(self.tasks, 0.5))\n"
        "register_task_weighting('half', lambda tasks, settings, seed: Half(tasks))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    cfg = config("xtra_finetune", "scale=smoke", "plugins=[my_own_rule.py]", "task_weighting=half")
    assert end_of(lambda cfg: None, cfg) is None
    assert task_weighting(cfg, ["carnival"]).weights == {"carnival": 0.5}
