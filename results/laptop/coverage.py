"""How often the report's 95 % bootstrap intervals hold the truth, by the number of seeds.

    python results/laptop/coverage.py

Seeds are drawn from a normal distribution whose standard deviation is 6 % of its mean, about that of EfficientZero's
and XTRA's scores on Phoenix; of one system for the mean, of two equal ones for the gain of one over the other.
"""

from __future__ import annotations

import numpy as np

from xtra_rl.evaluation.aggregates import mean, relative_improvement, stratified_bootstrap


def main() -> None:
    rng, repeats = np.random.default_rng(0), 2000
    print(f"{'seeds':>5}{'mean':>8}{'gain':>8}")
    for seeds in (3, 5, 10, 20):
        held = np.zeros(2)
        for _ in range(repeats):
            ours, theirs = ({"game": list(rng.normal(1, 0.06, seeds))} for _ in range(2))
            _, low, high = stratified_bootstrap(mean, ours, draws=400)
            held[0] += low <= 1 <= high
            _, low, high = stratified_bootstrap(relative_improvement, ours, theirs, draws=400)
            held[1] += low <= 0 <= high
        print(f"{seeds:>5}" + "".join(f"{share:>8.0%}" for share in held / repeats))


if __name__ == "__main__":
    main()
