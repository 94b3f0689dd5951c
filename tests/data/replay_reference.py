"""A slow replay buffer of Python lists, and hand-made rows for the fast one."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer

NUM_ACTIONS = 3


def make_rows(ids, *, has_action=None, terminated=None, truncated=None, step=None):
    """Rows whose every field is a function of an id, so that a mix-up cannot go unseen."""
    ids = torch.as_tensor(ids)
    rows = {
        "pixels": (ids % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "action": ids % NUM_ACTIONS,
        "reward": ids.float() + 0.5,
        "terminated": torch.as_tensor(terminated if terminated is not None else [False] * len(ids)),
        "truncated": torch.as_tensor(truncated if truncated is not None else [False] * len(ids)),
        "search_policy": torch.nn.functional.one_hot(ids % NUM_ACTIONS, NUM_ACTIONS).float(),
        "search_value": ids.float() + 0.25,
    }
    rows["has_action"] = torch.as_tensor(has_action if has_action is not None else [True] * len(ids))
    if step is not None:
        rows["step"] = torch.as_tensor(step)
    return TensorDict(rows, [len(ids)])


class SlowReplay:
    """The same buffer as a list of rows for each environment."""

    def __init__(self, num_envs, ring_size):
        self.columns = [[] for _ in range(num_envs)]
        self.ring_size = ring_size
        self.added = 0

    def append(self, env, row):
        row["stamp"] = self.added
        self.added += row["has_action"]
        self.columns[env].append(row)

    def oldest(self, env):
        return max(0, len(self.columns[env]) - self.ring_size)

    def usable(self):
        found = {}
        for env, column in enumerate(self.columns):
            for i in range(self.oldest(env), len(column) - 1):
                if column[i]["has_action"] and column[i + 1]["trajectory"] == column[i]["trajectory"]:
                    found[env * self.ring_size + i % self.ring_size] = (env, i)
        return found

    def window(self, env, i, unroll, width, frame_stack, bootstrap_pixels):
        column = self.columns[env]
        mine = column[i]["trajectory"]
        same = [r for r in range(self.oldest(env), len(column)) if column[r]["trajectory"] == mine]
        before = [column[max(i - j, same[0])] for j in range(frame_stack - 1, 0, -1)]
        after = [column[min(i + k, same[-1])] for k in range(width + 1)]
        exists = [i + k <= same[-1] for k in range(width + 1)]
        moves = exists[1:]
        shown = after if bootstrap_pixels else after[: unroll + 1]
        return {
            "pixels": [row["id"] % 251 for row in before + shown],
            "action": [row["id"] % NUM_ACTIONS if m else None for row, m in zip(after, moves)],
            "reward": [row["id"] + 0.5 if m else 0.0 for row, m in zip(after, moves)],
            "transition_mask": moves,
            "observation_mask": exists,
            "terminated": [bool(row["terminated"] and m) for row, m in zip(after, moves)],
            "search_value": [row["id"] + 0.25 if e else 0.0 for row, e in zip(after, exists)],
            "search_policy": [
                [float(e and row["id"] % NUM_ACTIONS == a) for a in range(NUM_ACTIONS)]
                for row, e in zip(after, exists[: unroll + 1])
            ],
            "age": self.added - column[i]["stamp"],
        }


def play(buffer, slow, rng, num_calls, *, end=0.2, abandon=0.05):
    """Append random rows of random environments to both buffers."""
    num_envs = buffer.num_envs
    state = [{"trajectory": 0, "step": 0, "final": False} for _ in range(num_envs)]
    number = 0
    for _ in range(num_calls):
        rows, envs = [], []
        for _ in range(rng.randint(1, 2 * num_envs)):
            env = rng.randrange(num_envs)
            now = state[env]
            row = {"id": number, "has_action": not now["final"], "terminated": False, "truncated": False}
            number += 1
            if not now["final"] and now["step"] > 0 and rng.random() < abandon:
                now.update(trajectory=now["trajectory"] + 1, step=0)
            row.update(trajectory=now["trajectory"], step=now["step"])
            now["step"] += 1
            if now["final"]:
                now.update(trajectory=now["trajectory"] + 1, step=0, final=False)
            elif rng.random() < end:
                row[rng.choice(["terminated", "truncated"])] = True
                now["final"] = True
            rows.append(row)
            envs.append(env)
        keys = ("has_action", "terminated", "truncated", "step")
        columns = {key: [row[key] for row in rows] for key in keys}
        buffer.append(make_rows([row["id"] for row in rows], **columns), torch.tensor(envs))
        for env, row in zip(envs, rows):
            slow.append(env, row)


def check_all_windows(buffer, slow, unroll, bootstrap, frame_stack, bootstrap_pixels):
    usable = slow.usable()
    active = buffer._sampler.is_active(torch.arange(buffer._sampler.max_size)).nonzero()[:, 0].tolist()
    assert active == sorted(usable)
    assert buffer.num_transitions == len(usable)
    if not usable:
        return
    width = unroll + bootstrap
    windows = buffer._window(torch.tensor(sorted(usable)), unroll, width, frame_stack, bootstrap_pixels)
    for number, root in enumerate(sorted(usable)):
        expected = slow.window(*usable[root], unroll, width, frame_stack, bootstrap_pixels)
        got = windows[number]
        assert (got["pixels"] == got["pixels"][:, :, :1, :1]).all()
        assert got["pixels"][:, 0, 0, 0].tolist() == expected.pop("pixels")
        for action, true_action in zip(got["action"].tolist(), expected.pop("action")):
            assert 0 <= action < NUM_ACTIONS
            assert true_action is None or action == true_action
        for key, value in expected.items():
            assert got[key].tolist() == value, key


def window_of(buffer, root, **options):
    arguments = {"unroll": 2, "width": 4, "frame_stack": 3, "bootstrap_pixels": True, **options}
    return buffer._window(torch.tensor([root]), *arguments.values())[0]


def golden_buffer(end):
    """Trajectory A has rows 0..3 (3 transitions, the last one ends it), B has rows 4..6 (2 transitions)."""
    buffer = TrajectoryReplayBuffer(20, num_actions=NUM_ACTIONS, memmap=False)
    a = make_rows([10, 11, 12, 13])
    a[end] = torch.tensor([False, False, True, False])
    buffer.extend_trajectory(a)
    buffer.extend_trajectory(make_rows([20, 21, 22]))
    return buffer
