"""Move, freeze or re-initialise named parts of a world model, and say what was done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from xtra_rl.models.world_model import WorldModel
from xtra_rl.wording import first_of


@dataclass
class TransferReport:
    """What happened to each component; ``str(report)`` is a table.

    Attributes:
        rows: component, ``"copied"`` or ``"initialised"``, whether it is frozen, number of parameters.
    """

    rows: list[tuple[str, str, bool, int]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'component':<16}{'weights':<14}{'training':<10}{'parameters':>12}"]
        for name, weights, frozen, count in self.rows:
            lines.append(f"{name:<16}{weights:<14}{'frozen' if frozen else 'trained':<10}{count:>12,}")
        return "\n".join(lines)


def check_component_names(names: Sequence[str], known: Iterable[str], argument: str) -> None:
    """Refuse a name that is not among the ``known`` components.

    Raises:
        ValueError: naming it and the ``argument`` that holds it.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} names {name!r}; expected a subset of {', '.join(known)}")


def difference(state: dict[str, Tensor], other: dict[str, Tensor], *, limit: int = 3) -> str:
    """The first tensors in which two state dicts differ by name or shape, in words; empty if none."""
    found = []
    for key in dict.fromkeys([*state, *other]):
        left, right = (tuple(s[key].shape) if key in s else "absent" for s in (state, other))
        if left != right:
            found.append(f"{key}: {left} against {right}")
    return first_of(found, limit)


def transfer_components(
    source: WorldModel,
    target: WorldModel,
    components: Sequence[str] = ("representation", "dynamics", "prediction", "projection"),
) -> TransferReport:
    """Copy the weights and BatchNorm statistics of some components; the others keep their initialisation.

    XTRA (arXiv 2210.10763) Figure 7: ``[representation]``, ``[representation, dynamics]`` and so on.

    Args:
        source: the pretrained student.
        target: the model to finetune, changed in place.
        components: any subset of representation, dynamics, prediction, projection.

    Returns:
        what was copied and what kept its initialisation.

    Raises:
        ValueError: for an unknown component, one that the student lacks, or one whose tensors differ, naming the
            first of them.
    """
    check_component_names(components, target.components(), "transfer")
    for name in components:
        # All are compared before any is copied, so that an error leaves the target as it was.
        if name not in source.components():
            raise ValueError(f"the pretrained model has no {name}; leave {name!r} out of transfer")
        differs = difference(source.components()[name].state_dict(), target.components()[name].state_dict())
        if differs:
            raise ValueError(
                f"{name} of the pretrained model differs from this model ({differs}); build the model with the"
                f" pretrained model's sizes, or leave {name!r} out of transfer"
            )
    report = TransferReport()
    for name, module in target.components().items():
        if name in components:
            module.load_state_dict(source.components()[name].state_dict())
        count = sum(p.numel() for p in module.parameters())
        report.rows.append(
            (name, "copied" if name in components else "initialised", name in target.frozen, count)
        )
    return report


def freeze_components(model: WorldModel, components: Sequence[str]) -> None:
    """Stop training some components: no gradients, and BatchNorm statistics that stay (XTRA Figure 6b).

    Args:
        model: changed in place; ``model.train()`` leaves frozen components in eval mode.
        components: any subset of representation, dynamics, prediction, projection; an empty one frees all.

    Raises:
        ValueError: for an unknown component.
    """
    check_component_names(components, model.components(), "freeze")
    for name, module in model.components().items():
        module.requires_grad_(name not in components)
    model.frozen = tuple(components)
    model.train(model.training)
