"""A Rubric of the verifiers library: the weighted sum of its functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest
from mlflow_rlrisk.verifiers.functions import FunctionVerifier


def functions_of(subject: object) -> list[tuple[Any, float]] | None:
    """Functions and weights of a Rubric; ``None`` for anything else. Weight 0 is a metric.

    Raises:
        VerifierError: Not as many weights as functions, or one that is no finite number.
    """
    for functions, weights in (("funcs", "weights"), ("reward_funcs", "reward_weights")):
        found, given = getattr(subject, functions, None), getattr(subject, weights, None)
        if isinstance(found, Sequence) and isinstance(given, Sequence) and found:
            if len(found) != len(given):
                parts = counted(len(found), "function")
                raise VerifierError(f"a Rubric of {parts} and {counted(len(given), 'weight')}")
            if bad := [weight for weight in given if not math.isfinite(weight)]:
                raise VerifierError(f"a Rubric with a weight of {bad[0]}; finite ones are needed")
            pairs = zip(found, given, strict=True)
            return [(function, float(weight)) for function, weight in pairs if weight != 0.0]
    return None


@dataclass(frozen=True, slots=True)
class RubricVerifier:
    """Adapts a Rubric to the `Verifier` protocol.

    Attributes:
        parts: Its functions with their weights.
    """

    parts: Sequence[tuple[FunctionVerifier, float]]
    dialect = "verifiers"
    wants_token_ids = False
    grades_texts = True
    extract_answer = None

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        """Why one of the functions cannot judge this prompt."""
        problems = (part.problem_with(truth, columns) for part, _ in self.parts)
        return next((problem for problem in problems if problem), None)

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        """The weighted sum; a part without a reward leaves none."""
        per_part = [part.verify(request) for part, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return [_sum(outcomes, weights) for outcomes in zip(*per_part, strict=True)]


def _sum(outcomes: Sequence[Outcome], weights: Sequence[float]) -> Outcome:
    rewards = [outcome.reward for outcome in outcomes if outcome.reward is not None]
    if len(rewards) < len(outcomes):
        missing = next(outcome for outcome in outcomes if outcome.reward is None)
        return Outcome(status="failed", reason=missing.reason)
    total = sum(weight * reward for weight, reward in zip(weights, rewards, strict=True))
    return Outcome(status="scored", reward=total)
