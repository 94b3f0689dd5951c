"""Only the search: tic-tac-toe, where every answer is known.

Two tables say what a move leads to: X moves, O answers perfectly, and minimax knows which moves are right. All
positions with X to move are searched in one batch. Prior and value say nothing: what is found, the search found.

    python recipes/examples/search_only.py

Prints how many moves are right, by rule and number of simulations, and fails unless the longest searches make no
mistake. 18 s of one core.
"""

from functools import cache, partial

from xtra_rl.command_line import ArgumentParser
from xtra_rl.search import RecurrentOutput, gumbel_search, puct_search

import torch
from torch import Tensor

LINES = ("012", "345", "678", "036", "147", "258", "048", "246")


def empty(board: str) -> list[int]:
    return [square for square in range(9) if board[square] == " "]


def play(board: str, move: int, player: str) -> str:
    return board[:move] + player + board[move + 1 :]


@cache
def outcome(board: str) -> int | None:
    """What a finished game is worth to X: 1, 0 or -1; None while it runs."""
    rows = {"".join(board[int(square)] for square in line) for line in LINES}
    return 1 if "XXX" in rows else -1 if "OOO" in rows else 0 if " " not in board else None


@cache
def minimax(board: str, player: str) -> tuple[int, int]:
    """Value for X, and a best move of the player."""
    if (value := outcome(board)) is not None:
        return value, -1
    other, best = ("O", max) if player == "X" else ("X", min)
    return best((minimax(play(board, move, player), other)[0], move) for move in empty(board))


def rules() -> tuple[Tensor, Tensor, Tensor]:
    """Next position, reward and minimax value ``[P, 9]`` of X's moves; -2 where illegal. The last row is the end."""
    boards = [" " * 9]
    for board in boards:  # grows while it is read
        after = [play(board, move, "X") for move in empty(board)]
        after = [play(each, move, "O") for each in after if outcome(each) is None for move in empty(each)]
        boards += [each for each in sorted({*after} - {*boards}) if outcome(each) is None]
    number = {board: row for row, board in enumerate(boards)}
    following = torch.full((len(boards) + 1, 9), len(boards))
    reward, value = torch.zeros(len(following), 9), torch.full((len(following), 9), -2)
    for board, row in number.items():
        for move in empty(board):
            moved = play(board, move, "X")
            value[row, move], answer = minimax(moved, "O")
            answered = play(moved, answer, "O") if outcome(moved) is None else moved
            reward[row, move] = outcome(answered) or 0
            following[row, move] = number.get(answered, len(boards))
    return following, reward, value


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, nargs="+", default=[8, 32, 128, 512])
    following, reward, value = rules()
    prior = torch.zeros(value.shape).masked_fill(value == -2, -torch.inf)
    prior[-1] = 0  # a prior must leave a move, also when the game is over
    best, roots = value[:-1].max(1).values, torch.arange(len(value) - 1)
    print(f"{len(roots)} positions: {int((best == 1).sum())} won, {int((best == -1).sum())} lost")

    def step(action: Tensor, position: Tensor) -> tuple[RecurrentOutput, Tensor]:
        after = following[position, action]
        return RecurrentOutput(reward[position, action], torch.zeros(len(after)), prior[after]), after

    searches = {
        "puct": partial(puct_search, discount=0.99),
        # Values lie between -1 and 1; the rule would stretch any smaller range to that.
        "gumbel": partial(gumbel_search, discount=0.99, max_num_considered_actions=9, rescale_floor=2.0),
    }
    for name, search in searches.items():
        for count in parser.parse_args().simulations:
            result = search(prior[:-1], torch.zeros(len(roots)), roots, step, num_simulations=count)
            right = value[roots, result.action] == best
            print(f"{name:<7}{count:>4} simulations: {int(right.sum())} of {len(right)} moves right")
        if not right.all():
            raise SystemExit(f"{name} is wrong at {count} simulations")


if __name__ == "__main__":
    main()
