"""Can the network fit what it has seen? Reward and value predictions on the replay they were trained on.

2,400 env steps of a game, then updates alone. What is predicted is compared with the targets of 256 drawn positions,
in eval mode (running statistics, as searches see it) and in train mode (statistics of the batch). 1 is a perfect fit,
0 is a constant. Minutes of one CPU core:

    python results/laptop/fit.py 600 env.image_size=48 model.channels=16 loss.joint_statistics=false
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from xtra_rl.data.windows import stack_frames
from xtra_rl.evaluation.diagnosis_tables import explained_variance
from xtra_rl.recipes import build
from xtra_rl.training.loop import update
from xtra_rl.training.stopwatch import Stopwatch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SCRATCH = ("scale=laptop", "cross_task=false", "pretrained=false", "device=cpu")


@torch.no_grad()
def fit(model, batch, frame_stack: int, mode: str) -> dict[str, float]:
    """Predictions along the true actions against a batch's targets; the model is not changed."""
    model = copy.deepcopy(model).train(mode == "train")
    stacks, action = stack_frames(batch["pixels"], frame_stack), batch["action"][:, 0]
    root = latent = model.represent(stacks[:, 0])
    state, rewards = model.initial_state(latent), []
    value = model.support.decode(model.predict(latent)[1])
    for k in range(batch["reward_target"].shape[1]):
        latent, reward, state = model.step(latent, batch["action"][:, k], state)
        rewards.append(model.support.decode(reward))
    reward, target = torch.stack(rewards, 1), batch["reward_target"]
    came = model.project(model.represent(stacks[:, 1]), predictor=False)
    mask = batch["consistency_mask"][:, 0]
    near = [
        torch.nn.functional.cosine_similarity(
            model.project(model.step(root, a, model.initial_state(root))[0], predictor=True), came
        )[mask]
        for a in (action, action[torch.randperm(len(action))])
    ]
    differs = near[0] != near[1]
    return {
        "true action nearer": float((near[0] > near[1])[differs].float().mean()),
        "cosine": float(near[0].mean()),
        "reward explained": explained_variance(reward.numpy(), target.numpy()),
        "predicted where a reward came": float(reward[target > 0].mean()),
        "and elsewhere": float(reward[target == 0].mean()),
        "value explained": explained_variance(value.numpy(), batch["value_target"][:, 0].numpy()),
        "spread of values": float(value.std()),
        "of their targets": float(batch["value_target"][:, 0].std()),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("updates", type=int)
    arguments.add_argument("overrides", nargs="*", help="of scale=laptop, from scratch")
    arguments.add_argument("--every", type=int, default=200)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("xtra_finetune", [*SCRATCH, *given.overrides])
    model = build.world_model(cfg, cfg.target)
    actor, source, learner = build.online(cfg, cfg.target, model, "fit")
    while actor.env_steps < 2400:
        actor.step()
    begun = time.perf_counter()
    for step in range(1, given.updates + 1):
        update(source, learner, Stopwatch())
        if step % given.every == 0:
            print(f"{1000 * (time.perf_counter() - begun) / step:.0f} ms an update")
            batch = torch.cat([source.build(source.draw()) for _ in range(4)])
            for mode in ("eval", "train"):
                numbers = fit(model, batch, cfg.env.frame_stack, mode)
                print(
                    step,
                    mode,
                    ", ".join(f"{name} {value:+.3f}" for name, value in numbers.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
