"""Random play over more games than an evaluation has: its 32 are a rough baseline where scores spread widely.

    python results/laptop/random_play.py results/laptop/random.csv phoenix assault demon_attack alien ms_pacman \\
        carnival centipede amidar bank_heist

160 games of at most 800 env steps, as many as the last five evaluations of a run. A minute a game on one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from xtra_rl.evaluation.baselines import random_returns
from xtra_rl.files import write_csv
from xtra_rl.recipes import common

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("games", nargs="+")
    arguments.add_argument("--episodes", type=int, default=160)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("xtra_finetune", ["scale=laptop"])
    rows = []
    for task in given.games:
        result = random_returns(
            task,
            num_episodes=given.episodes,
            max_steps=cfg.eval.max_steps,
            num_envs=32,
            env_kwargs=common.env_kwargs(cfg),
        )
        returns = torch.tensor(result.returns)
        error = returns.std() / len(returns) ** 0.5
        print(f"{task}: {returns.mean():.1f}, standard error {error:.1f}")
        rows += [
            {"game": task, "episode": number, "return": score} for number, score in enumerate(result.returns)
        ]
    write_csv(given.out, rows)


if __name__ == "__main__":
    main()
