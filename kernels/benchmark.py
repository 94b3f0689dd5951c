"""How fast the search is, side by side with its peers, and how far from what the machine can do.

Every contender of a problem is timed in turn, round after round, so that a busy machine slows all of them alike. Before
that all of them must agree: nothing is timed that gives other visit counts. Commands:

    python -m xtra_rl.kernels.benchmark                        # everything, 10 to 15 minutes on two CPU cores
    python -m xtra_rl.kernels.benchmark --sections tree pool   # a part
    python -m xtra_rl.kernels.benchmark --device cuda          # on a GPU: Triton, eager and as a CUDA graph
    pip install mctx && pip install --no-deps LightZero        # adds the peers

Results: ``results.csv``, a row a measurement, with the bound of the machine beside it, and pictures.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtra_rl.command_line import ArgumentParser
from xtra_rl.files import write_csv
from xtra_rl.kernels import benchmark_lightzero as lightzero
from xtra_rl.kernels import benchmark_machine as machine
from xtra_rl.kernels import benchmark_models as models
from xtra_rl.kernels import benchmark_peers as peers
from xtra_rl.kernels.benchmark_cases import Case, network_case, scaling_case, tree_case
from xtra_rl.kernels.benchmark_figures import draw
from xtra_rl.search import search_bytes
from xtra_rl.training.progress import progress

TABLE = "results.csv"
SECTIONS = ("tree", "pool", "network", "scaling", "memory")
BATCHES = (1, 8, 64, 256, 1024)
SCALING_SIMULATIONS = (10, 25, 50, 100, 200, 400)
#: Between two contenders: threads of OpenMP and XLA look for work for some milliseconds.
SETTLING_SECONDS = 0.02
#: Longer calls fill the caches by themselves.
SLOW_SECONDS = 0.2
MAX_ROUNDS = 100
#: Smaller amounts of memory drown in those of the rest of the process.
MEASURABLE_BYTES = 2**26


class Disagreement(RuntimeError):
    """Two implementations gave different visit counts; nothing was timed."""


def check_agreement(batch: int, simulations: int, backends: list[str], device: str, with_mctx: bool) -> None:
    """Require equal visit counts of all implementations on a small world of the same size.

    Raises:
        Disagreement: with the names of two that differ.
    """
    for rule in models.RULES:
        problem, _ = models.table_problem(batch, device)
        found = {
            name: models.search_of(problem, rule, name, simulations)().visit_counts.cpu() for name in backends
        }
        if with_mctx and rule in peers.MCTX_RULES:
            found["mctx"] = torch.from_numpy(np.array(peers.table(rule, simulations, batch)())).long()
        expected = found[backends[0]]
        for name, visits in found.items():
            differ = int((visits != expected).any(dim=1).sum())
            if differ:
                raise Disagreement(
                    f"{name} and {backends[0]} differ in {differ} of {batch} trees ({rule}, {simulations} simulations):"
                    " nothing is timed until they agree"
                )


def time_case(case: Case, seconds: float, min_rounds: int = 5) -> dict[str, np.ndarray]:
    """Seconds of each call, contender by contender, in rounds.

    Before its turn a contender waits for the threads of the one before it to go to sleep, and is called once untimed,
    so that its code and memory are in the caches, as they are in a loop that does nothing but search.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for contender in case.contenders:
        contender.call()
    times: dict[str, list[float]] = {f"{c.name} {c.rule}": [] for c in case.contenders}
    started, rounds = time.perf_counter(), 0
    while rounds < min_rounds or (time.perf_counter() - started < seconds and rounds < MAX_ROUNDS):
        for contender in case.contenders:
            kept = times[f"{contender.name} {contender.rule}"]
            time.sleep(SETTLING_SECONDS)
            repeat = not kept or kept[-1] < SLOW_SECONDS
            for timed in (False, True, True) if repeat else (True,):
                machine.synchronise(device)
                start = time.perf_counter()
                contender.call()
                machine.synchronise(device)
                if timed:
                    kept.append(time.perf_counter() - start)
        rounds += 1
    return {name: np.array(values) for name, values in times.items()}


def check_memory(args: argparse.Namespace, batch: int) -> str | None:
    """Memory that a search with latents took, beside :func:`~xtra_rl.search.search_bytes`; None if too little to tell.

    Raises:
        RuntimeError: if the formula is wrong.
    """
    problem = models.trivial_problem(batch, args.device, latents=True)
    formula = search_bytes(batch, models.ACTIONS, args.simulations, problem.embedding)
    if formula < MEASURABLE_BYTES:
        return None
    measured = growth_alone(batch, args.simulations, args.backends[-1], args.device)
    text = f"memory, B={batch}: {measured / 2**20:.1f} MiB, by the formula {formula / 2**20:.1f} MiB"
    if measured and not 0.8 < measured / formula < 1.2:
        raise RuntimeError(f"{text}: that is not what it should be")
    return text


def growth_alone(*arguments: Any) -> int:
    """:func:`search_growth` in a process of its own, where nothing that was freed before is used again."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(search_growth, *arguments).result()


def search_growth(batch: int, simulations: int, backend: str, device: str) -> int:
    """Bytes by which this process grows in a search; 0 where the system does not say."""

    def memory() -> int:
        return torch.cuda.memory_allocated() if device.startswith("cuda") else machine.resident_bytes()

    # What is compiled takes memory too: a batch that is large enough for all threads, and few nodes.
    models.search_of(models.trivial_problem(64, device, latents=True), "puct", backend, 2)()
    problem = models.trivial_problem(batch, device, latents=True)
    search = models.search_of(problem, "puct", backend, simulations)
    before = memory()
    result = search()
    grown = memory() - before if before else 0
    del result
    return grown


def rows_of(
    case: Case, times: dict[str, np.ndarray], peaks: machine.Peaks, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row a contender: times, rates, and what the machine could do."""
    bound = case.work.bound(peaks, case.cached)
    rows = []
    for contender in case.contenders:
        seconds = times[f"{contender.name} {contender.rule}"]
        low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9))
        rows.append(
            {
                "section": case.section,
                "implementation": contender.name,
                "rule": contender.rule,
                "batch": case.batch,
                "simulations": case.simulations,
                "median_ms": round(1e3 * median, 4),
                "q10_ms": round(1e3 * low, 4),
                "q90_ms": round(1e3 * high, 4),
                "rounds": len(seconds),
                "simulations_per_s": round(case.batch * case.simulations / median),
                "flop": case.work.flops,
                "bytes": round(case.work.bytes),
                "gflop_per_s": round(case.work.flops / median / 1e9, 1),
                "gbyte_per_s": round(case.work.bytes / median / 1e9, 2),
                "bound_ms": round(1e3 * bound, 4),
                "share_of_bound": round(bound / median, 3),
                **about,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print a case as a person reads it."""
    first = rows[0]
    print(
        f"\n{first['section']}, B={first['batch']}, {first['simulations']} simulations;"
        f" bound {first['bound_ms']:.3f} ms"
    )
    for row in sorted(rows, key=lambda row: row["median_ms"]):
        name = f"{row['implementation']} {row['rule']}".strip()
        print(
            f"  {name:<30} {row['median_ms']:>10.2f} ms  ({row['q10_ms']:.2f} to {row['q90_ms']:.2f})"
            f" {row['simulations_per_s']:>12,} simulations/s  {row['share_of_bound']:>6.1%} of the bound"
        )


def cases(args: argparse.Namespace) -> Iterator[Callable[[], Case]]:
    """What is to be timed, made only when its turn comes."""
    for section in args.sections:
        for batch in args.batches:
            if section in ("tree", "pool"):
                yield partial(tree_case, args, batch, latents=section == "pool")
            elif section == "network":
                yield partial(network_case, args, batch)
            elif section == "scaling":
                for simulations in args.scaling_simulations:
                    yield partial(scaling_case, args, batch, simulations)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").split("Commands:")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument(
        "--batches", nargs="+", type=int, default=BATCHES, help="roots searched at once (%(default)s)"
    )
    parser.add_argument("--simulations", type=int, default=50, help="of each search (%(default)s)")
    parser.add_argument(
        "--scaling-simulations", nargs="+", type=int, default=SCALING_SIMULATIONS, metavar="N"
    )
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="for each problem, at least 5 rounds (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (%(default)s)"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave mctx and LightZero out")
    parser.add_argument(
        "--out", type=Path, default=Path("results/search"), help="folder of the results (%(default)s)"
    )
    parser.add_argument("--redraw", action="store_true", help="only draw the pictures of --out anew")
    args = parser.parse_args(arguments)
    if min(*args.batches, args.simulations, *args.scaling_simulations, args.threads) < 1:
        parser.error("batches, simulations and threads must be positive")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU: leave --device out")
    args.backends = ["reference", "triton" if args.device.startswith("cuda") else "numba"]
    args.mctx = not args.no_peers and peers.has_mctx(args.device)
    args.lightzero = not args.no_peers and args.device == "cpu" and lightzero.has_lightzero()
    return args


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run what the command line asks for; returns the rows."""
    args = parse(arguments)
    if args.redraw:
        redraw(args.out)
        return []
    torch.set_num_threads(args.threads)
    for batch in args.batches:
        check_agreement(batch, args.simulations, args.backends, args.device, args.mctx)
    names = [*args.backends, *(["mctx"] if args.mctx else [])]
    print(f"{machine.machine()}: {', '.join(names)} agree on all visit counts")
    peaks = machine.measure_peaks(args.device)
    print(
        f"peaks: GEMM {peaks.gemm / 1e9:.0f} and convolution {peaks.conv / 1e9:.0f} GFLOP/s,"
        f" copy {peaks.copy / 1e9:.0f} GB/s, {peaks.cached / 1e9:.0f} GB/s in the cache"
    )
    about = {
        "machine": machine.machine(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        **{f"peak_{name}": f"{value:.3g}" for name, value in peaks._asdict().items()},
    }
    rows: list[dict[str, Any]] = []
    todo = list(cases(args))
    with progress(todo, description="benchmark", unit="problem") as bar:
        for make in bar:
            case = make()
            found = rows_of(case, time_case(case, args.seconds), peaks, about)
            rows += found
            show(found)
    args.out.mkdir(parents=True, exist_ok=True)
    if "memory" in args.sections:
        for batch in args.batches:
            if text := check_memory(args, batch):
                print(text)
    if rows:
        write(args.out, rows)
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table and the pictures."""
    write_csv(folder / TABLE, rows)
    pictures = draw(rows, folder)
    print("\n" + "\n".join(str(path) for path in [folder / TABLE, *pictures]))


def redraw(folder: Path) -> None:
    """The pictures of a table that was written before."""
    with (folder / TABLE).open(newline="") as file:
        rows = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
    print("\n".join(str(path) for path in draw(rows, folder)))


def _number(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    main()
