"""Where a training step's time goes: wall time by nested section, and the arithmetic of the networks in it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from torch.utils.flop_counter import FlopCounterMode

from xtra_rl.models import WorldModel
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner

NETWORK = ("network, forward", "network, backward", "network, inference")
"""Sections that are the networks' own work; everything else is overhead."""

INFERENCES = ("initial_inference", "recurrent_inference")


class Sections:
    """Wall time by section, each without the sections inside it, so that they add up.

    Args:
        synchronise: wait for the GPU at every border, so that its time is seen where it was asked for. That takes away
            the overlap of host and device: the sum is then longer than an unmeasured step.

    Attributes:
        seconds: by ``(phase, section)``; the phase is the outermost section.
        calls: how often each was entered.

    Example:
        >>> sections = Sections()
        >>> with sections("act"), sections("tree"):
        ...     pass
        >>> list(sections.seconds)
        [('act', 'rest'), ('act', 'tree')]
    """

    def __init__(self, *, synchronise: bool = False) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self._synchronise = synchronise
        self._stack: list[str] = []
        self._since = 0.0

    def _close_span(self) -> None:
        """Book the time since the last border to the innermost section."""
        # While a CUDA graph is captured nothing runs, and waiting for it is an error.
        if self._synchronise and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._key()] += now - self._since
        self._since = now

    def _key(self) -> tuple[str, str]:
        return self._stack[0], self._stack[-1] if len(self._stack) > 1 else "rest"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._close_span()
        self._stack.append(name)
        self.calls[self._key()] += 1
        try:
            yield
        finally:
            self._close_span()
            self._stack.pop()

    @contextmanager
    def around(
        self, owner: Any, method: str, name: str, *, rows: Counter[str] | None = None
    ) -> Iterator[None]:
        """Meanwhile, time every call of a method of one object (or of a class) as section ``name``.

        ``rows`` adds up the length of the calls' first arguments.
        """
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if rows is not None:
                rows[method] += len(args[0])
            with self(name):
                return original(*args, **kwargs)

        had_own = method in vars(owner)
        setattr(owner, method, timed)
        try:
            yield
        finally:
            setattr(owner, method, original) if had_own else delattr(owner, method)

    def clear(self) -> None:
        """Forget all times."""
        self.seconds.clear()
        self.calls.clear()

    def phase(self, name: str) -> float:
        """Seconds of a phase with all its sections."""
        return sum(seconds for (phase, _), seconds in self.seconds.items() if phase == name)


@contextmanager
def observed_training(
    sections: Sections, actor: Actor, source: BatchSource, learner: Learner
) -> Iterator[Counter[str]]:
    """Meanwhile, time the parts of a training loop; yields the rows that inferences have seen, by method.

    The phases are ``act``, ``sample`` (windows read from replay, or waited for), ``reanalyse`` (targets), ``learn`` and
    ``priorities``. A loss without the networks in it is ``loss``; of a search, what is not the network is ``tree``.
    """
    model = learner.loss.world_model
    acting: Any = getattr(actor.planner, "planner", actor.planner)  # inside of what shares it between ranks
    planners: dict[int, Any] = {id(acting): acting}
    planners |= {id(t.planner): t.planner for t in source.targets.values() if hasattr(t, "planner")}
    wrapped: list[tuple[Any, str, str]] = [
        (actor, "step", "act"),
        (actor.env, "step_and_maybe_reset", "environment"),
        (actor.buffer, "append", "replay"),
        (source, "draw", "sample"),
        (source, "build", "reanalyse"),
        (source, "update_priority", "priorities"),
        (learner, "step", "learn"),
        (learner, "_prepare", "augmentation"),
        (learner.loss, "forward", "loss"),
        (learner.loss, "task_losses", "loss"),
        (learner.optimizer, "step", "optimiser"),
        (torch.nn.utils, "clip_grad_norm_", "optimiser"),
        # Methods of the class: `loss.backward()` asks the tensor, not the learner.
        (torch.Tensor, "backward", "network, backward"),
        (torch.autograd, "grad", "network, backward"),
    ]
    if learner.target is not None:
        wrapped.append((learner.target, "step", "target network"))
    for name in ("represent", "step", "predict", "project"):
        wrapped.append((model, name, "network, forward"))
    for planner in planners.values():
        wrapped.append((planner, "search_from", "tree"))
        for name in INFERENCES:
            wrapped.append((planner.world_model, name, "network, inference"))
    rows: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, method, name in wrapped:
            count = rows if method in INFERENCES else None
            stack.enter_context(sections.around(owner, method, name, rows=count))
        yield rows


def network_share(sections: Sections, phases: tuple[str, ...]) -> float:
    """Part of the phases' time that is spent inside the networks."""
    inside = sum(
        seconds
        for (phase, section), seconds in sections.seconds.items()
        if phase in phases and section in NETWORK
    )
    return inside / max(sum(sections.phase(phase) for phase in phases), 1e-12)


def inference_flops(model: WorldModel, rows: Mapping[str, int]) -> float:
    """Floating-point operations of inferences of so many ``rows`` by method, each layer counted as the plain sum.

    Winograd's convolutions, which the CPU's engine uses, multiply less than is counted here.
    """
    image = torch.zeros(1, *_observation_shape(model), device=next(model.parameters()).device)
    model.eval()
    with torch.no_grad():
        root = model.initial_inference(image)
        action = torch.zeros(1, dtype=torch.int64, device=image.device)
        each = {
            "initial_inference": _flops(lambda: model.initial_inference(image)),
            "recurrent_inference": _flops(lambda: model.recurrent_inference(action, root.embedding)),
        }
    return sum(each[method] * count for method, count in rows.items())


def step_flops(learner: Learner, batch: TensorDict) -> float:
    """Floating-point operations of the matrix products and convolutions of a step, which is taken."""
    return _flops(lambda: learner.step(batch))


def _observation_shape(model: WorldModel) -> tuple[int, int, int]:
    config = model.config
    return config["frame_stack"] * config["image_channels"], config["image_size"], config["image_size"]


def _flops(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
