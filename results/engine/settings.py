"""What both engines of this benchmark share: sizes, arguments, and how rates are computed.

The training loops are synchronous, so their parts add up. ``c`` seconds per env step of acting and ``u`` seconds per
update (sampling, reanalysis, learning, priorities) are measured after a warm-up; at the replay ratio ``r`` there are
then ``1 / (c + r u)`` env steps and ``r / (c + r u)`` updates a second. So a window may end between a collection and
the last of its updates. CPU seconds (all threads of the process) give the same rates less disturbed by other jobs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from typing import Any

GAMES = 8

#: By name. ``heads`` is the width of the heads' 1x1 convolutions, ``projection`` hidden, output and predictor width,
#: ``reanalyze`` the share of each batch whose policies are searched again, ``ratio`` updates per env step, ``warmup``
#: env steps before the first update.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "image": 64,
        "channels": 32,
        "heads": 8,
        "lstm": 512,
        "support": 20,
        "projection": (256, 256, 128),
        "batch": 64,
        "unroll": 3,
        "simulations": 8,
        "discount": 0.98,
        "reanalyze": 0.5,
        "ratio": 0.5,
        "optimizer": ("AdamW", 0.001),
        "warmup": 1000,
    },
    "paper": {
        "image": 96,
        "channels": 64,
        "heads": 16,
        "lstm": 512,
        "support": 300,
        "projection": (1024, 1024, 512),
        "batch": 32,
        "unroll": 5,
        "simulations": 50,
        "discount": 0.988,
        "reanalyze": 1.0,
        "ratio": 0.25,
        "optimizer": ("SGD", 0.2),
        "warmup": 320,
    },
}


def arguments(description: str | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line, and the sizes that it asks for."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--game", default="Alien", help="one of 18 actions, as ours always are")
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the window")
    parser.add_argument("--first-updates", type=int, default=5, help="before the window")
    parser.add_argument(
        "--warmup", type=int, help="env steps before the first update instead of the preset's"
    )
    parser.add_argument("--threads", type=int, default=1, help="set OMP_NUM_THREADS to the same")
    parser.add_argument("overrides", nargs="*", help="of xtra.py's config, e.g. loss.joint_statistics=true")
    args = parser.parse_args()
    return args, PRESETS[args.preset] | ({} if args.warmup is None else {"warmup": args.warmup})


def rates(run: dict[str, Any], ratio: float) -> dict[str, float]:
    """Steps a second at the replay ratio, by the wall's and by the CPU's clock."""
    out: dict[str, float] = {}
    for name, clock in (("", run["seconds"]), ("_cpu", run["cpu_seconds"])):
        act = clock["act"] / run["env_steps"]
        update = (sum(clock.values()) - clock["act"]) / run["updates"]
        out |= {
            f"env_steps_per_s{name}": 1 / (act + ratio * update),
            f"learner_steps_per_s{name}": ratio / (act + ratio * update),
            f"ms_per_env_step{name}": 1e3 * act,
            f"ms_per_update{name}": 1e3 * update,
        }
    return {key: round(value, 3) for key, value in out.items()}


def report(
    engine: str,
    args: argparse.Namespace,
    size: dict[str, Any],
    run: dict[str, Any],
    packages: tuple[str, ...],
) -> None:
    """Write the line of JSON."""
    about = {
        "engine": engine,
        "preset": args.preset,
        "overrides": args.overrides,
        "game": args.game,
        "batch": size["batch"],
        "threads": args.threads,
    }
    for clock in ("seconds", "cpu_seconds"):
        run[clock] = {phase: round(value, 3) for phase, value in run[clock].items()}
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    line = about | rates(run, size["ratio"]) | run | {"versions": versions}
    sys.stdout.write(json.dumps(line) + "\n")
