"""How far do two gradients of the same task agree, and how far those of two tasks? XTRA's rule compares the latter.

XTRA (arXiv 2210.10763, eq. 2) weighs a cross task by the cosine between its gradient and the target's, each from a
batch. Two batches of one task are as alike as tasks can be, so their cosine is the most that the rule can be shown at
that batch size: the noise floor of its threshold. Gradients of the model as it is, none is applied. Minutes of one CPU
core:

    python results/laptop/noise_floor.py MODEL OUT.csv target=phoenix task_set=shooter cross_tasks=[assault,carnival]

MODEL is a student or a model of a finetuning run; the target's batches come from 2,000 env steps that it plays.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from xtra_rl.data.augment import augment
from xtra_rl.data.windows import stack_frames
from xtra_rl.files import write_csv
from xtra_rl.recipes import build, common
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.xtra_finetune import initial_model
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.transfer import gradient_gram, sample_weights, task_gradients

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def gradients(source: BatchSource, learner: Learner, shift: int) -> list[list[Tensor]]:
    """Gradient of each task's loss on a fresh batch, augmented as in training."""
    batch = source.build(source.draw())
    frames, stacks = batch.pop("pixels"), learner.frame_stack
    shifted = [augment(part, pad=shift, scale=0.0) for part in (frames[:, :stacks], frames[:, 1:])]
    batch["observation"] = stack_frames(shifted[0], stacks)[:, 0]
    batch["next_observation"] = stack_frames(shifted[1], stacks)
    batch["task_weight"] = sample_weights(batch["task_id"], learner.weights(), reduction=learner.reduction)
    losses, _ = learner.loss.task_losses(batch, len(learner.tasks))
    return task_gradients(losses, learner.parameters)


def cosines(first: list[list[Tensor]], second: list[list[Tensor]]) -> Tensor:
    """Between each task's gradient on one batch and each task's on another, ``[M, M]``."""
    gram = gradient_gram([*first, *second])
    norms = gram.diagonal().sqrt()
    tasks = len(first)
    return (gram / norms.outer(norms))[:tasks, tasks:]


def measure(model_path: Path, overrides: list[str], sizes: list[int], pairs: int) -> list[dict[str, object]]:
    """Mean cosine and its spread over pairs of batches, by batch size and pair of tasks."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("xtra_finetune", ["scale=laptop", "device=cpu", f"student={model_path}", *overrides])
    inputs, target = Inputs(cfg), common.target_of(cfg)
    datasets = {task: inputs.annotated(task) for task in common.cross_tasks_of(cfg)}
    tasks, rows = [target, *datasets], []
    model = initial_model(cfg, target, model_path).train()
    cross = build.annotated_buffers(cfg, datasets)
    actor, _, _ = build.online(cfg, target, model, "noise floor", cross)
    while actor.env_steps < 2000:
        actor.step()
    for size in sizes:
        cfg.batch_size, cfg.cross_batch_size = size, size * len(cross)
        _, source, learner = build.online(cfg, target, model, "noise floor", cross)
        source.buffers.buffers[target] = actor.buffer
        found = torch.stack(
            [
                cosines(*(gradients(source, learner, cfg.augment.shift) for _ in range(2)))
                for _ in range(pairs)
            ]
        )
        for (i, one), (j, other) in product(enumerate(tasks), enumerate(tasks)):
            values = torch.cat([found[:, i, j], found[:, j, i]]) if i < j else found[:, i, j]
            if i <= j:
                row = {"batch_size": size, "task": one, "other": other, "pairs": len(values)}
                above = float((values > 0.1).float().mean())
                rows.append(
                    row | {"cosine": float(values.mean()), "std": float(values.std()), "above_0.1": above}
                )
                print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("overrides", nargs="*", help="of scale=laptop")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[11, 64, 256], help="windows of each task")
    arguments.add_argument("--pairs", type=int, default=20, help="of batches")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    write_csv(given.out, measure(given.model, given.overrides, given.sizes, given.pairs))


if __name__ == "__main__":
    main()
