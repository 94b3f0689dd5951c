"""Acting by the policy head alone."""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn

from xtra_rl.modules import OwnGenerator, evaluating
from xtra_rl.search.types import InitialOutput


class RootModel(Protocol):
    """What :class:`PriorPolicy` asks of a model: a part of :class:`~xtra_rl.search.SearchModel`."""

    def initial_inference(self, observation: Tensor) -> InitialOutput:
        """Prior logits ``[B, A]``, value and embedding of ``observation [B, F*C, H, W]``."""


class PriorPolicy(OwnGenerator, TensorDictModuleBase):
    """Act by a model's policy head without search, as behaviour cloning does (XTRA, arXiv 2210.10763, appendix O).

    Reads ``observation [*, F*C, H, W]`` and ``action_mask [*, A]`` bool (True = legal), writes ``action [*]`` int64:
    the most likely legal action under ``set_exploration_type(ExplorationType.DETERMINISTIC)`` (the first of equals),
    else one drawn from the softmax over the legal actions. The model runs in eval mode without gradients and gets its
    mode back.

    Args:
        world_model: a :class:`~xtra_rl.models.WorldModel`, or its :class:`~xtra_rl.models.InferenceModel`, which is
            faster and follows it, or another module with ``initial_inference``.
        generator: source of the draws; default: an own one with seed 0, on the CPU.

    Example:
        >>> from tensordict import TensorDict
        >>> from xtra_rl.models import make_world_model
        >>> policy = PriorPolicy(make_world_model(image_size=32, image_channels=1, channels=8, num_actions=3))
        >>> observation, mask = torch.zeros(1, 4, 32, 32, dtype=torch.uint8), torch.tensor([[False, True, False]])
        >>> policy(TensorDict({"observation": observation, "action_mask": mask}, [1]))["action"]
        tensor([1])
    """

    in_keys = ["observation", "action_mask"]
    out_keys = ["action"]

    def __init__(self, world_model: RootModel, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.world_model = world_model
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``.

        Raises:
            ValueError: if a row of ``action_mask`` has no legal action, or the model's logits are not finite.
        """
        action_mask, observation = tensordict["action_mask"], tensordict["observation"]
        batch, home = action_mask.shape[:-1], action_mask.device
        if not bool(action_mask.any(-1).all()):
            raise ValueError("a row of action_mask has no legal action; expected at least one True in each")
        logits = self._prior_logits(observation.reshape(-1, *observation.shape[len(batch) :])).to(home)
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "the policy logits are not finite; go back to a checkpoint before the training diverged"
            )
        logits = logits.float().masked_fill(~action_mask.reshape(-1, action_mask.shape[-1]), -torch.inf)
        if interaction_type() is InteractionType.DETERMINISTIC:
            action = logits.argmax(-1)
        else:
            probabilities = logits.softmax(-1).to(self.generator.device)
            action = torch.multinomial(probabilities, 1, generator=self.generator).squeeze(-1)
        return tensordict.set("action", action.reshape(batch).to(home))

    def _prior_logits(self, observation: Tensor) -> Tensor:
        """Logits ``[B, A]`` of ``observation [B, F*C, H, W]``, on the model's device."""
        model = self.world_model
        if not isinstance(model, nn.Module):
            return model.initial_inference(observation).prior_logits
        tensor = next(itertools.chain(model.parameters(), model.buffers()), observation)
        with evaluating(model):
            return model.initial_inference(observation.to(tensor.device)).prior_logits
