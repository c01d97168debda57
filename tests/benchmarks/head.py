"""Exact entropy and logprob from hidden states beside the bare output head and other routes.

Every route gets the same hidden states, weights and targets, in turn in one run, on one thread;
the clock is process CPU time and a ratio the median over rounds. The errors are those of 32
tokens against float64, for which the other routes get these tokens alone; it warms them up. Run
with ``python -m tests.benchmarks.head [--H 1024] [--V 32768] [--T 512] [--dtype float32]
[--reps 3] [--baseline "F.linear alone"] [--json FILE] [--assert]``.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.interleaved import finish, seconds_by_name, table

SLACK = 1.15
"""A shared machine moves ratios by this much; ``--assert`` allows it."""

NUM_CHECKED = 32
"""Tokens whose values are compared with float64."""

COMPILED = "ours, compiled fold"
EAGER = "ours, eager fold"
LINEAR = "F.linear alone"
NAIVE = "log_softmax of all logits"
TRL_FULL = "TRL entropy_from_logits"
TRL_CHUNKED = "TRL chunked head"
VERL = "verl's chunked formula"
UPCAST = "head upcast to float32"
PRODUCT = "float32 product of our tiles"
"""No route without a unit for bfloat16 can be faster: it makes no logprob and no entropy."""

BARE = (LINEAR, PRODUCT)
"""Routes that make logits alone."""

PRODUCT_TILE = (1024, 1024)
"""Tokens and words that are multiplied at a time, into one buffer."""

# Route, baseline, ratio to reach; those of bfloat16 hold where the CPU has a unit for it.
GOALS = {
    "float32": [
        ("G1", COMPILED, LINEAR, 1.0),
        ("G1e", EAGER, LINEAR, 1.10),
        ("G1x", COMPILED, TRL_CHUNKED, 0.60),
    ],
    "bfloat16": [
        ("G3", COMPILED, UPCAST, 0.30),
        ("G3", COMPILED, LINEAR, 2.0),
        ("G1x", COMPILED, TRL_CHUNKED, 0.25),
    ],
}
LARGEST_ERROR = {"float32": 2e-5, "bfloat16": 1e-4}

Pair = tuple[Any, Any]


def routes(hidden: Any, weight: Any, targets: Any) -> dict[str, Callable[[], Pair]]:
    """Functions that return (logprobs, entropies) of all tokens; bare products return neither."""
    import torch
    from torch.nn.functional import linear
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    from mlflow_rlrisk.kernels import token_statistics

    def ours(is_compiled: bool) -> Pair:
        found = token_statistics(hidden, weight, targets, is_compiled=is_compiled)
        return found.logprobs, found.entropies

    def naive(logits: Any) -> Pair:
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        entropies = -(log_probs.exp() * log_probs).sum(dim=-1)
        return log_probs.gather(1, targets[:, None])[:, 0], entropies

    def trl_full() -> Pair:
        logits = linear(hidden, weight)
        return selective_log_softmax(logits, targets), entropy_from_logits(logits)

    def trl_chunked() -> Pair:
        outputs = ChunkedLogProbFunction.apply(
            hidden, weight, None, targets, 1.0, 32768, None, 1.0, ("entropy",)
        )
        return outputs[0], outputs[1]

    def verl_chunked() -> Pair:
        parts = []
        for start in range(0, len(hidden), 512):
            logits = linear(hidden[start : start + 512], weight).float()
            log_z = torch.logsumexp(logits, dim=-1)
            probs = torch.softmax(logits, dim=-1)
            chosen = logits.gather(1, targets[start : start + 512, None])[:, 0]
            parts.append((chosen - log_z, log_z - (probs * logits).sum(dim=-1)))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    wide_hidden, wide_weight = hidden.float(), weight.float()
    buffer = torch.empty(PRODUCT_TILE[0] * PRODUCT_TILE[1], device=hidden.device)

    def product() -> Pair:
        for rows in wide_hidden.split(PRODUCT_TILE[0]):
            for columns in wide_weight.split(PRODUCT_TILE[1]):
                shape = (len(rows), len(columns))
                torch.mm(rows, columns.T, out=buffer[: shape[0] * shape[1]].view(shape))
        return None, None

    found: dict[str, Callable[[], Pair]] = {
        LINEAR: lambda: (linear(hidden, weight), None),
        PRODUCT: product,
        EAGER: lambda: ours(False),
        COMPILED: lambda: ours(True),
        NAIVE: lambda: naive(linear(hidden, weight)),
        TRL_FULL: trl_full,
        TRL_CHUNKED: trl_chunked,
        VERL: verl_chunked,
    }
    if weight.dtype != torch.float32:
        found[UPCAST] = lambda: naive(linear(hidden.float(), weight.float()))
    return found


def operands(width: int, words: int, tokens: int, dtype: str) -> tuple[Any, Any, Any]:
    """Gaussian operands whose logits have a standard deviation of 4."""
    import torch

    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    hidden = torch.randn(tokens, width, generator=generator).to(kind)
    weight = torch.randn(words, width, generator=generator).mul_(4.0 / width**0.5).to(kind)
    return hidden, weight, torch.randint(words, (tokens,), generator=generator)


def largest_error(run: Callable[[], Pair], exact: Pair) -> float:
    """Largest error of a logprob or entropy of the checked tokens, nats."""
    pairs = zip(run(), exact, strict=True)
    return max(float((a[:NUM_CHECKED].double() - b).abs().max()) for a, b in pairs)


def float64_values(hidden: Any, weight: Any, targets: Any) -> Pair:
    """The textbook formula of the checked tokens in float64."""
    import torch

    logits = hidden[:NUM_CHECKED].double() @ weight.double().T
    log_probs = torch.log_softmax(logits, dim=-1)
    entropies = -(log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(1, targets[:NUM_CHECKED, None])[:, 0], entropies


def judge(seconds: dict[str, list[float]], errors: dict[str, float], dtype: str) -> dict[str, Any]:
    """Print which goals were reached; a goal is binding where this CPU can reach it."""
    from mlflow_rlrisk.kernels.products import has_bfloat16_unit

    is_binding = dtype == "float32" or has_bfloat16_unit()
    missed, rows = [], []
    for name, route, baseline, wanted in GOALS[dtype]:
        if baseline not in seconds:
            continue
        pairs = zip(seconds[route], seconds[baseline], strict=True)
        ratio = median(own / other for own, other in pairs)
        verdict = "reached" if ratio <= wanted else "MISSED"
        note = "" if is_binding else " (no bfloat16 unit here: reported only)"
        print(f"  {name}: {route} / {baseline} = {ratio:.2f}, goal {wanted} -> {verdict}{note}")
        rows.append({"goal": name, "route": route, "baseline": baseline, "ratio": ratio})
        if PRODUCT in seconds and baseline != LINEAR:
            pairs = zip(seconds[PRODUCT], seconds[baseline], strict=True)
            least = median(own / other for own, other in pairs)
            print(f"      the float32 product alone / {baseline} = {least:.2f}")
            rows[-1]["ratio_of_the_product_alone"] = least
        if is_binding and ratio > SLACK * wanted:
            missed.append(name)
    for route in (EAGER, COMPILED):
        if not errors[route] <= LARGEST_ERROR[dtype]:
            print(f"  {route}: error {errors[route]:.1e} nats is above {LARGEST_ERROR[dtype]}")
            missed.append(f"error of {route}")
    return {"goals": rows, "missed": missed}


def main() -> int:
    """Print one table per dtype; exit 1 with ``--assert`` where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--H", type=int, default=1024, help="width of the hidden states")
    parser.add_argument("--V", type=int, default=32768, help="words")
    parser.add_argument("--T", type=int, default=512, help="tokens")
    parser.add_argument("--dtype", choices=GOALS, action="append")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--baseline", action="append", help="left out: all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="check")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    results, is_missed = [], False
    for dtype in args.dtype or GOALS:
        tensors = operands(args.H, args.V, args.T, dtype)
        contenders = routes(*tensors)
        if args.baseline:
            kept = (EAGER, COMPILED, *args.baseline)
            contenders = {name: contenders[name] for name in kept if name in contenders}
        hidden, weight, targets = tensors
        few = routes(hidden[:NUM_CHECKED], weight, targets[:NUM_CHECKED])
        checked = {name: few[name] for name in contenders}
        checked |= {name: contenders[name] for name in (EAGER, COMPILED)}
        exact = float64_values(*tensors)
        with torch.no_grad():
            errors = {
                name: largest_error(run, exact) for name, run in checked.items() if name not in BARE
            }
            seconds = seconds_by_name(contenders, args.reps, is_warm=True)
        title = f"{dtype}, H {args.H}, V {args.V}, T {args.T}"
        result = table(title, seconds, {}, COMPILED)
        print("  largest error, nats: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
        result |= judge(seconds, errors, dtype) | {"errors": errors}
        is_missed = is_missed or bool(result["missed"])
        results.append(result)
    finish(results, args.json)
    return 1 if args.check and is_missed else 0


if __name__ == "__main__":
    sys.exit(main())
