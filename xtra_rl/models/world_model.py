"""The world model: representation, dynamics, prediction and projection under one roof."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from xtra_rl.models.description import ModelDescription
from xtra_rl.models.dynamics import HeadState
from xtra_rl.models.support import Support
from xtra_rl.search.types import InitialOutput, RecurrentOutput

COMPONENTS = ("representation", "dynamics", "prediction", "projection")
"""The parts that transfer and freezing speak of (XTRA Figure 7)."""


class DynamicsModel(nn.Module):
    """Dynamics and its reward head: what the paper's Figure 7 transfers as ``dynamics``."""

    def __init__(self, transition: nn.Module, reward_head: nn.Module) -> None:
        super().__init__()
        self.transition = transition
        self.reward_head = reward_head

    def forward(
        self, latent: Tensor, action: Tensor, state: HeadState | None
    ) -> tuple[Tensor, Tensor, HeadState | None]:
        """Next latent ``[B, C, h, w]``, reward or prefix logits ``[B, S]``, next head state."""
        latent = self.transition(latent, action)
        logits, state = self.reward_head(latent, state)
        return latent, logits, state


def check_horizon(state: HeadState | None, horizon: int | None) -> None:
    """Refuse a reward head that does not go with a horizon.

    Raises:
        ValueError: with what to pass.
    """
    if (state is None) != (horizon is None):
        has, fits = ("no state", "None") if state is None else ("a state, as a value prefix has it", "5, say")
        raise ValueError(
            f"value_prefix_horizon is {horizon}, but the reward head has {has}: pass value_prefix_horizon={fits}"
        )


def check_start(head: nn.Module, state: HeadState | None) -> None:
    """Refuse a reward head whose state does not begin at zero, which is what searches set it to at each restart.

    Looks once at a head's numbers, and not while a CUDA graph is captured or code compiled: a look waits for the
    device.

    Raises:
        ValueError: if it is learnt or not zero.
    """
    if state is None or torch.compiler.is_compiling() or state[0].is_meta:
        return
    if not (bad := any(part.requires_grad for part in state)):
        if getattr(head, "_starts_at_zero", False):
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        bad = any(bool(part.any()) for part in state)
    if bad:
        raise ValueError(
            "the reward head's initial_state is not zero: searches restart the value prefix from zeros, so that it"
            " would be trained from one state and searched from another"
        )
    head._starts_at_zero = True  # type: ignore[assignment]


class WorldModel(nn.Module):
    """MuZero-family world model with EfficientZero's value prefix and consistency heads.

    Compose it from your own modules, or call :func:`~xtra_rl.models.make_world_model`. The search calls
    :meth:`initial_inference` and :meth:`recurrent_inference`; the loss calls :meth:`represent`, :meth:`step`,
    :meth:`predict` and :meth:`project`.

    Args:
        representation: observation to latent ``[B, C, h, w]``.
        dynamics: a :class:`DynamicsModel`.
        prediction: latent to policy and value logits; has ``num_actions``.
        projection: latent to projection, with ``predict``; ``None`` where the consistency loss is not used.
        support: coding of values and rewards.
        value_prefix_horizon: steps after which the LSTM state and the prefix restart; ``None`` if the reward head gives
            the reward of each single transition.

    Attributes:
        config: arguments that rebuild the model, set by :func:`~xtra_rl.models.make_world_model`; empty for one of
            your own parts.
        description: tasks, scores and settings of the directory that :func:`xtra_rl.load_pretrained` has read.
        frozen: names of the components that do not train.

    Raises:
        ValueError: if the horizon is not positive; :meth:`initial_state`, if it does not fit the reward head.

    Example:
        EfficientZero from its parts, small, for 4 grey frames of 48x48, whose latent is 3x3:

        >>> from xtra_rl.models import Dynamics, Prediction, Projection, Representation, ValuePrefixHead
        >>> representation, prediction = Representation(4, channels=8), Prediction(8, 3, num_bins=21)
        >>> dynamics = DynamicsModel(Dynamics(8), ValuePrefixHead(8, 3, 21, lstm_hidden=16))
        >>> model = WorldModel(representation, dynamics, prediction, Projection(8 * 3 * 3), support=Support(10)).eval()
        >>> root = model.initial_inference(torch.zeros(2, 4, 48, 48))
        >>> output, embedding = model.recurrent_inference(torch.tensor([0, 17]), root.embedding)
        >>> output.prior_logits.shape, embedding["latent"].shape
        (torch.Size([2, 18]), torch.Size([2, 8, 3, 3]))
    """

    def __init__(
        self,
        representation: nn.Module,
        dynamics: DynamicsModel,
        prediction: nn.Module,
        projection: nn.Module | None = None,
        *,
        support: Support,
        value_prefix_horizon: int | None = 5,
    ) -> None:
        super().__init__()
        if value_prefix_horizon is not None and value_prefix_horizon < 1:
            raise ValueError(
                f"value_prefix_horizon is {value_prefix_horizon}; expected a positive integer or None"
            )
        self.representation = representation
        self.dynamics = dynamics
        self.prediction = prediction
        self.projection = projection
        self.support = support
        self.value_prefix_horizon = value_prefix_horizon
        self.config: dict[str, Any] = {}
        self.description = ModelDescription()
        self.frozen: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        """A part of one's own in place of another: the arguments that made the model no longer rebuild it."""
        if name in COMPONENTS and name in self.__dict__.get("_modules", {}):
            self.config = {}
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> WorldModel:
        """Training mode for all but the frozen components, whose BatchNorm statistics must not move."""
        super().train(mode)
        for name in self.frozen:
            self.components()[name].eval()
        return self

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.prediction.num_actions)  # type: ignore[arg-type]

    def components(self) -> dict[str, nn.Module]:
        """The parts by the names that transfer uses: representation, dynamics, prediction, projection."""
        return {name: getattr(self, name) for name in COMPONENTS if getattr(self, name) is not None}

    def represent(self, observation: Tensor) -> Tensor:
        """``[B, F*C, H, W]`` to the root latent."""
        return self.representation(observation)

    def initial_state(self, latent: Tensor) -> HeadState | None:
        """State of the reward head at the root of an unroll: ``([B, L], [B, L])`` zeros of the LSTM, or None.

        Raises:
            ValueError: if the reward head has a state and there is no horizon, or the other way round, or if it does
                not begin with zeros.
        """
        state = self.dynamics.reward_head.initial_state(latent)  # type: ignore[operator]
        check_horizon(state, self.value_prefix_horizon)
        check_start(self.dynamics.reward_head, state)
        return state

    def step(
        self, latent: Tensor, action: Tensor, state: HeadState | None
    ) -> tuple[Tensor, Tensor, HeadState | None]:
        """One imagined transition: next latent, reward or prefix logits ``[B, S]``, next head state."""
        return self.dynamics(latent, action, state)

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Policy logits ``[B, A]`` and value logits ``[B, S]``."""
        return self.prediction(latent)

    def project(self, latent: Tensor, *, predictor: bool) -> Tensor:
        """Projection ``[B, P]`` of a latent, through the predictor for the side that learns.

        Raises:
            ValueError: if the model has none.
        """
        if self.projection is None:
            raise ValueError(
                "the world model has no projection; build it with one, or use consistency_coef=0"
            )
        return self.projection.predict(latent) if predictor else self.projection(latent)  # type: ignore[operator]

    def initial_inference(self, observation: Tensor) -> InitialOutput:
        """Root of a search: prior logits ``[B, A]``, value ``[B]``, embedding.

        The embedding is a TensorDict of batch ``[B]`` with the latent and, with a value prefix, the LSTM state and the
        depth in the tree.
        """
        latent = self.represent(observation)
        policy_logits, value_logits = self.predict(latent)
        state = self.initial_state(latent)
        depth = torch.zeros(latent.shape[0], dtype=torch.int32, device=latent.device)
        return InitialOutput(
            policy_logits, self.support.decode(value_logits), self._embedding(latent, state, depth)
        )

    def recurrent_inference(
        self, action: Tensor, embedding: TensorDict
    ) -> tuple[RecurrentOutput, TensorDict]:
        """One step of the search by ``action [B]``, the ``recurrent_fn`` of :mod:`xtra_rl.search`.

        With a value prefix, ``reward`` is the prefix; the LSTM state is zeroed when the parent's depth is a multiple of
        the horizon, so the prefix restarts there (EfficientZero section 4.2).
        """
        state, depth = None, None
        if self.value_prefix_horizon is not None:
            depth = embedding["depth"]
            keep = (depth % self.value_prefix_horizon != 0).unsqueeze(-1)
            state = (embedding["hidden"] * keep, embedding["cell"] * keep)
            depth = depth + 1
        latent, reward_logits, state = self.step(embedding["latent"], action, state)
        policy_logits, value_logits = self.predict(latent)
        reward, value = self.support.decode(torch.stack([reward_logits, value_logits]))
        return RecurrentOutput(reward, value, policy_logits), self._embedding(latent, state, depth)

    @staticmethod
    def _embedding(latent: Tensor, state: HeadState | None, depth: Tensor | None) -> TensorDict:
        data: dict[str, Any] = {"latent": latent}
        if state is not None:
            data |= {"hidden": state[0], "cell": state[1], "depth": depth}
        return TensorDict(data, batch_size=latent.shape[:1], device=latent.device)
