"""One rank of a training on three tasks, with BatchNorm, augmentation, priorities, windows of task weights."""

from __future__ import annotations

import ast
import pickle
import sys
from pathlib import Path

import torch
from tensordict import TensorDict

from xtra_rl import distributed
from xtra_rl.data import BatchShard, MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.models import make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner
from xtra_rl.targets import ReanalyzeTargets, TeacherTargets
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.loop import scalars, train_offline
from xtra_rl.training.schedules import make_optimizer
from xtra_rl.transfer import PCGrad, TaskWeightScheduler

K, N, A, F = 3, 2, 4, 2
QUOTAS = {"alien": 9, "amidar": 4, "bank_heist": 3}
SIZES = {
    "image_size": 16, "image_channels": 1, "frame_stack": F, "num_actions": A, "channels": 4, "downsample": 4,
    "lstm_hidden": 8, "support_size": 5, "projection_hidden": 8, "projection_out": 8, "predictor_hidden": 4,
}  # fmt: skip


def replay(number: int, size: int) -> TrajectoryReplayBuffer:
    """Six trajectories of noise, with a teacher's opinion."""
    draws = torch.Generator().manual_seed(number)
    buffer = TrajectoryReplayBuffer(400, num_actions=A, memmap=False, seed=number)
    for _ in range(6):
        length = int(torch.randint(20, 50, (1,), generator=draws))
        rows = TensorDict(
            {
                "pixels": torch.randint(256, (length + 1, 1, size, size), dtype=torch.uint8, generator=draws),
                "action": torch.randint(A, (length + 1,), generator=draws),
                "reward": torch.randn(length + 1, generator=draws),
                "teacher_policy": torch.rand(length + 1, A, generator=draws).softmax(-1),
                "teacher_value": torch.randn(length + 1, generator=draws),
            },
            [length + 1],
        )
        rows["terminated"] = torch.arange(length + 1) == length - 1
        buffer.extend_trajectory(rows)
    return buffer


def parts(
    *,
    lr: float = 0.002,
    double: bool = True,
    device: str = "cpu",
    synchronised: bool = True,
    search: bool = False,
    surgery: bool = False,
    **model_options,
):
    """Source and learner of this rank."""
    rank, size = distributed.rank(), distributed.world_size()
    shard = BatchShard(QUOTAS, rank, size)
    torch.manual_seed(0)
    sizes = SIZES | model_options
    model = make_world_model(**sizes)
    model.to(device)
    if synchronised:
        distributed.synchronise_batch_norm(model)
    if double:
        # In float32 the order of sums makes 1e-7 of difference, which small batches with BatchNorm blow up within some
        # dozen steps, whatever made it; float64 shows more steps of the same arithmetic.
        model.double().representation.register_forward_pre_hook(lambda _, frames: (frames[0].double(),))
    tasks = list(QUOTAS)
    target = LaggingTarget(model, interval=5)
    options = {"unroll_steps": K, "td_steps": N, "frame_stack": F}
    targets = dict.fromkeys(tasks, TeacherTargets(value_prefix_horizon=model.value_prefix_horizon, **options))
    if search:
        planner = GumbelMCTSPlanner(target.module, num_simulations=4, seed=1)
        own = (shard.rows("alien"), QUOTAS["alien"])
        mask = torch.ones(A, dtype=torch.bool, device=device)
        targets["alien"] = ReanalyzeTargets(planner, mask, policy_ratio=0.6, shard=own, **options)
    buffers = MultiTaskReplayBuffer(
        {task: replay(i, sizes["image_size"]) for i, task in enumerate(tasks)}, QUOTAS
    )
    source = BatchSource(buffers, targets, device=device, prefetch=False, shard=shard)
    schedule = {"start": 3, "cycle": 20, "window": 4, "threshold": 0.0}
    weighting = PCGrad(tasks[1:]) if surgery else TaskWeightScheduler(tasks[1:], **schedule)
    optimizer = make_optimizer(model, name="sgd", lr=lr, momentum=0.9, weight_decay=1e-4)
    learner = Learner(
        MuZeroLoss(model), optimizer, tasks=tasks, target=target, task_weights=weighting, frame_stack=F, shift=2,
        generator=torch.Generator(device).manual_seed(2), shard=shard,
    )  # fmt: skip
    return source, learner


def train(steps: int, **options) -> dict:
    """Metrics of every step, and the end."""
    source, learner = parts(**options)
    rows = [scalars(now.metrics) for now in train_offline(source, learner, train_steps=steps)]
    return {
        "rows": rows,
        "model": {name: value.cpu() for name, value in learner.loss.world_model.state_dict().items()},
        "weights": learner.weights().tolist(),
    }


if __name__ == "__main__":
    steps, options, folder = sys.argv[1:]
    chosen = ast.literal_eval(options)
    distributed.join(chosen.get("device", "cpu"))
    result = train(int(steps), **chosen)
    Path(folder, f"{distributed.rank()}.pkl").write_bytes(pickle.dumps(result))
    distributed.leave()
