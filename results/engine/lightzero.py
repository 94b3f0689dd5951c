"""Training throughput of LightZero's EfficientZero on the CPU: the peer of ``xtra.py``, which measures ours.

All that is timed is LightZero's own: ``AtariEnvLightZero`` in a ``BaseEnvManager`` of 8 games,
``MuZeroSegmentCollector`` (of its two collectors the one that keeps 8 games in every search),
``EfficientZeroGameBuffer.sample`` with its reanalysis, C++ tree and priorities, ``EfficientZeroPolicy._forward_learn``.
The loop here is that of its ``train_muzero_segment`` without evaluation, checkpoints and TensorBoard.

After a warm-up a round is one collection and the updates that it is worth. Prints one line of JSON; ``settings.py`` has
the sizes and says how the rates are computed.

In an environment of its own, as LightZero wants NumPy 1 and gym 0.25::

    pip install torch==2.13.0 numpy==1.26.4 gym==0.25.1 gymnasium==0.28.0 ale-py==0.8.1 "opencv-python-headless<4.12"
    pip install --no-deps LightZero==0.2.0 DI-engine==0.5.3 DI-treetensor==0.5.0 DI-toolkit==0.3.0
    pip install numpy==1.26.4 "setuptools>=77.0.3,<81" treevalue hbutils easydict trueskill tensorboardX \
        "wandb<=0.19.0" matplotlib pyyaml enum-tools cloudpickle tabulate click requests responses URLObject pynng \
        sniffio redis mpire einops rich yattag pandas tensorboard tqdm scipy scikit-learn seaborn pympler xxhash \
        line_profiler yapf==0.29.0 "flask<=2.0.3" "werkzeug<=2.0.3" hickle

ale-py 0.8.1 comes without games: copy ``ale_py/roms/*.bin`` of ale-py 0.12.1 into its ``ale_py/roms``. Then::

    OMP_NUM_THREADS=1 python results/engine/lightzero.py --preset small --seconds 120
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import torch
from ding.config import compile_config
from ding.envs import create_env_manager, get_vec_env_setting
from ding.policy import create_policy
from ding.utils import set_pkg_seed
from easydict import EasyDict
from lzero.mcts import EfficientZeroGameBuffer
from lzero.policy import visit_count_temperature
from lzero.worker import MuZeroSegmentCollector
from settings import GAMES, arguments, report

SEGMENT = 20  # steps of a game between two pushes to the buffer, as in LightZero's segment configs


def config(game: str, size: dict[str, Any], folder: str) -> EasyDict:
    """LightZero's resolved config."""
    shape, bins = [4, size["image"], size["image"]], 2 * size["support"] + 1
    hidden, out, predictor = size["projection"]
    heads = {f"{head}_head_channels": size["heads"] for head in ("reward", "value", "policy")}
    network = {
        "observation_shape": shape,
        "image_channel": 1,
        "frame_stack_num": 4,
        "gray_scale": True,
        "action_space_size": 18,
        "downsample": True,
        "num_res_blocks": 1,
        "num_channels": size["channels"],
        "lstm_hidden_size": size["lstm"],
        "reward_support_size": bins,
        "value_support_size": bins,
        "support_scale": size["support"],
        "proj_hid": hidden,
        "proj_out": out,
        "pred_hid": predictor,
        "pred_out": out,
        "discrete_action_encoding_type": "not_one_hot",
        "self_supervised_learning_loss": True,
        "norm_type": "BN",
        **heads,
    }
    games = {
        "env_id": f"{game}NoFrameskip-v4",
        "observation_shape": shape,
        "frame_stack_num": 4,
        "gray_scale": True,
        "collector_env_num": GAMES,
        "evaluator_env_num": 1,
        "n_evaluator_episode": 1,
        "manager": {"shared_memory": False},
    }
    policy = {
        "model": network,
        "cuda": False,
        "device": "cpu",
        "env_type": "not_board_games",
        "game_segment_length": SEGMENT,
        "num_segments": GAMES,
        "use_augmentation": True,
        "use_priority": True,
        "replay_ratio": size["ratio"],
        "update_per_collect": None,
        "batch_size": size["batch"],
        "num_unroll_steps": size["unroll"],
        "td_steps": 5,
        "discount_factor": size["discount"],
        "num_simulations": size["simulations"],
        "reanalyze_ratio": size["reanalyze"],
        "grad_clip_value": 5,
        "replay_buffer_size": 50_000,
        "collector_env_num": GAMES,
        "evaluator_env_num": 1,
        "n_episode": GAMES,
        "eval_freq": 10**9,
        "optim_type": size["optimizer"][0],
        "learning_rate": size["optimizer"][1],
    }
    main = EasyDict({"exp_name": os.path.join(folder, "run"), "env": games, "policy": policy})
    parts = EasyDict(
        {
            "env": {"type": "atari_lightzero", "import_names": ["zoo.atari.envs.atari_lightzero_env"]},
            "env_manager": {"type": "base"},
            "policy": {"type": "efficientzero", "import_names": ["lzero.policy.efficientzero"]},
        }
    )
    return compile_config(main, seed=0, env=None, auto=True, create_cfg=parts, save_cfg=False)


def measure(cfg: EasyDict, size: dict[str, Any], seconds: float, first_updates: int) -> dict[str, Any]:
    """Warm up, then time rounds of collecting and learning."""
    make, collector_cfgs, _ = get_vec_env_setting(cfg.env)
    games = create_env_manager(cfg.env.manager, [partial(make, cfg=c) for c in collector_cfgs])
    games.seed(cfg.seed)
    set_pkg_seed(cfg.seed, use_cuda=False)
    policy = create_policy(cfg.policy, enable_field=["learn", "collect"])
    buffer = EfficientZeroGameBuffer(cfg.policy)
    collector = MuZeroSegmentCollector(
        env=games, policy=policy.collect_mode, exp_name=cfg.exp_name, policy_config=cfg.policy
    )
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    updates = 0

    def timed(phase: str, work: Callable[[], Any]) -> Any:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = work()
        wall[phase] += time.perf_counter() - start
        cpu[phase] += time.process_time() - start_cpu
        return result

    def collect() -> None:
        temperature = visit_count_temperature(
            cfg.policy.manual_temperature_decay,
            cfg.policy.fixed_temperature_value,
            cfg.policy.threshold_training_steps_for_final_temperature,
            trained_steps=updates,
        )
        data = collector.collect(
            train_iter=updates, policy_kwargs={"temperature": temperature, "epsilon": 0.0}
        )
        buffer.push_game_segments(data)
        buffer.remove_oldest_data_to_fit()

    def update() -> None:
        nonlocal updates
        batch = timed("sample", lambda: buffer.sample(cfg.policy.batch_size, policy))
        metrics = timed("learn", lambda: policy.learn_mode.forward(batch))
        timed("priorities", lambda: buffer.update_priority(batch, metrics["value_priority_orig"]))
        updates += 1

    while collector.envstep < size["warmup"]:
        collect()
    for _ in range(first_updates):
        update()
    wall.clear()
    cpu.clear()
    updates, first_step = 0, collector.envstep
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        timed("act", collect)
        due = math.floor(size["ratio"] * (collector.envstep - first_step) + 1e-6)
        while updates < due and time.perf_counter() - start < seconds:
            update()
    total = time.perf_counter() - start
    return {
        "env_steps": collector.envstep - first_step,
        "updates": updates,
        "seconds": dict(wall),
        "cpu_seconds": dict(cpu),
        "seconds_total": round(total, 1),
        "parameters": sum(parameter.numel() for parameter in policy._model.parameters()),
    }


def main() -> None:
    args, size = arguments(__doc__)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    logging.disable(logging.INFO)
    # LightZero prints of itself, and standard output is for the line of JSON.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        run = measure(config(args.game, size, folder), size, args.seconds, args.first_updates)
    report("lightzero", args, size, run, ("LightZero", "DI-engine", "torch", "numpy", "ale-py", "gym"))


if __name__ == "__main__":
    main()
