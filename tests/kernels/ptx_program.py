"""Reads the PTX of one kernel into a list of instructions for :mod:`ptx_emulator`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from ptx_operations import BITS, DTYPES, OPERATIONS, Operation, PtxError

_STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?);$")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_ADDRESS = re.compile(r"\[\s*([%$\w.]+)\s*(?:\+\s*(-?\d+)\s*)?\]$")
_ACCESS = re.compile(r"(ld|st)\.(global|shared)(?:\.v([24]))?\.([bus])(8|16|32|64)$")
#: Registers that the machine fills.
SPECIAL = ("%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z")
_IGNORED = (".loc", ".pragma", ".file")


@dataclass
class Instruction:
    """One instruction; registers and constants are numbers of slots of the machine."""

    text: str
    kind: str
    guard: int | None = None
    negated: bool = False
    operation: Operation | None = None
    results: list[int] = field(default_factory=list)
    operands: list[int] = field(default_factory=list)
    bytes: int = 0
    """Of memory, for each thread, that a load or store takes."""
    signed: bool = False
    """Whether the sign fills a register that is wider than what is loaded."""
    offset: int = 0
    target: int = 0
    """Number of the instruction that a branch goes to."""
    inputs: list[tuple[int, np.dtype]] = field(init=False)
    """Operands with the types that the operation takes them as."""

    def __post_init__(self) -> None:
        kinds = self.operation.operands if self.operation else ()
        self.inputs = [(slot, DTYPES[kind]) for slot, kind in zip(self.operands, kinds)]


@dataclass
class Program:
    """A kernel. Slot ``i`` of the machine has ``bits[i]``, and begins as ``constants[i]`` if that is there."""

    name: str
    threads: int
    parameters: list[int]
    instructions: list[Instruction]
    slots: dict[str, int]
    bits: list[int]
    constants: dict[int, int]


class _Parser:
    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.bits: list[int] = []
        self.constants: dict[int, int] = {}
        self.widths: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.branches: list[tuple[Instruction, str]] = []
        self.instructions: list[Instruction] = []
        for name in SPECIAL:
            self.slot(name, 32)

    def slot(self, name: str, bits: int) -> int:
        """Slot of a register or parameter, new at its first mention."""
        if name not in self.slots:
            self.slots[name] = len(self.bits)
            self.bits.append(bits)
        return self.slots[name]

    def register(self, token: str) -> int:
        prefix = re.match(r"%[a-z]+", token)
        if prefix is None or (token not in SPECIAL and prefix[0] not in self.widths):
            raise PtxError(f"not a register: {token}")
        return self.slot(token, self.widths.get(prefix[0], 32))

    def value(self, token: str, bits: int) -> int:
        """Slot of a register, or of a constant."""
        if token.startswith("%"):
            slot = self.register(token)
            if self.bits[slot] != bits:
                raise PtxError(f"{token} has {self.bits[slot]} bits, not {bits}")
            return slot
        # Shared memory begins at 0.
        number = 0 if token == "global_smem" else _constant(token, bits)
        slot = self.slot(f"{number}:{bits}", bits)
        self.constants[slot] = number
        return slot

    def statement(self, text: str) -> None:
        match = _STATEMENT.match(text)
        if match is None:
            raise PtxError(f"cannot read: {text}")
        negated, guard, opcode, rest = match.groups()
        instruction = self._instruction(opcode, _OPERAND.findall(rest), text)
        if guard is not None:
            if instruction.kind[:3] not in ("ld.", "st.", "bra"):
                raise PtxError(f"a predicate before {opcode} is not supported: {text}")
            instruction.guard, instruction.negated = self.register(guard), bool(negated)
        self.instructions.append(instruction)

    def _instruction(self, opcode: str, tokens: list[str], text: str) -> Instruction:
        if opcode in ("ret", "bar.sync"):
            return Instruction(text, opcode.split(".")[0])
        if opcode in ("bra", "bra.uni"):
            branch = Instruction(text, "bra")
            self.branches.append((branch, tokens[0]))
            return branch
        if access := _ACCESS.match(opcode):
            return self._access(access, tokens, text)
        if opcode in ("ld.param.b64", "ld.param.b32"):
            parameter = self.slots.get(tokens[1].strip("[]"))
            if parameter is None:
                raise PtxError(f"not a parameter: {text}")
            move = OPERATIONS[f"mov.{opcode[-3:]}"]
            result = self.register(tokens[0])
            return Instruction(text, "compute", operation=move, results=[result], operands=[parameter])
        if opcode.startswith("mov.b") and "{" in text:
            return self._pack(int(opcode[5:]), tokens, text)
        if opcode not in OPERATIONS:
            raise PtxError(f"unknown instruction {opcode}: {text}")
        operation = OPERATIONS.get(f"{opcode}, {len(tokens) - 1}", OPERATIONS[opcode])
        if len(tokens) != 1 + len(operation.operands):
            raise PtxError(f"{opcode} has {len(tokens)} operands: {text}")
        result = self.register(tokens[0])
        if self.bits[result] != BITS[operation.result]:
            raise PtxError(f"the result has {BITS[operation.result]} bits: {text}")
        operands = [self.value(token, BITS[kind]) for token, kind in zip(tokens[1:], operation.operands)]
        return Instruction(text, "compute", operation=operation, results=[result], operands=operands)

    def _access(self, access: re.Match[str], tokens: list[str], text: str) -> Instruction:
        kind, space, count, sign, bits = access.groups()
        place, values = tokens if kind == "st" else reversed(tokens)
        address = _ADDRESS.match(place)
        if address is None:
            raise PtxError(f"cannot read the address: {text}")
        base = self.value(address[1], 64 if space == "global" else 32)
        registers = [self.register(token) for token in re.split(r"[,\s]+", values.strip("{} "))]
        if len(registers) != int(count or 1):
            raise PtxError(f"not as many registers as values: {text}")
        return Instruction(
            text,
            f"{kind}.{space}",
            results=registers if kind == "ld" else [],
            operands=[base] if kind == "ld" else [base, *registers],
            bytes=len(registers) * int(bits) // 8,
            offset=int(address[2] or 0),
            signed=sign == "s",
        )

    def _pack(self, bits: int, tokens: list[str], text: str) -> Instruction:
        """Move between one register and the halves of it; ``_`` is a half that nobody wants."""
        result, operand = tokens
        unpacks = result.startswith("{")
        halves = re.split(r"[,\s]+", (result if unpacks else operand).strip("{} "))
        if len(halves) != 2:
            raise PtxError(f"not supported: {text}")
        if unpacks:
            slots = [-1 if half == "_" else self.register(half) for half in halves]
            return Instruction(text, "unpack", results=slots, operands=[self.value(operand, bits)])
        slots = [self.value(half, bits // 2) for half in halves]
        return Instruction(text, "pack", results=[self.register(result)], operands=slots)


def _constant(token: str, bits: int) -> int:
    """The bits of a constant, as an unsigned number."""
    if match := re.match(r"0([fFdD])([0-9A-Fa-f]+)$", token):
        if len(match[2]) * 4 != bits:
            raise PtxError(f"{token} has not {bits} bits")
        return int(match[2], 16)
    try:
        number = int(token.removesuffix("U"), 0)
    except ValueError:
        raise PtxError(f"not a constant: {token}") from None
    return int(number != 0) if bits == 1 else number % (1 << bits)


def parse(ptx: str) -> Program:
    """Read the only kernel of a PTX module.

    Raises:
        PtxError: if it has an instruction or a form of one that the emulator does not know.
    """
    header = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)^\{(.*?)^\}", ptx, re.DOTALL | re.MULTILINE)
    if header is None:
        raise PtxError("no kernel")
    name, parameters, directives, body = header.groups()
    threads = re.search(r"\.reqntid\s+(\d+)", directives)
    if threads is None:
        raise PtxError("the number of threads is not given")
    parser = _Parser()
    slots = [
        parser.slot(parameter, int(bits))
        for bits, parameter in re.findall(
            r"\.param\s+\.[bus](32|64).*?(\w+)\s*(?:,|$)", parameters, re.MULTILINE
        )
    ]
    if len(slots) != parameters.count(".param"):
        raise PtxError(f"cannot read the parameters: {parameters}")
    for line in body.splitlines():
        text = line.split("//")[0].strip()
        if register := re.match(r"\.reg \.(\w+)\s+(%[a-z]+)<\d+>;", text):
            parser.widths[register[2]] = BITS[register[1]]
        elif label := re.match(r"(\$\w+):$", text):
            parser.labels[label[1]] = len(parser.instructions)
        elif text and not text.startswith(_IGNORED):
            parser.statement(text)
    for branch, label in parser.branches:
        branch.target = parser.labels[label]
    return Program(
        name, int(threads[1]), slots, parser.instructions, parser.slots, parser.bits, parser.constants
    )
