"""What is in a dataset: tables, pictures and hashes for a person to look at."""

from __future__ import annotations

from typing import Any

import numpy as np

from xtra_rl.data.trajectories import TrajectoryDataset


def returns_by_checkpoint(dataset: TrajectoryDataset) -> list[dict[str, Any]]:
    """Episodes, transitions and raw returns of each checkpoint that played, as rows of a table."""
    episodes = dataset.episodes
    rows = []
    for checkpoint in np.unique(episodes["checkpoint"]):
        chosen = episodes[episodes["checkpoint"] == checkpoint]
        returns = chosen["raw_return"]
        rows.append(
            {
                "checkpoint": int(checkpoint),
                "episodes": len(chosen),
                "transitions": int(chosen["length"].sum()) - len(chosen),
                "mean return": float(returns.mean()),
                "min": float(returns.min()),
                "max": float(returns.max()),
            }
        )
    return rows
