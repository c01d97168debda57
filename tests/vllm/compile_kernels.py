"""Compiles our Triton kernels for GPUs that are not here: ``python -m tests.vllm.compile_kernels``.

Prints, for each kernel and GPU, the shared memory of a block and the size of the binary, bytes.
"""

import json
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from mlflow_rlrisk.kernels.triton_head import TileShape, _head_kernel
from mlflow_rlrisk.samplers.vllm_recorder.row_kernel import LANES, NUM_WARPS, _row_kernel

CAPABILITIES = (80, 90)
ALIGNED = ("width", "hidden_stride", "weight_stride", "words_per_share", "num_words", "stride")
OPERANDS = {"bfloat16": "*bf16", "float32": "*fp32"}


def main() -> None:
    found = {}
    for capability in CAPABILITIES:
        for dtype in OPERANDS:
            found[f"head {dtype} {capability}"] = _head(capability, dtype)
        found[f"rows {capability}"] = _rows(capability)
    print(json.dumps(found))


def _head(capability: int, dtype: str) -> tuple[int, int]:
    shape = TileShape.of(getattr(torch, dtype))
    constants = {"HAS_BIAS": True, "HAS_SOFTCAP": True, "WIDENS": False}
    constants |= {"TOKENS": shape.tokens, "WORDS": shape.words, "WIDTH": shape.width}
    types = {"hidden": OPERANDS[dtype], "weight": OPERANDS[dtype], "bias": "*fp32"}
    types |= {"partial": "*fp32", "targets": "*i64"}
    types |= dict.fromkeys(("scale", "softcap", "over_temperature"), "fp32")
    options = {"num_warps": shape.num_warps, "num_stages": shape.num_stages}
    return _compiled(_head_kernel, capability, constants, types, options)


def _rows(capability: int) -> tuple[int, int]:
    names = ("logits", "scales", "log_normalisers", "entropies")
    types = {**dict.fromkeys(names, "*fp32"), "scale": "fp32"}
    constants = {"HAS_SCALES": True, "LANES": LANES}
    return _compiled(_row_kernel, capability, constants, types, {"num_warps": NUM_WARPS})


def _compiled(
    kernel: Any,
    capability: int,
    constants: dict[str, Any],
    types: dict[str, str],
    options: dict[str, int],
) -> tuple[int, int]:
    types = types | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    # As at a launch, where Triton sees that addresses, widths and strides are multiples of 16;
    # without that it loads nothing ahead and takes less shared memory.
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ALIGNED
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton_compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return made.metadata.shared, len(made.asm["cubin"])


if __name__ == "__main__":
    main()
