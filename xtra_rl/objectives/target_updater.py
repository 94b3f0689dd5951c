"""The lagging target network."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class LaggingTarget(Generic[Network]):
    """A copy of a module that lags behind it by one to two intervals, buffers included.

    Every ``interval`` steps the snapshot taken an interval earlier is published and a new one is taken, so the target
    is between ``interval`` and ``2 * interval`` steps old, EfficientZero's schedule (200 steps). TorchRL's
    ``HardUpdate`` copies only what requires a gradient and leaves BatchNorm's running statistics at their initial
    values; here the whole ``state_dict`` is copied.

    Args:
        source: the module that learns.
        interval: steps between publications.
        lag: ``False`` publishes the current weights at once, so the target is 0 to ``interval`` steps old. Short runs
            cannot afford targets from long ago.

    Attributes:
        module: the target, in eval mode and without gradients.
        version: changes with the target's weights.

    Raises:
        ValueError: if ``interval`` is not positive.

    Example:
        >>> source = nn.Linear(1, 1, bias=False)
        >>> target = LaggingTarget(source, interval=1)
        >>> old = source.weight.item()
        >>> with torch.no_grad():
        ...     _ = source.weight.add_(1)
        >>> target.step(); target.module.weight.item() == old
        True
        >>> target.step(); target.module.weight.item() == old
        False
    """

    def __init__(self, source: Network, *, interval: int = 200, lag: bool = True) -> None:
        if interval < 1:
            raise ValueError(f"interval is {interval}; expected at least 1 step")
        self.source = source
        self.interval = interval
        self.lag = lag
        self.steps = 0
        self.version = 0
        self.module: Network = copy.deepcopy(source).eval().requires_grad_(False)
        self._snapshot = self._take()

    def _take(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.source.state_dict().items()}

    def step(self) -> None:
        """Count one training step of the source, and publish when it is time."""
        self.steps += 1
        if self.steps % self.interval:
            return
        self.publish(self._snapshot if self.lag else self.source.state_dict())
        if self.lag:
            self._snapshot = self._take()

    def synchronise(self) -> None:
        """Make the target equal to the source now, e.g. after pretrained weights were loaded."""
        self.publish(self.source.state_dict())
        self._snapshot = self._take()

    def publish(self, weights: dict[str, Tensor]) -> None:
        """Make these the target's weights, as a new version."""
        self.module.load_state_dict(weights)
        self.version += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: counter, published and pending weights."""
        return {"steps": self.steps, "module": self.module.state_dict(), "snapshot": dict(self._snapshot)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.steps = state["steps"]
        self.publish(state["module"])
        self._snapshot = {key: value.clone() for key, value in state["snapshot"].items()}
