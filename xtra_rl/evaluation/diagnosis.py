"""Is the model a model? What a trained agent predicts, laid beside what its games then brought.

A score says that an agent fails, not why. These numbers do: whether the next latent depends on the action, how errors
grow along the unroll, whether the search improves on the prior, whether values mean what they say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from xtra_rl.data.windows import stack_frames
from xtra_rl.models.world_model import WorldModel
from xtra_rl.modules import evaluating
from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.targets.value import bootstrap_positions, clip_reward, n_step_values, reward_targets


@dataclass(frozen=True)
class Diagnosis:
    """Predictions and outcomes at ``N`` positions; NaN where the game had ended before.

    Attributes:
        group: ``[N]`` which game a position is of: positions of one game are not independent.
        similar_true: ``[N, K]`` cosine of the predicted latent, projected as the consistency loss does, and the
            projection of the frames that came; after k + 1 of the actions that were taken.
        similar_random: ``[N, K]`` the same with another legal action, drawn uniformly, in place of the last one.
        action_effect: ``[N, K]`` distance between the latents after both actions, over that which one step goes.
        reward, reward_target: ``[N, K]`` predicted and clipped true reward, or value prefix.
        value, value_target: ``[N, K+1]`` predicted value along the unroll, and the discounted return of the game up
            to ``horizon`` steps on, where the network's value stands for the rest.
        prior_entropy, search_entropy: ``[N]`` nats.
        divergence: ``[N]`` KL(search || prior), nats.
        improvement: ``[N]`` expected Q of the search's policy less that of the prior, over the visited actions.
        legal: ``[N]`` how many actions are legal.
        other: ``[N]`` the action that the first one was compared with.
        differs: ``[N]`` 1 where the emulator shows another next frame after the other first action, 0 where it does
            not, NaN where it was not asked (:func:`~xtra_rl.evaluation.counterfactuals.other_frames`).
    """

    group: np.ndarray
    similar_true: np.ndarray
    similar_random: np.ndarray
    action_effect: np.ndarray
    reward: np.ndarray
    reward_target: np.ndarray
    value: np.ndarray
    value_target: np.ndarray
    prior_entropy: np.ndarray
    search_entropy: np.ndarray
    divergence: np.ndarray
    improvement: np.ndarray
    legal: np.ndarray
    other: np.ndarray
    differs: np.ndarray

    @classmethod
    def join(cls, parts: Iterable[Diagnosis]) -> Diagnosis:
        """All positions of several parts."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(cls)))


@torch.no_grad()
def examine(
    planner: SearchPlanner,
    model: WorldModel,
    windows: TensorDictBase,
    group: np.ndarray,
    others: Tensor,
    *,
    action_mask: Tensor,
    unroll_steps: int,
    frame_stack: int,
    horizon: int,
    clip_rewards: bool = True,
) -> Diagnosis:
    """Compare a model's predictions with stored windows.

    Args:
        planner: searches over the model; its discount is used for returns.
        model: the world model, in eval mode while this runs.
        windows: of ``unroll_steps + horizon`` transitions with all their frames
            (:meth:`~xtra_rl.data.TrajectoryReplayBuffer.sample_windows`), ``[N]``, on the model's device.
        group: ``[N]`` the game of each window.
        others: ``[N, K]`` actions that were not taken (:func:`other_actions`).
        action_mask: legal actions of the task, ``[A]`` bool.
        unroll_steps: K.
        frame_stack: F.
        horizon: env steps of a return before the network's value stands for the rest.
        clip_rewards: as the model was trained.

    Example:
        >>> from tensordict import TensorDict
        >>> from xtra_rl.data import TrajectoryReplayBuffer
        >>> from xtra_rl.models import make_world_model
        >>> from xtra_rl.search import GumbelMCTSPlanner
        >>> rows = {"pixels": torch.zeros(9, 1, 36, 36, dtype=torch.uint8), "action": torch.zeros(9)}
        >>> rows |= {"reward": torch.ones(9), "terminated": torch.arange(9) == 7, "truncated": torch.zeros(9) > 0}
        >>> buffer = TrajectoryReplayBuffer(100, memmap=False)
        >>> _ = buffer.extend_trajectory(TensorDict(rows, [9]))
        >>> windows = buffer.sample_windows(4, unroll_steps=2, bootstrap_steps=3, frame_stack=4)
        >>> model = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> planner, legal = GumbelMCTSPlanner(model, backend="reference"), torch.ones(18, dtype=torch.bool)
        >>> others = other_actions(windows["action"][:, :2], legal, torch.Generator().manual_seed(0))
        >>> found = examine(planner, model, windows, np.arange(4), others, action_mask=legal, unroll_steps=2,
        ...                 frame_stack=4, horizon=3)
        >>> found.value.shape, found.legal.tolist()
        ((4, 3), [18.0, 18.0, 18.0, 18.0])
    """
    with evaluating(model):
        stacks = stack_frames(windows["pixels"], frame_stack)
        parts = _unroll(model, stacks, windows, others, unroll_steps)
        parts |= _targets(planner, model, stacks, windows, unroll_steps, horizon, clip_rewards)
        parts |= _searched(planner, stacks[:, 0], action_mask)
    columns = {name: part.cpu().double().numpy() for name, part in parts.items()}
    other, unknown = others[:, 0].cpu().numpy(), np.full(len(group), np.nan)
    return Diagnosis(group=group, other=other, differs=unknown, **columns)


def other_actions(action: Tensor, action_mask: Tensor, generator: torch.Generator) -> Tensor:
    """Legal actions other than ``action [N, K]``, uniform.

    Args:
        action: those that were taken.
        action_mask: legal actions of the task, ``[A]`` bool.
        generator: on the CPU.

    Raises:
        ValueError: if only one action is legal: there is nothing to compare it with.

    Example:
        >>> legal = torch.tensor([True, False, True])
        >>> other_actions(torch.tensor([[0, 2]]), legal, torch.Generator())
        tensor([[2, 0]])
    """
    if int(action_mask.sum()) < 2:
        raise ValueError(
            "action_mask has one legal action; expected at least two, to compare the true one with"
        )
    weight = action_mask.cpu().float().repeat(*action.shape, 1)
    weight.scatter_(-1, action.cpu()[..., None], 0.0)
    drawn = torch.multinomial(weight.flatten(0, 1), 1, generator=generator)
    return drawn.view(action.shape).to(action.device)


def _unroll(
    model: WorldModel, stacks: Tensor, windows: TensorDictBase, others: Tensor, unroll_steps: int
) -> dict[str, Tensor]:
    """Predictions along the actions that were taken, and each step's with another action."""
    latent = model.represent(stacks[:, 0])
    state = model.initial_state(latent)
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("similar_true", "similar_random", "action_effect", "reward")
    }
    values = [model.support.decode(model.predict(latent)[1])]
    exists = windows["observation_mask"][:, 1 : unroll_steps + 1]
    for k in range(unroll_steps):
        if model.value_prefix_horizon is not None and k % model.value_prefix_horizon == 0:
            state = model.initial_state(latent)
        other, _, _ = model.step(latent, others[:, k], state)
        following, reward, state = model.step(latent, windows["action"][:, k], state)
        came = _projected(model, model.represent(stacks[:, k + 1]), predictor=False)
        for name, predicted in (("similar_true", following), ("similar_random", other)):
            sides = _projected(model, predicted, predictor=True), came
            columns[name].append(torch.nn.functional.cosine_similarity(*sides, dim=-1))
        apart, way = ((following - place).flatten(1).norm(dim=1) for place in (other, latent))
        columns["action_effect"].append(apart / way.clamp(min=1e-12))
        columns["reward"].append(model.support.decode(reward))
        latent = following
        values.append(model.support.decode(model.predict(latent)[1]))
    found = {name: _known(torch.stack(column, 1), exists) for name, column in columns.items()}
    return found | {"value": torch.stack(values, 1)}


def _projected(model: WorldModel, latent: Tensor, *, predictor: bool) -> Tensor:
    """Where latents are compared: the space of the consistency loss, or their own without one."""
    if model.projection is None:
        return latent.flatten(1)
    return model.project(latent, predictor=predictor)


def _known(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values.float(), torch.nan)


def _targets(
    planner: SearchPlanner,
    model: WorldModel,
    stacks: Tensor,
    windows: TensorDictBase,
    unroll_steps: int,
    horizon: int,
    clip_rewards: bool,
) -> dict[str, Tensor]:
    """What the games brought: rewards, and returns up to the horizon."""
    mask, terminated = windows["transition_mask"], windows["terminated"]
    reward = clip_reward(windows["reward"]) if clip_rewards else windows["reward"]
    steps = torch.full(mask.shape[:1], horizon, device=mask.device)
    index, _ = bootstrap_positions(mask, terminated, td_steps=steps, unroll_steps=unroll_steps)
    needed = torch.zeros_like(windows["observation_mask"]).scatter_(1, index, True)
    needed &= windows["observation_mask"]
    bootstrap = torch.zeros(needed.shape, device=mask.device)
    bootstrap[needed] = planner.initial_inference(stacks[needed]).value.float()
    returns, _ = n_step_values(
        reward,
        bootstrap,
        mask,
        terminated,
        td_steps=steps,
        unroll_steps=unroll_steps,
        discount=planner.discount,
    )
    rewards, _ = reward_targets(
        reward, mask, terminated, unroll_steps=unroll_steps, value_prefix_horizon=model.value_prefix_horizon
    )
    return {
        "reward_target": _known(rewards, mask[:, :unroll_steps]),
        "value_target": _known(returns, mask[:, : unroll_steps + 1]),
    }


def _searched(planner: SearchPlanner, observation: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
    """How a search without noise changes the prior at the roots."""
    roots = planner.initial_inference(observation)
    result = planner.search_from(roots, action_mask.expand(len(observation), -1), noise=False)
    prior = roots.prior_logits.float().masked_fill(~action_mask, -torch.inf).softmax(-1)
    searched, visited = result.action_weights.float(), result.visit_counts > 0
    ratio = searched.clamp(min=1e-12).log() - prior.clamp(min=1e-12).log()

    def expected(policy: Tensor) -> Tensor:
        # Q is known where the search has been.
        weight = policy * visited
        return (weight * result.qvalues).sum(-1) / weight.sum(-1).clamp(min=1e-12)

    return {
        "prior_entropy": torch.special.entr(prior).sum(-1),
        "search_entropy": torch.special.entr(searched).sum(-1),
        "divergence": (searched * ratio).sum(-1),
        "improvement": expected(searched) - expected(prior),
        "legal": action_mask.sum().expand(len(observation)),
    }
