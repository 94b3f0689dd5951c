"""The numbers of a :class:`~xtra_rl.evaluation.diagnosis.Diagnosis`, with intervals over games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtra_rl.evaluation.diagnosis import Diagnosis


def clustered_interval(
    values: np.ndarray, group: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``values [N]`` and its bootstrap interval, with whole groups drawn again, since their members are alike.

    Args:
        values: NaN is left out.
        group: ``[N]``.
        level: coverage.
        draws: resamples.
        seed: of the resamples.

    Returns:
        mean, low, high; NaN without a value, and no ends for one group: what another one brings is not known.

    Example:
        >>> clustered_interval(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
        (2.0, 1.0, 3.0)
    """
    there = np.isfinite(values)
    if not there.any():
        return (float("nan"),) * 3
    _, member = np.unique(group[there], return_inverse=True)
    total, count, mean = np.bincount(member, values[there]), np.bincount(member), float(values[there].mean())
    if len(total) < 2:
        return mean, float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(0, len(total), (draws, len(total)))
    means = total[chosen].sum(1) / count[chosen].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


def explained_variance(predicted: np.ndarray, true: np.ndarray) -> float:
    r"""Share of the variance that a prediction explains, :math:`1 - \mathrm{MSE} / \mathrm{Var}`.

    0 is the best constant, below it is worse. NaN without two known values, or where the truth never varies.
    """
    there = np.isfinite(predicted) & np.isfinite(true)
    if there.sum() < 2 or np.ptp(true[there]) == 0:
        return float("nan")
    return float(1 - np.mean((predicted[there] - true[there]) ** 2) / np.var(true[there]))


def beats(true: np.ndarray, random: np.ndarray) -> np.ndarray:
    """1 where the true action's prediction is nearer to what came, 0 where it is not, 1/2 where both are alike."""
    better = np.where(true > random, 1.0, np.where(true < random, 0.0, 0.5))
    return np.where(np.isfinite(true) & np.isfinite(random), better, np.nan)


def by_unroll_step(found: Diagnosis) -> list[dict[str, Any]]:
    """A row for each step of the unroll, with 95 % intervals over games; step 0 has a value only."""
    rows: list[dict[str, Any]] = [{"step": 0} | _value_row(found, 0)]
    for k in range(found.reward.shape[1]):
        true, random = found.similar_true[:, k], found.similar_random[:, k]
        share, low, high = clustered_interval(beats(true, random), found.group)
        rows.append(
            {
                "step": k + 1,
                "true action beats random": share,
                "beats low": low,
                "beats high": high,
                "similarity, true action": _mean(true),
                "similarity, random action": _mean(random),
                "effect of the action": _mean(found.action_effect[:, k]),
                "reward error": _mean(np.abs(found.reward[:, k] - found.reward_target[:, k])),
                "error of reward 0": _mean(np.abs(found.reward_target[:, k])),
                "reward explained": explained_variance(found.reward[:, k], found.reward_target[:, k]),
            }
            | _value_row(found, k + 1)
        )
    rows[0] = dict.fromkeys(rows[-1]) | rows[0]
    return rows


def _value_row(found: Diagnosis, k: int) -> dict[str, float]:
    value, target = found.value[:, k], found.value_target[:, k]
    return {
        "value error": _mean(np.abs(value - target)),
        "value explained": explained_variance(value, target),
    }


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def summary(found: Diagnosis) -> dict[str, Any]:
    """The numbers that a person reads first; ``action`` ones after one step, with 95 % intervals over games.

    Returns:
        numbers by name, intervals as ``[low, high]``, None for what is not known.
    """
    won = beats(found.similar_true[:, 0], found.similar_random[:, 0])
    better, *better_ends = clustered_interval(won, found.group)
    where = found.differs == 1
    seen, *seen_ends = clustered_interval(won[where], found.group[where])
    gain, *gain_ends = clustered_interval(found.improvement, found.group)
    uniform = np.log(found.legal)
    numbers = {
        "positions": len(found.group),
        "games": len(np.unique(found.group)),
        "action/true_beats_random": better,
        "action/interval": better_ends,
        "action/answered": int(np.isfinite(found.differs).sum()),
        "action/differs": _mean(found.differs),
        "action/where_it_differs": seen,
        "action/where_it_differs_interval": seen_ends,
        "action/effect": _mean(found.action_effect[:, 0]),
        "reward/explained": explained_variance(found.reward[:, 0], found.reward_target[:, 0]),
        "value/explained": explained_variance(found.value[:, 0], found.value_target[:, 0]),
        "value/bias": _mean(found.value[:, 0] - found.value_target[:, 0]),
        "policy/prior_entropy_share": _mean(found.prior_entropy / uniform),
        "policy/search_entropy_share": _mean(found.search_entropy / uniform),
        "search/divergence": _mean(found.divergence),
        "search/improvement": gain,
        "search/improvement_interval": gain_ends,
    }
    return {name: _or_none(value) for name, value in numbers.items()}


def _or_none(value: Any) -> Any:
    # JSON has no NaN.
    if isinstance(value, list):
        return [_or_none(each) for each in value]
    return None if value != value else value


def in_words(numbers: Mapping[str, Any]) -> str:
    """What a :func:`summary` says, in a few sentences.

    Example:
        >>> numbers = {"action/true_beats_random": 0.52, "action/interval": [0.49, 0.55], "action/differs": 0.3}
        >>> numbers |= {"action/where_it_differs": 0.6, "action/where_it_differs_interval": [0.55, 0.65]}
        >>> numbers |= {"search/improvement": 0.1, "search/improvement_interval": [0.0, 0.2]}
        >>> numbers |= {"policy/prior_entropy_share": 0.9, "policy/search_entropy_share": 0.8}
        >>> print(in_words(numbers).splitlines()[0])
        The next latent depends on the action: the true action's is the nearer one at 52.0% of the positions
    """
    nearer, ends = numbers["action/true_beats_random"], numbers["action/interval"]
    seen, seen_ends = numbers["action/where_it_differs"], numbers["action/where_it_differs_interval"]
    # Where no action makes a difference the best model is right at half of the positions.
    low, _ = ends if seen is None else seen_ends
    text = (
        f"{_verdict(low)}: the true action's is the nearer one at {nearer:.1%} of the positions\n"
        f"({_ends_text(ends, '.1%', '95 % interval ')}; 50 % = it does not matter)."
    )
    if seen is not None:
        positions, answered = numbers.get("positions"), numbers.get("action/answered")
        where = (
            ""
            if positions == answered
            else f", which could answer at {answered:,} of {positions:,} positions,"
        )
        text += (
            f" The emulator{where} shows another frame after the other action at {numbers['action/differs']:.1%} of"
            f" them;\nthere the true one's is the nearer at {seen:.1%} ({_ends_text(seen_ends, '.1%')})."
        )
    gain, ends = numbers["search/improvement"], _ends_text(numbers["search/improvement_interval"], "+.3f")
    return text + (
        f"\nThe search gains {gain:+.3f} in value over the prior ({ends}); the prior has"
        f" {numbers['policy/prior_entropy_share']:.0%} of the entropy of a uniform one, the search's\npolicy"
        f" {numbers['policy/search_entropy_share']:.0%}."
    )


def _verdict(low: float | None) -> str:
    if low is None:
        return "Whether the next latent depends on the action is open, since one game has no interval"
    depends = "depends on the action" if low > 0.5 else "does NOT clearly depend on the action"
    return f"The next latent {depends}"


def _ends_text(ends: Sequence[float | None], form: str, name: str = "") -> str:
    low, high = ends
    return "one game, no interval" if low is None else f"{name}{low:{form}} to {high:{form}}"
