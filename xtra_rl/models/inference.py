"""The world model as the search wants it: folded, without gradients, refreshed in place."""

from __future__ import annotations

import itertools
from functools import cache
from multiprocessing import parent_process
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from xtra_rl.models.cpu_core import CpuCore
from xtra_rl.models.folding import fold
from xtra_rl.models.representation import Representation, as_floats
from xtra_rl.models.support import Support
from xtra_rl.models.vector import VectorRepresentation
from xtra_rl.models.world_model import DynamicsModel, WorldModel, check_horizon, check_start
from xtra_rl.search.types import InitialOutput, RecurrentOutput


class InferenceModel(nn.Module):
    """A :class:`WorldModel` in eval mode for acting, reanalysis and evaluation, several times faster.

    BatchNorm is folded into the convolutions, both heads of the prediction are one product, the LSTM is one product
    too, latents stay channels-last, and value and reward are decoded together. In float32 it agrees with the world
    model in eval mode to 1e-4.

    Args:
        world_model: the model to copy. Parts of types that the library does not know run as they are, a representation
            on observations as they come: uint8 is for it to scale.
        dtype: ``torch.bfloat16`` computes in half precision and decodes in float32. Decoded scalars then move by some
            percent, so compare searches before targets are made with it.
        compile: pass the recurrent inference through ``torch.compile``, which needs a C++ compiler on the CPU and
            takes a minute for each batch size.
        external_reset: leave it to the search to zero the LSTM state at the horizon (``reset_entries``), which it does
            in the pass that gathers the latents. The planners do so; who calls a search without a planner hands
            ``reset_entries`` on.
        follow: look before each initial inference whether the weights of ``world_model`` were written to, and
            :meth:`refresh` if so (fused optimisers, which leave no trace, are made to count their steps); in a child
            process, :meth:`refresh` without looking, since its weights may be shared with the parent. Writes through
            ``.data``, such as TorchRL's weight updates, leave no trace: call :meth:`refresh` after them.

    Attributes:
        num_actions: A.
        value_prefix_horizon: as in the world model.
        reset_entries: entries of the embedding that the search must reset; empty without ``external_reset``.

    Raises:
        ValueError: if ``dtype`` is neither float32 nor bfloat16.

    Example:
        >>> from xtra_rl.models import make_world_model
        >>> model = make_world_model(image_size=48, image_channels=1, channels=16, lstm_hidden=32, support_size=10)
        >>> engine = InferenceModel(model)
        >>> engine.initial_inference(torch.zeros(2, 4, 48, 48)).value.shape
        torch.Size([2])
    """

    def __init__(
        self,
        world_model: WorldModel,
        *,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        external_reset: bool = False,
        follow: bool = True,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; expected torch.float32 or torch.bfloat16")
        self.num_actions = world_model.num_actions
        self.value_prefix_horizon = world_model.value_prefix_horizon
        _check_is_plain(world_model)
        has_state = self.value_prefix_horizon is not None
        self.reset_entries = ("hidden", "cell") if external_reset and has_state else ()
        self._keeps_depth = has_state and not external_reset
        self._scales_frames = type(world_model.representation) in (Representation, VectorRepresentation)
        self._dtype = dtype
        self._compile = compile
        self._follow = follow
        if follow:
            _count_fused_writes()
        self._source = [world_model]  # in a list, so that it is no sub-module
        self._parts = self._fold(world_model)
        self._support = world_model.support
        self.eval()
        self.register_load_state_dict_post_hook(_derive_again)
        self._derive()
        self._seen: list[tuple[int, int]] | None = self._fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made from the rest, so that an engine can be copied and sent to another process."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_recurrent", "_cpu")}
        return kept | {"_seen": self._seen == self._fingerprint()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._follow:
            _count_fused_writes()
        self._derive()
        # The copy's source lies elsewhere. What has not changed since is not taken over anew: weights may be loaded.
        self._seen = self._fingerprint() if state["_seen"] else None

    def train(self, mode: bool = True) -> InferenceModel:
        """Always in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def _fold(self, world_model: WorldModel) -> nn.ModuleDict:
        parts = {
            "representation": world_model.representation,
            "transition": world_model.dynamics.transition,
            "reward_head": world_model.dynamics.reward_head,
            "prediction": world_model.prediction,
        }
        folded = nn.ModuleDict({name: fold(part) for name, part in parts.items()})
        return folded.to(self._dtype).requires_grad_(False).eval()

    @torch.no_grad()
    def refresh(self, world_model: WorldModel | None = None) -> None:
        """Take over the weights of a model of the same shape, by default the one this was made from.

        They are written where the old ones were, so that neither compiled code nor a CUDA graph is made anew.
        """
        if world_model is not None:
            self._source = [world_model]
        fresh = _tensors(self._fold(self._source[0]))
        for name, tensor in _tensors(self._parts).items():
            tensor.copy_(fresh[name])
        self._derive()
        self._seen = self._fingerprint()

    def _derive(self) -> None:
        for part in self._parts.modules():
            derive = getattr(part, "derive", None)
            if derive is not None:
                derive(pack=not self._compile)
        if "_recurrent" not in self.__dict__:
            core = self._recurrent_core
            self._recurrent = torch.compile(core, dynamic=False) if self._compile else core
        # Its kernels decode by the published coding themselves.
        plain = not self._compile and type(self._support) is Support
        self._cpu = CpuCore.build(self._parts, self._support.num_bins) if plain else None

    def _fingerprint(self) -> list[tuple[int, int]]:
        """Where the weights of the source lie, and how often each was written to."""
        source = self._source[0]
        tensors = itertools.chain(source.parameters(), source.buffers())
        return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]

    def _apply(self, fn: Any, recurse: bool = True) -> InferenceModel:
        """Follow a move to another device with what is derived from the buffers."""
        if fn(torch.empty(0, dtype=self._dtype)).dtype != self._dtype:
            raise ValueError(
                "the dtype of an InferenceModel is chosen when it is built: InferenceModel(dtype=...)"
            )
        super()._apply(fn, recurse)
        self._derive()
        return self

    @torch.no_grad()
    def initial_inference(self, observation: Tensor) -> InitialOutput:
        """As :meth:`WorldModel.initial_inference`: ``[B, F*C, H, W]`` uint8 or float in [0, 1] to a root.

        Raises:
            ValueError: if the representation gives no ``[B, C, h, w]``.
        """
        # Another process writes to shared weights without a trace in the counters of this one.
        blind = parent_process() is not None
        if self._follow and (blind or self._seen != self._fingerprint()):
            self.refresh()
        latent = self._represent(observation)
        if latent.dim() != 4:
            raise ValueError(
                f"the representation gives latents {list(latent.shape)}; an InferenceModel takes [B, C, h, w]:"
                " give the planner the world model itself"
            )
        latent = latent.contiguous(memory_format=torch.channels_last)
        policy_logits, value_logits = self._parts["prediction"](latent)
        state = self._parts["reward_head"].initial_state(latent)  # type: ignore[operator]
        check_horizon(state, self.value_prefix_horizon)
        check_start(self._parts["reward_head"], state)
        depth = None
        if self._keeps_depth:
            depth = torch.zeros(len(latent), dtype=torch.int32, device=latent.device)
        value = self._support.decode(value_logits)
        return InitialOutput(policy_logits.float(), value, _embedding(latent, state, depth))

    def _represent(self, observation: Tensor) -> Tensor:
        part = self._parts["representation"]
        if self._scales_frames:
            return part(as_floats(observation).to(self._dtype))
        with torch.autocast(observation.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return part(observation).to(self._dtype)

    def recurrent_inference(
        self, action: Tensor, embedding: TensorDictBase
    ) -> tuple[RecurrentOutput, TensorDictBase]:
        """As :meth:`WorldModel.recurrent_inference`; with ``external_reset`` the search has reset the state."""
        if torch.is_grad_enabled():  # the context costs as much as a layer, and a search is in it already
            with torch.no_grad():
                return self.recurrent_inference(action, embedding)
        state, depth = None, None
        if self.value_prefix_horizon is not None:
            state = (embedding.get("hidden"), embedding.get("cell"))
            if self._keeps_depth:
                depth = embedding.get("depth")
                keep = (depth % self.value_prefix_horizon != 0).unsqueeze(-1)
                state = (state[0] * keep, state[1] * keep)
                depth = depth + 1
        latent = embedding.get("latent")
        cpu = self._cpu
        core = self._recurrent if cpu is None or not cpu.suits(action, latent) else cpu
        reward, value, policy_logits, latent, state = core(action, latent, state)
        return RecurrentOutput(reward, value, policy_logits), _embedding(latent, state, depth)

    def _recurrent_core(
        self, action: Tensor, latent: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        latent = self._parts["transition"](latent, action)
        reward_logits, state = self._parts["reward_head"](latent, state)
        policy_logits, value_logits = self._parts["prediction"](latent)
        reward, value = self._support.decode(torch.stack([reward_logits, value_logits]))
        return reward, value, policy_logits.float(), latent, state


@cache
def _count_fused_writes() -> None:
    """Let every fused optimiser of this process count its writes as others do; their kernels leave no trace."""

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if group.get("fused"):
                torch.autograd.graph.increment_version(group["params"])

    register_optimizer_step_post_hook(count)


def _derive_again(engine: nn.Module, _: Any) -> None:
    assert isinstance(engine, InferenceModel)
    engine._derive()


def _check_is_plain(model: WorldModel) -> None:
    """Refuse a model that does something else on the way than what is folded."""
    pairs = ((model, WorldModel), (model.dynamics, DynamicsModel))
    names = (
        "represent",
        "initial_state",
        "step",
        "predict",
        "initial_inference",
        "recurrent_inference",
        "forward",
    )
    for part, kind in pairs:
        for name in names:
            if getattr(type(part), name, None) is not getattr(kind, name, None):
                raise ValueError(
                    f"{type(part).__name__} has a {name} of its own, which an InferenceModel would not call: "
                    "give the planner the world model itself"
                )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that a state dict leaves out."""
    return dict(itertools.chain(module.named_parameters(), module.named_buffers()))


def _embedding(latent: Tensor, state: tuple[Tensor, Tensor] | None, depth: Tensor | None) -> TensorDictBase:
    data = {"latent": latent}
    if state is not None:
        data |= {"hidden": state[0], "cell": state[1]}
    if depth is not None:
        data["depth"] = depth
    return TensorDict._new_unsafe(data, batch_size=latent.shape[:1], device=latent.device)
