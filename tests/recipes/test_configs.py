"""Every shipped config composes, builds what it describes, and says what the paper says."""

from __future__ import annotations

import pytest
import torch
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from recipe_names import RECIPES

from xtra_rl.recipes import build, common

SCALES = ("smoke", "quick", "laptop", "workstation", "paper")


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_at_every_scale_with_no_key_of_its_own_making(config, recipe, scale):
    cfg = config(recipe, f"scale={scale}")
    base = config(recipe, "scale=paper")
    assert cfg.scale == scale
    # Struct mode lets a scale file add keys silently; a misspelt one would then change nothing.
    flat = [set(_paths(OmegaConf.to_container(c))) for c in (cfg, base)]
    assert flat[0] == flat[1]


def _paths(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize("scale", SCALES)
def test_model_planner_and_learner_of_every_scale_build(config, scale):
    cfg = config("xtra_finetune", f"scale={scale}", "device=cpu")
    model = build.world_model(cfg, "alien")
    planner = build.planner(cfg, model)
    learner = build.learner(cfg, model, ["alien"], updates=1)
    channels = cfg.env.frame_stack * (1 if cfg.env.grayscale else 3)
    side = cfg.env.image_size
    with torch.no_grad():
        root = model.eval().initial_inference(torch.zeros(1, channels, side, side, dtype=torch.uint8))
    assert root.prior_logits.shape == (1, 18)
    assert planner.num_simulations == cfg.search.num_simulations
    assert learner.max_grad_norm == 5.0


def test_paper_scale_holds_the_published_constants(config):
    """XTRA (arXiv 2210.10763) Table 8, EfficientZero (arXiv 2111.00210) Table 6, and their released codes."""
    cfg = config("xtra_finetune", "scale=paper")
    published = {
        "env.image_size": 96, "env.grayscale": False, "env.frame_stack": 4, "env.frame_skip": 4, "env.sticky": 0.0,
        "env.noop_max": 30, "env.max_frames": 108_000, "num_envs": 8,
        "model.num_blocks": 4, "model.channels": 64, "model.lstm_hidden": 512, "model.support_size": 300,
        "model.value_prefix_horizon": 5, "model.projection_hidden": 1024, "model.predictor_hidden": 512,
        "search.algorithm": "puct", "search.num_simulations": 50, "search.dirichlet_alpha": 0.3,
        "search.exploration_fraction": 0.25, "search.pb_c_init": 1.25, "search.pb_c_base": 19652,
        "search.value_delta_max": 0.01, "targets.unroll_steps": 5, "targets.td_steps": 5, "targets.policy_ratio": 1.0,
        "targets.age_interval": 30_000, "targets.clip_rewards": True, "target_interval": 200,
        "loss.policy_coef": 1.0, "loss.value_coef": 0.25, "loss.reward_coef": 1.0, "loss.consistency_coef": 2.0,
        "loss.joint_statistics": False, "optim.name": "sgd", "optim.lr": 0.2, "optim.momentum": 0.9,
        "optim.weight_decay": 1e-4, "optim.warmup_steps": 1000, "optim.decay_steps": 100_000, "optim.decay_rate": 0.1,
        "optim.max_grad_norm": 5.0, "replay.alpha": 0.6, "batch_size": 256, "cross_batch_size": 256,
        "collect.env_steps": 120_000, "collect.checkpoints": 12, "collect.episodes": 64, "finetune.env_steps": 100_000,
        "finetune.warmup_steps": 2000, "finetune.replay_ratio": 1.0, "finetune.extra_train_steps": 20_000,
        "task_weight_schedule.start": 10_000, "task_weight_schedule.cycle": 5000, "task_weight_schedule.window": 500,
        "task_weight_schedule.threshold": 0.1, "task_loss_reduction": "sum", "eval.episodes": 32, "eval.every": 10_000,
        "eval.max_steps": 27_000, "num_cross_tasks": 4,
    }  # fmt: skip
    assert {key: OmegaConf.select(cfg, key) for key in published} == published
    assert cfg.search.discount == pytest.approx(0.997**4, abs=1e-12)
    assert list(cfg.replay.beta) == [0.4, 1.0]
    assert common.plain(cfg.search.temperature) == {0: 1.0, 60_000: 0.5, 90_000: 0.25}


def test_official_variant_takes_the_released_code_s_side(config):
    cfg = config("xtra_finetune", "scale=paper", "variant=official")
    assert cfg.task_loss_reduction == "mean"
    assert cfg.task_weight_schedule.estimator == "official"


def test_cross_tasks_leave_the_target_out(config):
    shooters = common.cross_tasks_of(config("xtra_finetune", "scale=paper", "target=Assault"))
    assert sorted(shooters) == ["carnival", "centipede", "demon_attack", "phoenix"]
    mixed = config("xtra_finetune", "scale=quick", "target=alien", "task_set=shooter", "num_cross_tasks=3")
    assert len(common.cross_tasks_of(mixed)) == 3
    listed = config("xtra_finetune", "cross_tasks=[MsPacman,phoenix]")
    assert common.cross_tasks_of(listed) == ["ms_pacman", "phoenix"]


def test_every_set_of_the_paper_is_a_config(config):
    def tasks(*overrides):
        return common.cross_tasks_of(config("distill", "scale=paper", *overrides))

    mazes = ["alien", "amidar", "bank_heist", "ms_pacman", "wizard_of_wor"]
    shooters = ["assault", "carnival", "centipede", "demon_attack", "phoenix"]
    for names in (mazes, shooters):
        for target in names:
            chosen = tasks(f"target={target}", f"task_set={'maze' if names is mazes else 'shooter'}")
            assert sorted([*chosen, target]) == names
    assert set(tasks("target=assault", "task_set=four_mazes")) < set(mazes)
    diverse = {n: tasks(f"task_set=diverse{n}") for n in (8, 4, 2)}
    assert sorted(diverse[8]) == sorted(
        [
            "carnival",
            "centipede",
            "phoenix",
            "pooyan",
            "riverraid",
            "video_pinball",
            "wizard_of_wor",
            "yars_revenge",
        ]
    )
    assert sorted(diverse[4]) == ["phoenix", "video_pinball", "wizard_of_wor", "yars_revenge"]
    assert sorted(diverse[2]) == ["phoenix", "video_pinball"]
    # A set of eight means eight at every scale; the category's default size is the scale's.
    quick = config("distill", "scale=quick", "task_set=diverse8")
    assert len(common.cross_tasks_of(quick)) == 8
    assert len(common.cross_tasks_of(config("distill", "scale=quick"))) == 2


def test_an_unknown_task_set_is_answered_with_those_there_are(config):
    with pytest.raises(MissingConfigException, match=r"task_set/mazes(?s:.)*diverse8"):
        config("distill", "task_set=mazes")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cross_tasks=[alien]", "without target 'alien'"),
        (
            "inputs=mazes target=ms_pacman",
            "names the target 'ms_pacman'; if the student has learnt it, take another target",
        ),
        ("cross_tasks=[phoenix,phoenix]", "each once"),
        ("target=alein", "alien"),
    ],
)
def test_impossible_task_choices_are_named(config, override, message):
    with pytest.raises(ValueError, match=message):
        common.cross_tasks_of(config("xtra_finetune", *override.split()))
