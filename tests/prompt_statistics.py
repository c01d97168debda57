"""Prompt statistics as an assessment would count them, built from solve counts and entropies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report import Provenance, RiskReport, summarize

DIGESTS = {name: f"{name}-digest" for name in ("prompts", "verifier", "tokenizer", "template")}


def prompt(
    index: int,
    num_correct: int,
    num_scored: int,
    *,
    entropy: float | None = 0.3,
    num_failed: int = 0,
    num_truncated: int = 0,
    tokens_each: int = 10,
    **changes: Any,
) -> PromptStatistics:
    num_samples = num_scored + num_failed
    num_tokens = num_samples * tokens_each
    wrong = num_scored - num_correct
    said = (*[num_correct] * (num_correct > 0), *[1] * wrong)  # no two wrong ones say the same
    values: dict[str, Any] = {
        "prompt_id": f"p{index:05d}",
        "num_samples": num_samples,
        "num_scored": num_scored,
        "num_correct": num_correct,
        "num_failed": num_failed,
        "num_truncated": num_truncated,
        "rewards": (1.0,) * num_correct + (0.0,) * wrong,
        "num_tokens": num_tokens,
        "entropy_sum": None if entropy is None else entropy * num_tokens,
        "sequence_entropy": entropy,
        "num_low_entropy": None if entropy is None else num_tokens // 2,
        "nll_sum": None if entropy is None else entropy * num_tokens,
        "answer_counts": said or None,
        "correct_counts": (num_correct,) if num_correct else (),
        "text_counts": (*said, *[1] * num_failed),
        "num_loops": 0,
        "num_unparsed": 0,
        "right_answer_counts": (num_correct,) if num_correct else (),
    }
    return PromptStatistics(**{**values, **changes})


def prompts(
    solved: Sequence[int], num_scored: int, entropies: Sequence[float] | float = 0.3, **changes: Any
) -> list[PromptStatistics]:
    each = np.broadcast_to(np.asarray(entropies, dtype=float), len(solved))
    return [
        prompt(index, int(count), num_scored, entropy=float(each[index]), **changes)
        for index, count in enumerate(solved)
    ]


def ladder_rung(alpha: float, beta: float, entropy: float, seed: int = 0) -> list[PromptStatistics]:
    """200 prompts x 16 rollouts whose success follows a Beta, entropies spread around a mean."""
    rng = np.random.default_rng(seed)
    solved = rng.binomial(16, rng.beta(alpha, beta, size=200))
    return prompts(solved, 16, np.maximum(rng.normal(entropy, entropy / 3, size=200), 0.0))


def config(**changes: Any) -> AssessmentConfig:
    return AssessmentConfig(**{"num_resamples": 400, "sampling": SamplingConfig(), **changes})


def report_of(
    statistics: Sequence[PromptStatistics],
    *,
    policy: PolicyConfig | None = None,
    model: str = "models:/coder-sft/1",
    digests: dict[str, str] | None = None,
    context: Any = None,
    **changes: Any,
) -> RiskReport:
    return summarize(
        statistics,
        config=config(**changes),
        policy=policy or PolicyConfig(),
        provenance=Provenance(
            model_reference=model, digests=DIGESTS if digests is None else digests
        ),
        context=context,
    )
