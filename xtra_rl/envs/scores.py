"""One row per known Atari game: legal actions, random and human score, category.

Action ids count in ALE's 18-action order (0 NOOP, 1 FIRE, 2 UP, 3 RIGHT, 4 LEFT, 5 DOWN, 6-9 the diagonals,
10-17 the same eight directions with FIRE). The rows are the minimal action sets of ale-py 0.12.1, which a
test compares again.

Scores are those of Badia et al. 2020 (Agent57, arXiv:2003.13350, appendix H), also used by DQN-Zoo. Three
rows are not standard:

* ``carnival`` and ``pooyan`` are outside the usual 57 games. Their scores come from a third-party table
  measured by its
  author, so human-normalised scores of these two games cannot be compared with published ones.
* ``video_pinball`` has a random score of 0.0 in the Agent57 table and of 16256.9 in DQN-Zoo's; the former is
  used.
"""

from __future__ import annotations

from typing import NamedTuple


class AtariRow(NamedTuple):
    """Facts of one game; ``category`` is XTRA's (table 9) for shooters and mazes and ours elsewhere."""

    action_ids: tuple[int, ...]
    random_score: float
    human_score: float
    category: str


def _ids(text: str) -> tuple[int, ...]:
    """Expand ``"0-5,10"`` to ``(0, 1, 2, 3, 4, 5, 10)``."""
    spans = [part.split("-") for part in text.split(",")]
    return tuple(action for span in spans for action in range(int(span[0]), int(span[-1]) + 1))


_ALL = _ids("0-17")

ATARI_ROWS: dict[str, AtariRow] = {
    "alien": AtariRow(_ALL, 227.8, 7127.7, "maze"),
    "amidar": AtariRow(_ids("0-5,10-13"), 5.8, 1719.5, "maze"),
    "assault": AtariRow(_ids("0-4,11-12"), 222.4, 742.0, "shooter"),
    "asterix": AtariRow(_ids("0,2-9"), 210.0, 8503.3, "collector"),
    "bank_heist": AtariRow(_ALL, 14.2, 753.1, "maze"),
    "battle_zone": AtariRow(_ALL, 2360.0, 37187.5, "first-person shooter"),
    "boxing": AtariRow(_ALL, 0.1, 12.1, "sports"),
    "breakout": AtariRow(_ids("0-1,3-4"), 1.7, 30.5, "ball"),
    "carnival": AtariRow(_ids("0-1,3-4,11-12"), 700.8, 22870.0, "shooter"),
    "centipede": AtariRow(_ALL, 2090.9, 12017.0, "shooter"),
    "chopper_command": AtariRow(_ALL, 811.0, 7387.8, "shooter"),
    "crazy_climber": AtariRow(_ids("0,2-9"), 10780.5, 35829.4, "climber"),
    "demon_attack": AtariRow(_ids("0-1,3-4,11-12"), 152.1, 1971.0, "shooter"),
    "freeway": AtariRow(_ids("0,2,5"), 0.0, 29.6, "crossing"),
    "frostbite": AtariRow(_ALL, 65.2, 4334.7, "platform"),
    "gopher": AtariRow(_ids("0-4,10-12"), 257.6, 2412.5, "defender"),
    "hero": AtariRow(_ALL, 1027.0, 30826.4, "platform"),
    "jamesbond": AtariRow(_ALL, 29.0, 302.8, "shooter"),
    "kangaroo": AtariRow(_ALL, 52.0, 3035.0, "platform"),
    "krull": AtariRow(_ALL, 1598.0, 2665.5, "adventure"),
    "kung_fu_master": AtariRow(_ids("0,2-5,8-9,11-17"), 258.5, 22736.3, "fighting"),
    "ms_pacman": AtariRow(_ids("0,2-9"), 307.3, 6951.6, "maze"),
    "phoenix": AtariRow(_ids("0-1,3-5,11-13"), 761.4, 7242.6, "shooter"),
    "pong": AtariRow(_ids("0-1,3-4,11-12"), -20.7, 14.6, "ball"),
    "pooyan": AtariRow(_ids("0-2,5,10,13"), 371.2, 3004.3, "shooter"),
    "private_eye": AtariRow(_ALL, 24.9, 69571.3, "adventure"),
    "qbert": AtariRow(_ids("0-5"), 163.9, 13455.0, "platform"),
    "riverraid": AtariRow(_ALL, 1338.5, 17118.0, "shooter"),
    "road_runner": AtariRow(_ALL, 11.5, 7845.0, "racing"),
    "seaquest": AtariRow(_ALL, 68.4, 42054.7, "shooter"),
    "up_n_down": AtariRow(_ids("0-2,5,10,13"), 533.4, 11693.2, "racing"),
    "video_pinball": AtariRow(_ids("0-5,10-12"), 0.0, 17667.9, "ball"),
    "wizard_of_wor": AtariRow(_ids("0-5,10-13"), 563.5, 4756.5, "maze"),
    "yars_revenge": AtariRow(_ALL, 3092.9, 54576.9, "shooter"),
}

#: Games whose scores are no part of the published tables; see above.
THIRD_PARTY_SCORES = frozenset({"carnival", "pooyan"})

_MAZE = ("alien", "amidar", "bank_heist", "ms_pacman", "wizard_of_wor")
_SHOOTER = ("assault", "carnival", "centipede", "demon_attack", "phoenix")
_DIVERSE_8 = (
    "carnival",
    "centipede",
    "phoenix",
    "pooyan",
    "riverraid",
    "video_pinball",
    "wizard_of_wor",
    "yars_revenge",
)
_DIVERSE_4 = ("phoenix", "wizard_of_wor", "video_pinball", "yars_revenge")
_DIVERSE_2 = ("phoenix", "video_pinball")
_DIVERSE_FINETUNE = ("assault", "battle_zone", "hero", "krull", "seaquest")
_PAPER = tuple(sorted({*_MAZE, *_SHOOTER, *_DIVERSE_8, *_DIVERSE_FINETUNE}))
TASK_SETS: dict[str, tuple[str, ...]] = {
    "shooter": _SHOOTER,
    "maze": _MAZE,
    # Figure 6a pretrains shooters on four mazes and does not say which; these are the first in its tables.
    "four_mazes": _MAZE[:4],
    "diverse_pretrain_8": _DIVERSE_8,
    "diverse_pretrain_4": _DIVERSE_4,
    "diverse_pretrain_2": _DIVERSE_2,
    "diverse8": _DIVERSE_8,
    "diverse4": _DIVERSE_4,
    "diverse2": _DIVERSE_2,
    "diverse_finetune": _DIVERSE_FINETUNE,
    "paper": _PAPER,
    # None of the eight pretraining games belongs to the benchmark of 26 games, every other row does.
    "atari100k": tuple(name for name in ATARI_ROWS if name not in _DIVERSE_8),
}
"""Tasks by the name of their set: the paper's two kinds of games, and its sets of diverse ones."""
