"""Compile every Triton kernel for GPUs that are not there, in a process without the interpreter.

`python -m tests.helpers.compile_kernels 90` prints, for compute capability 9.0, a line of JSON: kernel and constants ->
bytes of shared memory.
"""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from grpo.sampling import kernels

INTEGERS = ("width", "slots_of_prompt", "prompt_width", "own_width", "vocabulary", "blocks")
NUMBERS = ("epsilon", "scale", "temperature")
POINTERS = {
    **dict.fromkeys(("x", "cos", "sin", "logits", "maxima"), "*fp32"),
    **dict.fromkeys(("sums", "uniforms"), "*fp64"),
    **dict.fromkeys(("positions", "length", "slots", "tokens"), "*i64"),
}


def shared_memory(capability: int, kernel: Any, dtype: str, constants: dict[str, Any]) -> int:
    """Compile a kernel whose other tensors have the element type `dtype`; returns the bytes of shared memory."""
    signature = {
        name: "constexpr"
        if name in constants
        else "i32"
        if name in INTEGERS
        else "fp32"
        if name in NUMBERS
        else POINTERS.get(name, f"*{dtype}")
        for name in (parameter.name for parameter in kernel.params)
    }
    # As at a launch, pointers and most widths are multiples of 16, which permits wide and asynchronous loads.
    aligned: Any = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in ("width", "prompt_width")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return int(triton.compile(source, target=GPUTarget("cuda", capability, 32)).metadata.shared)


def main(capability: int) -> None:
    used: dict[str, int] = {}
    for dtype, size in (("bf16", 2), ("fp32", 4)):
        cases: list[tuple[Any, dict[str, Any]]] = [(kernels._silu_gate, {"BLOCK": kernels.GATE_BLOCK})]
        cases += [(kernels._add_norm, {"HAS_Y": has_y, "BLOCK": 1024}) for has_y in (False, True)]
        for heads, queries, dim in ((2, 7, 64), (2, 8, 128)):  # Qwen2.5-0.5B, Qwen2.5-3B
            block = kernels.KEY_BLOCK_BYTES // (dim * size)
            cases += [(kernels._attend, {"H": heads, "Q": queries, "D": dim, "ROWS": 16, "BLOCK": block})]
        for kernel, constants in cases:
            used[f"{kernel.__name__} {dtype} {constants}"] = shared_memory(capability, kernel, dtype, constants)
    block = kernels.VOCABULARY_BLOCK
    used["_block_sums"] = shared_memory(capability, kernels._block_sums, "fp32", {"BLOCK": block})
    used["_choose"] = shared_memory(capability, kernels._choose, "fp32", {"BLOCKS": 64, "BLOCK": block})
    print(json.dumps(used))


if __name__ == "__main__":
    main(int(sys.argv[1]))
