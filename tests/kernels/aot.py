"""Compile the search kernels for GPUs that are not here, and print what each one takes of them as JSON.

Run in a process of its own, without ``TRITON_INTERPRET``: ``python tests/kernels/aot.py cuda:90 hip:gfx942``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from xtra_rl.kernels import search_kernels as kernels

FLOATS = [
    "node_visits",
    "node_value_sums",
    "node_raw_values",
    "node_rewards",
    "node_qvalues",
    "node_prefix_bases",
    "children_prior_logits",
    "children_prior",
    "children_visits",
    "children_qvalues",
    "reward",
    "value",
    "prior_logits",
    "table",
    "gumbel",
    "constants",
]
INT32 = ["node_depths", "parents", "parent_edges", "children_index"]
INT64 = ["tie_seeds", "parent", "row", "actions"]
SIGNATURE = (
    dict.fromkeys(FLOATS, "*fp32")
    | dict.fromkeys(INT32, "*i32")
    | dict.fromkeys(INT64, "*i64")
    | {"root_invalid_actions": "*i1", "batch_size": "i32", "leaf": "i32"}
)
VARIANTS = {
    "select, pUCT": (False, kernels.SELECT_PUCT_TREE),
    "select, Gumbel": (False, kernels.SELECT_GUMBEL),
    "update": (True, kernels.SELECT_NONE),
    "step, pUCT tree": (True, kernels.SELECT_PUCT_TREE),
    "step, pUCT siblings": (True, kernels.SELECT_PUCT_SIBLINGS),
    "step, Gumbel": (True, kernels.SELECT_GUMBEL),
}


def compile_step(
    target: str,
    update: bool,
    select: int,
    *,
    nodes: int = 51,
    actions: int = 18,
    trees: int = 1,
    horizon: int = 5,
    ties: bool = True,
    masked: bool = True,
) -> CompiledKernel:
    """Compile :func:`search_step` for a target such as "cuda:90" or "hip:gfx942"."""
    constants = {
        "N": nodes,
        "A": actions,
        "PN": triton.next_power_of_2(nodes),
        "PA": triton.next_power_of_2(actions),
        "G": trees,
        "HORIZON": horizon,
        "MASK_BELOW_ROOT": masked,
        "UPDATE": update,
        "SELECT": int(select),
        "TIES": ties,
    }
    return _compile(kernels.search_step, SIGNATURE, constants, target, 1 if trees == 1 else 4)


def compile_gather(target: str, *, size: int = 2304, horizon: int = 5, dtype: str = "fp32") -> CompiledKernel:
    """Compile :func:`gather_latents` for a target."""
    signature = {
        "pool": f"*{dtype}",
        "out": f"*{dtype}",
        "parent": "*i64",
        "row": "*i64",
        "node_depths": "*i32",
    }
    constants = {"N": 51, "SIZE": size, "BLOCK": min(1024, triton.next_power_of_2(size)), "HORIZON": horizon}
    return _compile(kernels.gather_latents, signature, constants, target, 4)


def _compile(function, signature, constants, target, num_warps) -> CompiledKernel:
    backend, arch = target.split(":")
    gpu = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    names = function.arg_names
    full = {name: signature.get(name, "constexpr") for name in names}
    # What the launcher finds out by itself: memory from PyTorch begins at multiples of 16 bytes.
    attrs = {
        (names.index(name),): [["tt.divisibility", 16]] for name, kind in signature.items() if kind[0] == "*"
    }
    source = ASTSource(function, full, constexprs=constants, attrs=attrs)
    return triton.compile(source, target=gpu, options={"num_warps": num_warps, "enable_fp_fusion": False})


def resources(kernel: CompiledKernel) -> dict[str, int]:
    """Registers and memory of a thread, by the tools that come with Triton."""
    if "cubin" in kernel.asm:
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            text = subprocess.run(
                [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
        return {
            "registers": int(found["REG"]),
            "stack": int(found["STACK"]),
            "spills": int(found["LOCAL"]),
            "shared": int(found["SHARED"]),
        }
    text = kernel.asm["amdgcn"]

    def value(name: str) -> int:
        match = re.search(rf"\.{name}:\s+(\d+)", text)
        assert match, f"no {name} in the assembly"
        return int(match[1])

    return {
        "registers": value("vgpr_count"),
        "stack": value("private_segment_fixed_size"),
        "spills": value("vgpr_spill_count") + value("sgpr_spill_count"),
        "shared": value("group_segment_fixed_size"),
    }


def table(target: str) -> dict[str, dict[str, int]]:
    """Resources of every variant: one tree on a warp, as the backend launches it, and four trees on four warps."""
    found = {}
    for name, (update, select) in VARIANTS.items():
        found[name] = resources(compile_step(target, update, select))
        if update:
            found[f"{name}, 4 trees"] = resources(compile_step(target, update, select, trees=4))
    for dtype in ("fp32", "bf16"):
        found[f"gather, {dtype}"] = resources(compile_gather(target, dtype=dtype))
    return found


def main(targets: list[str]) -> None:
    print(json.dumps({target: table(target) for target in targets}))


if __name__ == "__main__":
    main(sys.argv[1:])
