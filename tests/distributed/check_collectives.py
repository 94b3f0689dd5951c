"""What two ranks say to each other, and BatchNorm over both; every rank pickles what it found."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import nn

from xtra_rl import distributed
from xtra_rl.distributed import batch_norm


class CountingPlanner:
    """Acts by its number, and counts how often it was asked."""

    def __init__(self, number: int) -> None:
        self.number, self.asked = number, 0

    def __call__(self, td):
        self.asked += 1
        search = TensorDict({"value": torch.full(td.batch_size, float(self.number))}, td.batch_size)
        return td.set("action", torch.full(td.batch_size, self.number)).set("search", search)


def refuse() -> None:
    raise ValueError("no such thing")


def unpicklable() -> None:
    class Local(Exception):
        pass

    raise Local("of this process")


def raised_by(function) -> str:
    try:
        distributed.on_main(function)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fate(function) -> tuple[str, bool]:
    """What an error says, and whether this rank may leave it to the main one to print it."""
    try:
        function()
    except Exception as error:
        return str(error), distributed.is_told_elsewhere(error)
    return "nothing", False


def restore_apart(folder: Path, rank: int) -> None:
    """Restore where the second rank sees an older checkpoint than the first."""
    from xtra_rl.training.checkpoint import save_checkpoint
    from xtra_rl.training.session import TrainingSession

    session = TrainingSession(folder / f"disk-{rank}", {})
    save_checkpoint(session.folder, {"session": session}, step=400 - 100 * rank)
    session.restore()


class FailingPlanner:
    """A search that finds a NaN."""

    def __call__(self, td):
        raise ValueError("not finite")


def normed(norm: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training steps' outputs and gradients, and the statistics after them."""
    x = x.clone().requires_grad_()
    first = norm(x)
    out = norm(x * 2 + 3)
    (first.pow(3).sum() + out.sin().sum()).backward()
    gradients = {"x": x.grad, "weight gradient": norm.weight.grad, "bias gradient": norm.bias.grad}
    state = {key: value.clone() for key, value in norm.state_dict().items()}
    return {"out": out.detach(), "eval": norm.eval()(x).detach(), **gradients, **state}


def main(folder: str) -> None:
    distributed.join()
    rank = distributed.rank()
    found = {"rank": rank, "size": distributed.world_size(), "main": distributed.is_main()}
    found["broadcast"] = distributed.broadcast({"from": rank})
    found["on_main"] = distributed.on_main(lambda: 10 + rank)
    found["refused"], found["unpicklable"] = raised_by(refuse), raised_by(unpicklable)
    found["any"] = [distributed.any_rank(flag) for flag in (False, rank == 1, True)]
    found["gather"] = distributed.gather(torch.arange(2 + rank) + 10 * rank).tolist()
    tensors = [torch.tensor([1.0 + rank, 5.0]), torch.tensor(float(rank))]
    distributed.average_(tensors)
    found["average"] = [tensor.tolist() for tensor in tensors]
    planner = CountingPlanner(7 + rank)
    shared = distributed.SharedPlanner(planner)(TensorDict({"observation": torch.zeros(3, 2)}, [3]))
    found["acting"] = (shared["action"].tolist(), shared["search", "value"].tolist(), planner.asked)

    for name, kind, shape in (("1d", nn.BatchNorm1d, (7, 3)), ("2d", nn.BatchNorm2d, (7, 3, 4, 2))):
        torch.manual_seed(0)
        x = torch.randn(shape, dtype=torch.float64) + 4
        whole, apart = kind(3).double(), kind(3).double()
        distributed.synchronise_batch_norm(apart)
        assert isinstance(apart, batch_norm.SynchronisedBatchNorm)
        assert isinstance(apart, kind)
        found[name] = normed(whole, x), normed(apart, x[rank::2])
    found["of the main rank"] = fate(lambda: distributed.on_main(refuse))
    found["of the second rank"] = fate(refuse) if rank == 1 else ("", False)
    found["planner"] = fate(lambda: distributed.SharedPlanner(FailingPlanner())(TensorDict({}, [3])))
    found["restore"] = fate(lambda: restore_apart(Path(folder), rank))[0]

    torch.manual_seed(0)
    x = (torch.randn(1000, 3) + 4).bfloat16()
    whole, apart = nn.BatchNorm1d(3), distributed.synchronise_batch_norm(nn.BatchNorm1d(3))
    found["bfloat16"] = normed(whole, x.float()), normed(apart, x[rank::2])
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(found))
    distributed.leave()


if __name__ == "__main__":
    main(sys.argv[1])
