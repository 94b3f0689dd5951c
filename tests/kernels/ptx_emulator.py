"""Runs the PTX of a compiled kernel in NumPy, and checks what a GPU would not: bounds and races.

A program (a CTA) runs with all its threads in step, and the programs one after the other. That is one of the orders
that a GPU may choose, so the memory says which results depend on the order (:mod:`ptx_memory`). Threads of a program
that would part at a branch are an error: the search kernels never do. What is not modelled: the hardware's own
assembly (ptxas is trusted), approximate instructions (:mod:`ptx_operations`), time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from ptx_memory import Memory, RaceError
from ptx_operations import PtxError
from ptx_program import SPECIAL, Instruction, Program

# High enough that an address which lost its upper half is outside.
_FIRST_ADDRESS = 0x7F00_0000_0000
_ALIGNMENT = 256
_MAX_STEPS = 1_000_000


def launch(
    program: Program,
    grid: Sequence[int],
    arguments: Sequence[np.ndarray | int],
    shared_bytes: int = 0,
) -> None:
    """Run all programs of a grid.

    Args:
        program: the kernel.
        grid: programs in each dimension, one to three.
        arguments: for each parameter an integer, or the bytes of a tensor (uint8, changed in place). The same bytes
            may be given twice.
        shared_bytes: shared memory of a program.

    Raises:
        PtxError: for what :mod:`ptx_memory` and :mod:`ptx_program` refuse, and for threads that part.
    """
    if len(arguments) != len(program.parameters):
        raise PtxError(f"{program.name} has {len(program.parameters)} parameters, not {len(arguments)}")
    regions, parameters = _lay_out(arguments)
    memory = Memory(regions, first_address=_FIRST_ADDRESS, name="arguments")
    machine = _Machine(program, parameters, memory, shared_bytes)
    size = (*grid, 1, 1)[:3]
    # Threads that are masked out compute with what happens to be in their registers.
    with np.errstate(all="ignore"):
        for number, (z, y, x) in enumerate(product(*(range(count) for count in reversed(size)))):
            machine.run(number, (x, y, z))
    memory.check_programs(program.threads)
    memory.write_back()


def _lay_out(arguments: Sequence[np.ndarray | int]) -> tuple[dict[int, np.ndarray], list[int]]:
    """Regions of the memory, so far apart that a wrong row of one tensor is in no other; values of the parameters."""
    tensors = {(array.ctypes.data, len(array)): array for array in arguments if isinstance(array, np.ndarray)}
    ends = [0, *sorted(begin + size for begin, size in tensors)]
    if any(begin < end for (begin, _), end in zip(sorted(tensors), ends)):
        raise PtxError("two arguments overlap")
    gap = max((size for _, size in tensors), default=0) + _ALIGNMENT
    regions, addresses, place = {}, {}, gap
    for (begin, size), array in tensors.items():
        # Compilers rely on the alignment that the tensor really has.
        place += -place % _ALIGNMENT + begin % _ALIGNMENT
        regions[place], addresses[begin, size] = array, _FIRST_ADDRESS + place
        place += size + gap
    return regions, [
        addresses[value.ctypes.data, len(value)] if isinstance(value, np.ndarray) else value
        for value in arguments
    ]


class _Machine:
    """Runs one program at a time: the registers ``[threads]`` of its threads and its shared memory."""

    def __init__(self, program: Program, parameters: list[int], memory: Memory, shared_bytes: int) -> None:
        self._program, self._global, self._shared_bytes = program, memory, shared_bytes
        self._threads = np.arange(program.threads)
        start = program.constants | dict(zip(program.parameters, parameters))
        # Arrays of registers are replaced, never changed.
        self._start = [self._full(start.get(slot, 0), bits) for slot, bits in enumerate(program.bits)]
        self._start[program.slots[SPECIAL[0]]] = self._threads.astype(np.uint32)
        self._execute = {
            "compute": self._compute,
            "pack": self._pack,
            "unpack": self._unpack,
            "ld.global": self._load,
            "ld.shared": self._load,
            "st.global": self._store,
            "st.shared": self._store,
        }

    def _full(self, value: int, bits: int) -> np.ndarray:
        """A register with the same value in all threads."""
        return np.full(len(self._threads), value % (1 << bits), f"u{bits // 8}" if bits > 1 else bool)

    def run(self, number: int, place: tuple[int, int, int]) -> None:
        """Run the program, and once more if loads came before other threads' stores to the same place.

        Those threads may be late, and find what was stored. The second time they get garbage, which must not change
        the result.
        """
        for name, at in zip(SPECIAL[1:], place):
            self._start[self._program.slots[name]] = self._full(at, 32)
        # Counted from 1 over all programs.
        self._names = self._threads + 1 + number * self._program.threads
        self._global.begin_program()
        before = self._global.save()
        late = self._pass({})
        if not late:
            return
        expected = self._global.save()
        self._global.restore(before)
        try:
            self._pass(late)
            equal = all(map(np.array_equal, self._global.save(), expected))
        except PtxError as error:
            raise RaceError(f"a thread that is late is led astray ({error})") from error
        if not equal:
            raise RaceError(
                "a thread that loads late, after another one has stored there, changes the result"
            )

    def _pass(self, late: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Run from start to end; the threads of ``late`` load garbage. Returns the loads that may be late."""
        program = self._program
        self._late, found = late, {}
        self._registers = list(self._start)
        shared = Memory({0: np.zeros(self._shared_bytes, np.uint8)}, name="shared memory")
        self._memories = {"global": self._global, "shared": shared}
        for memory in self._memories.values():
            memory.barrier()
        counter = 0
        for step in range(_MAX_STEPS):
            instruction = program.instructions[counter]
            counter += 1
            if execute := self._execute.get(instruction.kind):
                self._step = step
                execute(instruction)
            elif instruction.kind == "bra":
                counter = instruction.target if self._branches(instruction) else counter
            else:
                for memory in self._memories.values():
                    found |= memory.barrier()
                if instruction.kind == "ret":
                    return found
        raise PtxError(f"{program.name} does not end")

    def _branches(self, instruction: Instruction) -> bool:
        taken = self._active(instruction)
        if len(taken) not in (0, self._program.threads):
            raise PtxError(f"{len(taken)} of {self._program.threads} threads branch: {instruction.text}")
        return len(taken) > 0

    def _active(self, instruction: Instruction) -> np.ndarray:
        """Numbers of the threads for which the predicate holds."""
        if instruction.guard is None:
            return self._threads
        return np.flatnonzero(self._registers[instruction.guard] != instruction.negated)

    def _compute(self, instruction: Instruction) -> None:
        registers = self._registers
        operands = [registers[slot].view(dtype) for slot, dtype in instruction.inputs]
        (result,) = instruction.results
        registers[result] = instruction.operation.function(*operands).view(registers[result].dtype)

    def _pack(self, instruction: Instruction) -> None:
        (result,) = instruction.results
        halves = np.stack([self._registers[slot] for slot in instruction.operands], axis=1)
        self._registers[result] = halves.reshape(-1).view(self._registers[result].dtype)

    def _unpack(self, instruction: Instruction) -> None:
        whole = self._registers[instruction.operands[0]]
        halves = whole.view(f"u{whole.itemsize // 2}").reshape(-1, 2)
        for slot, half in zip(instruction.results, halves.T):
            if slot >= 0:
                self._registers[slot] = half.copy()

    def _addresses(self, instruction: Instruction, active: np.ndarray) -> np.ndarray:
        base = self._registers[instruction.operands[0]][active].astype(np.uint64)
        return base + np.uint64(instruction.offset % 2**64)

    def _load(self, instruction: Instruction) -> None:
        active = self._active(instruction)
        memory = self._memories[instruction.kind[3:]]
        address = self._addresses(instruction, active)
        data = memory.load(self._step, instruction.text, address, instruction.bytes, self._names[active])
        if self._step in self._late:
            data[self._late[self._step]] ^= 0xFF
        sign = "i" if instruction.signed else "u"
        width = instruction.bytes // len(instruction.results)
        for slot, column in zip(instruction.results, data.view(f"{sign}{width}").T):
            # Threads that load nothing keep what they had.
            register = self._registers[slot].copy()
            register[active] = column.astype(register.dtype)
            self._registers[slot] = register

    def _store(self, instruction: Instruction) -> None:
        active = self._active(instruction)
        memory = self._memories[instruction.kind[3:]]
        _, *slots = instruction.operands
        width = instruction.bytes // len(slots)
        values = np.stack([self._registers[slot][active].astype(f"u{width}") for slot in slots], axis=1)
        address = self._addresses(instruction, active)
        memory.store(instruction.text, address, values.view(np.uint8), self._names[active])
