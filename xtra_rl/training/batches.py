"""Training batches that mix tasks: exact quotas of windows, each task with its own targets."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase

from xtra_rl.data.multitask import MultiTaskReplayBuffer
from xtra_rl.data.shard import BatchShard
from xtra_rl.distributed import gather


class Targets(Protocol):
    """Windows to a training batch: :class:`~xtra_rl.targets.ReanalyzeTargets`, ``TeacherTargets`` or your own.

    ``bootstrap_steps`` is how many transitions a window needs past the unroll, ``bootstrap_pixels`` whether it needs
    their frames too. Targets that are made elsewhere may have a method ``send(windows)``, which starts to make them and
    returns at once; the call then waits for them.
    """

    unroll_steps: int
    frame_stack: int
    bootstrap_pixels: bool

    @property
    def bootstrap_steps(self) -> int:
        """Transitions that a window needs past the unroll."""

    def __call__(self, windows: TensorDictBase) -> TensorDict: ...


class BatchSource:
    """Draws windows of every task, turns them into targets and joins them.

    With ``prefetch`` a thread draws the next batch, and brings it to the device, while this one trains. It stays
    reproducible: the thread is done before :meth:`update_priority` touches the buffers, so a draw knows the priorities
    and rows of all steps but the one before it, whatever the speed of the machine.

    Args:
        buffers: replay of all tasks with their quotas.
        targets: of each task, by name.
        device: where targets are computed and training happens.
        prefetch: None does so if ``device`` is a GPU and no other rank shares the batch. On a CPU training keeps all
            cores busy by itself.
        shard: the part of each batch that this rank reads, reanalyses and trains on, where several share it; all ranks
            must hold the same rows and priorities, which :meth:`update_priority` keeps so.
        ahead: batches that are drawn, and whose targets are begun (``Targets.send``), before the one that trains is
            used: each then knows the rows, priorities and target network of up to so many steps before.

    Attributes:
        staleness: training steps between the drawing of the last batch and its use.

    Raises:
        ValueError: if a task has no targets, or they disagree on ``unroll_steps`` or ``frame_stack``, or ``ahead`` is
            negative or goes with a thread or other ranks, or a thread or ``ahead`` would write the next batch over the
            one that trains, or draw it ahead of a checkpoint that another number of ranks may go on from.
    """

    def __init__(
        self,
        buffers: MultiTaskReplayBuffer,
        targets: Mapping[str, Targets],
        *,
        device: torch.device | str = "cpu",
        prefetch: bool | None = None,
        shard: BatchShard | None = None,
        ahead: int = 0,
    ) -> None:
        missing = [task for task in buffers.tasks if task not in targets]
        if missing:
            raise ValueError(
                f"no targets for task {missing[0]!r}; targets were given for {', '.join(targets)}"
            )
        shapes = {(targets[task].unroll_steps, targets[task].frame_stack) for task in buffers.tasks}
        if len(shapes) > 1:
            raise ValueError(
                f"tasks disagree on (unroll_steps, frame_stack): {sorted(shapes)}; make them equal"
            )
        self.buffers = buffers
        self.targets = dict(targets)
        self.unroll_steps, self.frame_stack = shapes.pop()
        self.bootstrap_steps = max(targets[task].bootstrap_steps for task in buffers.tasks)
        self.device = torch.device(device)

        self.shard = shard
        shared = shard is not None and shard.size > 1
        if prefetch and shared:
            raise ValueError("prefetch=true does not go with several processes; pass prefetch=auto or false")
        if ahead < 0 or (ahead and (prefetch or shared)):
            raise ValueError(
                f"ahead is {ahead}; expected 0 or more, and 0 with prefetch=true or several processes"
            )
        on_gpu = self.device.type == "cuda"
        wanted = on_gpu and not shared and not ahead if prefetch is None else prefetch
        self._thread = ThreadPoolExecutor(1, "prefetch") if wanted else None
        early = ahead > 0 or (wanted and not on_gpu)
        if early and any(buffer.reuses_memory for buffer in buffers.buffers.values()):
            raise ValueError(
                "prefetch on a CPU, or ahead, would write the next batch over this one, since a buffer has"
                " reuse_memory=True; make it without"
            )
        self._next: Future[dict[str, TensorDict]] | None = None
        self._ready: deque[tuple[int, dict[str, TensorDict]]] = deque()
        self.ahead = ahead
        self.staleness = 0
        self._steps = 0
        self._stream = torch.cuda.Stream(self.device) if on_gpu and self._thread else None

    @property
    def prefetches(self) -> bool:
        """Whether a thread draws the next batch while this one trains."""
        return self._thread is not None

    def draw(self) -> dict[str, TensorDict]:
        """Windows of the next batch by task, on the device."""
        if self._thread is None:
            while len(self._ready) <= self.ahead:
                self._keep_ready(self._read())
            begun, windows = self._ready.popleft()
            self.staleness = self._steps - begun
            return windows
        if self._ready:
            windows = self._ready.popleft()[1]
        else:
            windows = (self._next or self._thread.submit(self._read)).result()
        self._next = self._thread.submit(self._read)
        if self._stream is not None:
            for part in windows.values():
                for tensor in part.values():
                    # The allocator must not give it to the next batch while kernels of this stream read it.
                    tensor.record_stream(torch.cuda.current_stream(self.device))
        return windows

    def _read(self) -> dict[str, TensorDict]:
        windows = self.buffers.sample_windows(
            unroll_steps=self.unroll_steps,
            bootstrap_steps=self.bootstrap_steps,
            frame_stack=self.frame_stack,
            bootstrap_pixels={task: self.targets[task].bootstrap_pixels for task in self.buffers.tasks},
            shard=self.shard,
        )
        with torch.cuda.stream(self._stream):
            moved = {task: part.to(self.device) for task, part in windows.items()}
        if self._stream is not None:
            self._stream.synchronize()
        return moved

    def _keep_ready(self, windows: dict[str, TensorDict]) -> None:
        """Let windows wait for their turn, and where that is not at once begin with their targets."""
        for task, part in windows.items():
            if self.ahead and hasattr(self.targets[task], "send"):
                self.targets[task].send(part)  # type: ignore[attr-defined]
        self._ready.append((self._steps, windows))

    def _rows(self, task: str) -> slice:
        return self.shard.rows(task) if self.shard is not None else slice(None)

    def build(self, windows: Mapping[str, TensorDict]) -> TensorDict:
        """Targets of drawn windows, joined to a batch ``[B]`` with tasks in the order of the buffers."""
        return torch.cat([self.targets[task](part) for task, part in windows.items()])

    def sample(self) -> TensorDict:
        """Next batch ``[B]``: :meth:`draw`, then :meth:`build`."""
        return self.build(self.draw())

    def update_priority(self, batch: TensorDictBase) -> None:
        """Give the new priorities of a trained batch, of all ranks, back to the buffers they came from."""
        if self._next is not None:
            wait([self._next])
        self._steps += 1
        # In one message where ranks share a batch: float64 holds every index.
        columns = torch.stack([batch[key].cpu().double() for key in ("task_id", "index", "td_error")], 1)
        task_id, index, td_error = gather(columns).unbind(1)
        self.buffers.update_priority(task_id.long(), index.long(), td_error)

    def set_beta(self, beta: float) -> None:
        """Exponent of the importance weights, annealed over training."""
        self.buffers.set_beta(beta)

    def state_dict(self) -> dict[str, Any]:
        """Priorities and random states of the buffers and targets, and the batches that are drawn already.

        Targets that were begun ``ahead`` are not in it: they are begun again, by the networks of then.

        Without the buffers' rows: those of datasets are on disk, and an :class:`~xtra_rl.training.actor.Actor` restores
        its own.
        """
        if self._next is not None:
            wait([self._next])
        ready = [self._next.result()] if self._next is not None else [windows for _, windows in self._ready]
        targets = {task: targets for task, targets in self.targets.items() if hasattr(targets, "state_dict")}
        return {
            "buffers": {task: buffer.sampling_state() for task, buffer in self.buffers.buffers.items()},
            "targets": {task: each.state_dict() for task, each in targets.items()},
            "next": [{task: dict(part.cpu().items()) for task, part in windows.items()} for windows in ready],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; the buffers must hold the rows that they held then.

        A batch that one process had drawn ahead is split among the ranks that go on.
        """
        if self._next is not None:
            wait([self._next])
        self._next = None
        for task, buffer in self.buffers.buffers.items():
            buffer.load_sampling_state(state["buffers"][task])
        for task, each in state["targets"].items():
            self.targets[task].load_state_dict(each)  # type: ignore[attr-defined]
        self._ready.clear()
        for windows in state["next"]:
            self._keep_ready(
                {
                    task: TensorDict(part, batch_size=part["index"].shape)[self._rows(task)].to(self.device)
                    for task, part in windows.items()
                }
            )
