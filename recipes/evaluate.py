"""Scores of a trained model on any game: its own, or one it has never seen (zero-shot).

The paper's protocol: 32 episodes, argmax of the search without noise, raw scores (fewer at small scales). Commands:

    python recipes/evaluate.py checkpoint=runs/xtra_finetune/alien-quick-s0/model target=alien
    python recipes/evaluate.py checkpoint=PATH target=ms_pacman eval.episodes=32 eval.modes=[greedy,sampled]
"""

from __future__ import annotations

import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.envs import get_task
from xtra_rl.envs.lockstep import Policy
from xtra_rl.models import RainbowNetwork, WorldModel
from xtra_rl.recipes import build, build_curl, checks, common, tracking
from xtra_rl.recipes.finish import VIDEO_FPS, score_table, summarise
from xtra_rl.training.run import RunDirectory


def player(
    cfg: DictConfig, checkpoint: Path, target: str
) -> tuple[WorldModel | RainbowNetwork, Policy | None]:
    """The model, and how it plays; None is by search."""
    if build_curl.is_network(checkpoint):
        network = build_curl.load_network(cfg, checkpoint)
        return network, build_curl.policy(cfg, network, "evaluate", target)
    model, about = build.load_model(cfg, checkpoint)
    # Behaviour cloning leaves the dynamics untrained: its agent acts by the policy head.
    return model, build.prior_policy(cfg, model, target) if build.is_cloned(about) else None


def evaluate(cfg: DictConfig, checkpoint: Path) -> Path:
    """Play and report; returns the run directory."""
    started, target = time.time(), common.target_of(cfg)
    model, policy = player(cfg, checkpoint, target)
    checks.check_fits(cfg, model, get_task(target), checkpoint)
    run = RunDirectory(cfg.run_dir or f"runs/evaluate/{target}-{cfg.scale}-s{cfg.seed}")
    run.write_config(common.plain(cfg))
    run.write_manifest(
        recipe="evaluate",
        config=common.plain(cfg),
        device=str(common.device_of(cfg)),
        inputs={"checkpoint": checkpoint},
    )
    with tracking.make_logger(cfg, run) as logger:
        suite = build.evaluation_suite(cfg, target, model, policy)
        suite.measure_baselines([name for name in cfg.eval.baselines if name != "untrained"])
        scores = suite.play(0, record_frames=cfg.eval.video_steps)
        tracking.log_scores(run, suite, logger, scores, 0, 0)
        summary = summarise(
            cfg,
            suite,
            recipe="evaluate",
            env_steps=0,
            train_steps=0,
            wall_seconds=time.time() - started,
            checkpoint=checkpoint,
        )
        summary["start/returns"] = {}
        tracking.log_end(logger, summary)
        run.write_summary(summary)
        frames = suite.history[-1][1][suite.modes[-1]].frames
        video = logger.log_video("evaluation", frames, VIDEO_FPS, env_step=0) if frames is not None else None
    common.say("\n" + score_table(target, summary, suite.human_normalized))
    common.say(f"\nrun       {run.path}" + (f"\nvideo     {video}" if video else ""))
    return run.path


@hydra.main(config_path="../configs", config_name="evaluate", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    evaluate(cfg, common.checkpoint_of(cfg))


if __name__ == "__main__":
    common.launch(main)
