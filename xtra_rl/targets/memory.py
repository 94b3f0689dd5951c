"""What a network that changes seldom has said about frame stacks that are drawn again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from xtra_rl.models import InferenceModel, WorldModel
from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.search.types import InitialOutput

#: Entries of a root's embedding that are zero by definition where there is a value prefix (EfficientZero, arXiv
#: 2111.00210, section 4.2); a model of another kind may call anything so.
_ZERO_AT_ROOT = ("hidden", "cell", "depth")


class RootMemory:
    """Initial inferences by frame stack, each computed once between two publications of the target network.

    With 200 updates from one publication to the next, batches of 256 windows with 11 stacks each and a replay of
    100,000 rows every stack is asked for more than five times on average; while the replay still grows, far more often.

    Stacks are inferred ``chunk`` at a time, the last chunk filled up with a repetition. On a CPU a stack's numbers then
    depend on nothing but the stack and the weights, neither on who else was asked for nor on what is remembered: a run
    that goes on without its memory gets the same bits.

    Args:
        planner: whose initial inference is remembered.
        rows: of the replay buffer; keys are unique numbers whose remainder by it is the row.
        version: a number that changes with the weights of the planner's model.
        max_bytes: bound on the memory; where the rows need more, some of them share a place and push each other out.
        chunk: stacks inferred at once.

    Attributes:
        asked, missed: stacks that were asked for, and those of them that had to be inferred.

    Raises:
        ValueError: if a number is not positive; in :meth:`infer`, if the model's embeddings are no TensorDicts.

    Example:
        The same row is asked for twice and inferred once:

        >>> from xtra_rl.models import make_world_model
        >>> from xtra_rl.search import GumbelMCTSPlanner
        >>> model = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> memory = RootMemory(GumbelMCTSPlanner(model), rows=100, version=lambda: 0)
        >>> stacks = torch.zeros(3, 4, 36, 36)
        >>> roots = memory.infer(torch.tensor([5, 5, 7]), lambda places: stacks[places])
        >>> roots.value.shape, memory.asked, memory.missed
        (torch.Size([3]), 3, 2)
    """

    def __init__(
        self,
        planner: SearchPlanner,
        rows: int,
        *,
        version: Callable[[], int],
        max_bytes: int = 1_000_000_000,
        chunk: int = 32,
    ) -> None:
        if rows < 1 or chunk < 1 or max_bytes < 1:
            raise ValueError(f"rows={rows}, chunk={chunk}, max_bytes={max_bytes}: expected at least 1")
        self.planner = planner
        self.rows = rows
        self.max_bytes = max_bytes
        self.chunk = chunk
        self.asked = self.missed = 0
        root = getattr(type(getattr(planner, "world_model", None)), "initial_inference", None)
        self._zero = (
            _ZERO_AT_ROOT if root in (WorldModel.initial_inference, InferenceModel.initial_inference) else ()
        )
        self._version = version
        self._stored_version: int | None = None
        self._keys = torch.empty(0, dtype=torch.int64)
        self._leaves: dict[str, Tensor] = {}
        self._zeros: dict[str, Tensor] = {}

    def infer(self, keys: Tensor, stacks: Callable[[Tensor], Tensor]) -> InitialOutput:
        """Initial inferences of ``n`` stacks.

        Args:
            keys: ``[n]`` int64 from :meth:`~xtra_rl.data.TrajectoryReplayBuffer.sample_windows`; -1 is inferred and
                not kept. A key may come several times.
            stacks: returns the observations ``[m, F*C, H, W]`` at ``m`` of the places 0..n-1.
        """
        if self._stored_version != self._version():
            self._keys.fill_(-1)
            self._stored_version = self._version()
        places = torch.arange(len(keys), device=keys.device)
        # What cannot be kept gets a number of its own, so that equal names mean equal stacks.
        distinct, group, first = _groups(torch.where(keys >= 0, keys, -1 - places))
        known = self._find(distinct)
        missing = (~known).nonzero().squeeze(1)
        self.asked += len(keys)
        self.missed += len(missing)
        fresh = self._infer(stacks, first[missing]) if len(missing) else {}
        leaves = {}
        for name in fresh or self._leaves:
            if len(missing) == len(distinct):
                values = fresh[name]
            else:
                values = self._leaves[name][distinct.remainder(len(self._keys))]
                if fresh:
                    values[missing] = fresh[name]
            leaves[name] = values[group]
        if fresh:
            self._keep(distinct[missing], fresh)
        return self._output(leaves)

    def _find(self, names: Tensor) -> Tensor:
        """Which of ``names [m]`` are remembered, ``[m]`` bool."""
        if not len(self._keys):
            return torch.zeros_like(names, dtype=torch.bool)
        return (names >= 0) & (self._keys[names.remainder(len(self._keys))] == names)

    def _keep(self, names: Tensor, fresh: dict[str, Tensor]) -> None:
        if not self._leaves:
            self._allocate(fresh)
        keepable = (names >= 0).nonzero().squeeze(1)
        # Of names that share a place only the first is kept: writing both at once would mix them up.
        slots, _, first = _groups(names[keepable].remainder(len(self._keys)))
        chosen = keepable[first]
        for name, leaf in self._leaves.items():
            leaf[slots] = fresh[name][chosen]
        self._keys[slots] = names[chosen]

    def _allocate(self, like: dict[str, Tensor]) -> None:
        one = sum(leaf[0].numel() * leaf.element_size() for leaf in like.values())
        size = max(1, min(self.rows, self.max_bytes // one))
        for name, leaf in like.items():
            self._leaves[name] = leaf.new_zeros(size, *leaf.shape[1:])
        self._keys = torch.full((size,), -1, dtype=torch.int64, device=next(iter(like.values())).device)

    def _infer(self, stacks: Callable[[Tensor], Tensor], places: Tensor) -> dict[str, Tensor]:
        """Outputs at ``places [m]``, in whole chunks on a CPU."""
        on_cpu = places.device.type == "cpu"
        parts = []
        for chunk in places.split(self.chunk if on_cpu else len(places)):
            padding = self.chunk - len(chunk) if on_cpu else 0
            output = self.planner.initial_inference(stacks(torch.cat([chunk, chunk[-1:].expand(padding)])))
            if isinstance(output.embedding, Tensor):
                raise ValueError(
                    "the model's embeddings are tensors; a RootMemory keeps those that are TensorDicts, such as"
                    " TensorDict({'latent': latent}, [B])"
                )
            named = {"prior_logits": output.prior_logits, "value": output.value, **output.embedding}
            # Zeros need no memory, only to be made again.
            self._zeros = {name: named.pop(name)[:1] for name in self._zero if name in named}
            parts.append({name: leaf[: len(chunk)] for name, leaf in named.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _output(self, leaves: dict[str, Tensor]) -> InitialOutput:
        logits, value = leaves.pop("prior_logits"), leaves.pop("value")
        zeros = {name: zero.new_zeros(len(value), *zero.shape[1:]) for name, zero in self._zeros.items()}
        if (latent := leaves.get("latent")) is not None and latent.ndim == 4:
            leaves["latent"] = latent.contiguous(memory_format=torch.channels_last)
        embedding = TensorDict({**leaves, **zeros}, [len(value)], device=value.device)
        return InitialOutput(logits, value, embedding)


def _groups(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct ones ``[m]`` of ``numbers [n]``, which of them each is ``[n]``, where each comes first ``[m]``."""
    distinct, group = numbers.unique(return_inverse=True)
    places = torch.arange(len(numbers), device=numbers.device)
    first = torch.full_like(distinct, len(numbers)).scatter_reduce_(0, group, places, "amin")
    return distinct, group, first
