"""Which network fits what, without search: fixed games of random play, fixed targets, training and test games apart.

1,200 steps in each of 8 games, random legal actions held for two steps on average; six games train, two test. Targets
are clipped rewards and sums of ten discounted ones. 1 is a perfect fit, 0 a constant, less than 0 is worse than one.
Minutes of one CPU core:

    python results/laptop/probe.py alien 1000 latent=vector subtract_background=true shift=2
"""

from __future__ import annotations

import argparse
import time

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from xtra_rl.data.augment import random_shift
from xtra_rl.data.windows import stack_frames
from xtra_rl.envs import get_task, make_env
from xtra_rl.evaluation.diagnosis_tables import explained_variance
from xtra_rl.models import WorldModel, make_world_model
from xtra_rl.objectives import MuZeroLoss

UNROLL, RETURN, DISCOUNT, FRAMES, BATCH = 3, 10, 0.98, 4, 64
MODEL = {
    "image_channels": 1, "channels": 32, "stem": "patch", "prediction_blocks": 0, "action_encoding": "embedding",
    "value_prefix": False, "support_size": 20, "reduced_channels": 8, "projection_hidden": 256, "projection_out": 256,
    "predictor_hidden": 128, "num_actions": 18,
}  # fmt: skip


def play(game: str, steps: int = 1200, **env_kwargs) -> dict[str, Tensor]:
    """``[T, N]`` frames, actions, clipped rewards and ends of lives of random play."""
    env = make_env(game, 8, seed=0, grayscale=True, num_threads=1, **env_kwargs)
    generator = torch.Generator().manual_seed(0)
    state, rows, action = env.reset(), [], torch.zeros(8, dtype=torch.int64)
    for _ in range(steps):
        drawn = torch.multinomial(state["action_mask"].float(), 1, generator=generator).squeeze(-1)
        action = torch.where(torch.rand(8, generator=generator) < 0.5, drawn, action)
        pixels = state["pixels"].clone()
        stepped, state = env.step_and_maybe_reset(state.clone(recurse=False).set("action", action.clone()))
        outcome = stepped["next"]
        ended = (outcome["done"] | outcome["end-of-life"]).squeeze(-1)
        rows.append((pixels, action.clone(), outcome["reward"].squeeze(-1).sign(), ended))
    env.close()
    return dict(
        zip(
            ("pixels", "action", "reward", "ended"),
            (torch.stack(column) for column in zip(*rows)),
            strict=True,
        )
    )


class Windows:
    """Training batches from the games ``columns``."""

    def __init__(self, games: dict[str, Tensor], columns: slice, mask: Tensor) -> None:
        self.games, self.mask = games, mask
        reward, ended = games["reward"], games["ended"]
        self.returns, alive = torch.zeros_like(reward), torch.ones_like(reward)
        for k in range(RETURN):
            begins = slice(len(reward) - k)
            self.returns[begins] += DISCOUNT**k * alive[begins] * reward[k:]
            alive[begins] *= ~ended[k:]
        usable = torch.zeros_like(ended)
        for t in range(FRAMES, len(reward) - RETURN - UNROLL - 1):
            usable[t] = ~ended[t - FRAMES : t + UNROLL + 1].any(0)
        chosen = torch.zeros_like(usable)
        chosen[:, columns] = usable[:, columns]
        self.places = chosen.nonzero()

    def draw(self, size: int, generator: torch.Generator, shift: int = 0) -> TensorDict:
        """A batch for :class:`MuZeroLoss`; the policy is uniform over legal actions."""
        t, n = self.places[torch.randint(len(self.places), (size,), generator=generator)].unbind(1)
        ahead = torch.arange(UNROLL + 1)
        pixels = self.games["pixels"][t[:, None] + torch.arange(1 - FRAMES, UNROLL + 1), n[:, None]]
        if shift:
            pixels = random_shift(pixels, pad=shift, generator=generator)
        stacks = stack_frames(pixels, FRAMES)
        columns = {
            name: self.games[name][t[:, None] + ahead[:-1], n[:, None]] for name in ("action", "reward")
        }
        steps, positions = (torch.ones(size, UNROLL + more, dtype=torch.bool) for more in (0, 1))
        policy = self.mask / self.mask.sum()
        return TensorDict(
            {
                "observation": stacks[:, 0], "next_observation": stacks[:, 1:], "action": columns["action"],
                "reward_target": columns["reward"], "value_target": self.returns[t[:, None] + ahead, n[:, None]],
                "policy_target": policy.expand(size, UNROLL + 1, -1), "policy_mask": positions,
                "value_mask": positions, "reward_mask": steps, "consistency_mask": steps,
            },
            [size],
        )  # fmt: skip


@torch.no_grad()
def examine(model: WorldModel, batch: TensorDict) -> str:
    """Value at the root, rewards along the unroll, and how often the true action's latent is the nearer one."""
    model.eval()
    latent = model.represent(batch["observation"])
    value, rewards = model.support.decode(model.predict(latent)[1]), []
    came = model.project(model.represent(batch["next_observation"][:, 0]), predictor=False)
    action = batch["action"][:, 0]
    other = action.roll(1)
    near = [
        torch.cosine_similarity(model.project(model.step(latent, one, None)[0], predictor=True), came)
        for one in (action, other)
    ]
    for k in range(UNROLL):
        latent, logits, _ = model.step(latent, batch["action"][:, k], None)
        rewards.append(model.support.decode(logits))
    model.train()
    explained = [
        explained_variance(predicted.numpy(), target.numpy())
        for predicted, target in (
            (value, batch["value_target"][:, 0]),
            (torch.stack(rewards, 1), batch["reward_target"]),
        )
    ]
    return (
        f"value {explained[0]:+.2f} reward {explained[1]:+.2f} true action nearer"
        f" {float((near[0] > near[1])[action != other].float().mean()):.2f}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("game")
    arguments.add_argument("updates", type=int)
    arguments.add_argument(
        "settings", nargs="*", help="of the model; image_size, subtract_background, shift, lr, seed"
    )
    given = arguments.parse_args()
    settings = {name: value for name, _, value in (text.partition("=") for text in given.settings)}
    parsed = {
        name: int(value) if value.isdigit() else {"true": True, "false": False}.get(value, value)
        for name, value in settings.items()
    }
    shift, lr, seed = int(parsed.pop("shift", 0)), float(parsed.pop("lr", 1e-3)), parsed.pop("seed", 0)
    size, subtract = parsed.pop("image_size", 64), parsed.pop("subtract_background", False)
    torch.set_num_threads(1)
    games = play(given.game, image_size=size, subtract_background=subtract)
    mask = get_task(given.game).action_mask.float()
    parts = {"train": Windows(games, slice(0, 6), mask), "test": Windows(games, slice(6, 8), mask)}
    torch.manual_seed(seed)
    head = {"head_hidden": 128} if parsed.get("latent") == "vector" else {"head_hidden": 32}
    model = make_world_model(**MODEL | head | {"image_size": size} | parsed)
    loss = MuZeroLoss(model, value_coef=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    generator, begun = torch.Generator().manual_seed(seed + 1), time.perf_counter()
    for update in range(1, given.updates + 1):
        optimizer.param_groups[0]["lr"] = lr * min(1, update / 100)
        losses = loss(parts["train"].draw(BATCH, generator, shift))
        optimizer.zero_grad()
        sum(losses[name] for name in losses.keys() if name.startswith("loss_")).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if update % 500 == 0:
            speed = 1000 * (time.perf_counter() - begun) / update
            lines = [f"{name}: {examine(model, part.draw(768, generator))}" for name, part in parts.items()]
            print(
                f"{given.game} {' '.join(given.settings)} {update} ({speed:.0f} ms): {'; '.join(lines)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
