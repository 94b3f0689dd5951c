"""What modules of several packages share: random numbers of their own, and eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class OwnGenerator:
    """Base of modules that draw from ``self.generator``: saved in checkpoints, copied, sent to other processes.

    A ``torch.Generator`` cannot be pickled for a spawned process, so a worker of a collector gets its state instead.
    Several workers that are given one policy draw the same numbers: give TorchRL's ``MultiCollector`` a
    ``policy_factory`` for each, with seeds of their own.

    Example:
        >>> import pickle
        >>> from xtra_rl.evaluation.baselines import RandomPolicy
        >>> policy = RandomPolicy(torch.Generator().manual_seed(0))
        >>> sent = pickle.loads(pickle.dumps(policy))
        >>> torch.equal(*(torch.rand(3, generator=each.generator) for each in (policy, sent)))
        True
    """

    generator: torch.Generator

    def rng_state(self) -> Tensor:
        """State of the generator, to be saved in a checkpoint."""
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor) -> None:
        """Continue the random numbers where :meth:`rng_state` was taken."""
        self.generator.set_state(state)

    def __getstate__(self) -> dict[str, Any]:
        """With the generator's state as bytes, since neither it nor that tensor can be sent to another process."""
        random_state = self.generator.get_state().numpy().tobytes()
        return self.__dict__ | {"generator": (str(self.generator.device), random_state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, random_state = state["generator"]
        super().__setstate__(state | {"generator": torch.Generator(device)})  # type: ignore[misc]
        self.generator.set_state(torch.frombuffer(bytearray(random_state), dtype=torch.uint8))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run a module in eval mode and give each of its sub-modules its own mode back; other objects are left alone.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(net):
        ...     print(any(part.training for part in net.modules()))
        False
        >>> [part.training for part in net]
        [True, False]
    """
    training = [part for part in model.modules() if part.training] if isinstance(model, nn.Module) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
