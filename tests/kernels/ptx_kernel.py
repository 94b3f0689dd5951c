"""Kernels of Triton that are compiled for a GPU which is not here, and launched in the PTX emulator.

Only in a process where Triton compiles, that is, without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from ptx_emulator import launch
from ptx_program import Program, parse
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from xtra_rl.kernels import search_kernels


class AbsentGpu:
    """As much of a driver as Triton asks before it compiles for the arguments of a launch."""

    def __init__(self, arch: int) -> None:
        self._target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # Triton keeps what it has compiled by device.
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class EmulatedKernel:
    """Stands in for a kernel: ``kernel[grid](*arguments, **constants)``, with tensors on the CPU."""

    def __init__(self, kernel: JITFunction) -> None:
        self._kernel = kernel
        self.launches = 0
        self.edit: Callable[[str], str] = lambda ptx: ptx
        """Changes the program before it runs."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: torch.Tensor | int, **constants: Any) -> None:
        compiled = self._kernel.warmup(*arguments, grid=grid, **constants)
        program = _parse(self.edit(compiled.asm["ptx"]))
        values = [
            argument.reshape(-1).view(torch.uint8).numpy() if isinstance(argument, torch.Tensor) else argument
            for argument in arguments
        ]
        # Triton appends pointers to scratch memory, which these kernels do not use.
        values += [0] * (len(program.parameters) - len(values))
        launch(program, grid, values, compiled.metadata.shared)
        self.launches += 1


_parse: Callable[[str], Program] = cache(parse)


def compile_for(arch: int) -> None:
    """Let Triton compile for a GPU such as 90 (sm_90) from now on."""
    driver.set_active(AbsentGpu(arch))


def emulate(monkeypatch: pytest.MonkeyPatch) -> dict[str, EmulatedKernel]:
    """Replace the search kernels, and let the Triton backend work on the CPU."""
    names = ("search_step", "gather_latents")
    kernels = {name: EmulatedKernel(getattr(search_kernels, name)) for name in names}
    for name, kernel in kernels.items():
        monkeypatch.setattr(search_kernels, name, kernel)
    monkeypatch.setattr("xtra_rl.search.triton_backend.why_unavailable", lambda device: None)
    return kernels
