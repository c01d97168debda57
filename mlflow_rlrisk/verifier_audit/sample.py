"""Rates of a verifier from an audit sample: completions that people (or a better judge) labelled.

Two designs are told apart, because they answer different questions. A random sample shows the
rates directly. A sample drawn from the accepted and from the rejected ones shows how many of each
are right, which becomes rates only with the share that is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mlflow_rlrisk.errors import ConfigError, PromptSetError, VerifierError
from mlflow_rlrisk.evidence import Evidence
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.prompts.schemas import value_at
from mlflow_rlrisk.prompts.sources import Row, Table, read_table
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.statistics import (
    AuditRates,
    audit_j_draws,
    audit_rates,
    clopper_pearson,
    interval,
    youden_j_interval,
)
from mlflow_rlrisk.verifier_audit.labels import normalised
from mlflow_rlrisk.verifier_audit.probing import Judge

COMPLETION_COLUMNS = ("completion", "response", "output", "solution_str", "prediction")
LABEL_COLUMNS = ("correct", "is_correct", "human_label", "label")
STRATUM_COLUMNS = ("stratum", "accepted")
PROMPT_COLUMNS = ("prompt", "question", "problem", "messages", "input")
NUM_DRAWS = 10_000

_TRUE = frozenset({"true", "1", "1.0", "yes", "correct", "right", "accepted", "accept", "pass"})
_FALSE = frozenset({"false", "0", "0.0", "no", "incorrect", "wrong", "rejected", "reject", "fail"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of the verifier with intervals.

    Attributes:
        rates: Both rates.
        intervals: ``tpr``, ``fpr`` and ``youden_j`` to their intervals.
        draws: Draws of both rates, shape ``[B, 2]``, for what is computed from them.
        design: ``random``, or ``strata``.
        counts: What the rates rest on.
    """

    rates: AuditRates
    intervals: Mapping[str, tuple[float, float]]
    draws: np.ndarray[Any, np.dtype[np.float64]]
    design: Literal["random", "strata"]
    counts: Mapping[str, int | float]

    def evidence(self) -> Evidence:
        """J as evidence for a report on the verifier's rewards."""
        kinds = ("num_correct", "num_wrong", "num_accepted", "num_rejected")
        num_labelled = sum(int(self.counts.get(kind, 0)) for kind in kinds)
        low, high = self.intervals["youden_j"]
        return Evidence(
            value=self.rates.youden_j,
            ci_low=low,
            ci_high=high,
            source=f"audit of {counted(num_labelled, 'labelled answer')}",
            num_prompts=num_labelled,
        )

    def to_dict(self) -> dict[str, Any]:
        """The rates as JSON values."""
        values = {
            "tpr": self.rates.true_positive,
            "fpr": self.rates.false_positive,
            "youden_j": self.rates.youden_j,
        }
        return {
            **{
                name: {"value": value, "ci_low": low, "ci_high": high}
                for name, value in values.items()
                for low, high in [self.intervals[name]]
            },
            "design": self.design,
            "counts": dict(self.counts),
        }


def random_sample_rates(
    accepted_correct: int, num_correct: int, accepted_wrong: int, num_wrong: int, confidence: float
) -> Rates:
    """Rates from a random sample: Clopper-Pearson for both, Newcombe for their difference.

    Raises:
        ConfigError: There are no correct or no wrong completions, so that a rate is undefined.
    """
    for kind, size in (("correct", num_correct), ("wrong", num_wrong)):
        if size == 0:
            raise ConfigError("audit", kind, f"no completion is labelled {kind}: J is undefined")
    rng = np.random.Generator(np.random.PCG64(0))
    draws = np.stack(
        [
            rng.beta(accepted_correct + 0.5, num_correct - accepted_correct + 0.5, NUM_DRAWS),
            rng.beta(accepted_wrong + 0.5, num_wrong - accepted_wrong + 0.5, NUM_DRAWS),
        ],
        axis=1,
    )
    counts = (accepted_correct, num_correct, accepted_wrong, num_wrong)
    names = ("accepted_correct", "num_correct", "accepted_wrong", "num_wrong")
    return Rates(
        rates=AuditRates(
            true_positive=accepted_correct / num_correct, false_positive=accepted_wrong / num_wrong
        ),
        intervals={
            "tpr": clopper_pearson(accepted_correct, num_correct, confidence),
            "fpr": clopper_pearson(accepted_wrong, num_wrong, confidence),
            "youden_j": youden_j_interval(*counts, confidence),
        },
        draws=draws,
        design="random",
        counts=dict(zip(names, counts, strict=True)),
    )


def strata_rates(
    accept_rate: float, accepted: tuple[int, int], rejected: tuple[int, int], confidence: float
) -> Rates:
    """Rates from an audit of accepted and of rejected completions (Bayes' rule).

    Args:
        accept_rate: Share that the verifier accepts, strictly between 0 and 1.
        accepted: ``(correct, audited)`` among the accepted.
        rejected: ``(correct, audited)`` among the rejected.
        confidence: Level of the intervals, from posterior draws of both strata, widened to hold
            the estimates where these lie at an end.

    Raises:
        StatisticsError: A stratum was not audited, or a share is out of range.
    """
    j_draws = audit_j_draws(accept_rate, accepted, rejected, NUM_DRAWS)
    rates = audit_rates(accept_rate, accepted[0] / accepted[1], rejected[0] / rejected[1])
    # The same draws as those of J, so that the three intervals belong together.
    rng = np.random.Generator(np.random.PCG64(0))
    precision, missed = (
        rng.beta(right + 0.5, audited - right + 0.5, NUM_DRAWS)
        for right, audited in (accepted, rejected)
    )
    right = accept_rate * precision + (1.0 - accept_rate) * missed
    tpr = accept_rate * precision / right
    draws = np.stack([tpr, tpr - j_draws], axis=1)
    columns = {
        "tpr": (rates.true_positive, draws[:, 0]),
        "fpr": (rates.false_positive, draws[:, 1]),
        "youden_j": (rates.youden_j, j_draws),
    }
    ends = {name: (value, *interval(drawn, confidence)) for name, (value, drawn) in columns.items()}
    return Rates(
        rates=rates,
        intervals={name: (min(each), max(each)) for name, each in ends.items()},
        draws=draws,
        design="strata",
        counts={
            "accept_rate": accept_rate,
            "accepted_correct": accepted[0],
            "num_accepted": accepted[1],
            "rejected_correct": rejected[0],
            "num_rejected": rejected[1],
        },
    )


def rates_of_file(
    source: object,
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    accept_rate: float | None,
    is_by_stratum: bool,
    confidence: float,
) -> Rates:
    """Rates from a labelled sample.

    Every row has a completion, a label (``correct``: true or false) and a prompt, by
    ``prompt_id`` or by its text. The verifier judges it, unless a column ``stratum`` or
    ``accepted`` says what it said; with such a column or ``is_by_stratum`` the sample counts as
    drawn by stratum, and ``accept_rate`` is the share that the verifier accepts.

    Raises:
        PromptSetError: A column is missing, a row names no prompt of the set, or a label is no
            yes or no.
        VerifierError: It failed on every completion.
        ConfigError: A sample by stratum without the accepted share, or one kind is missing.
    """
    table = read_table(source)
    columns = _Columns.of(table)
    labels = [_yes(row, columns.label) for row in table.rows]
    said = zip(labels, _accepted(table, columns, prompts, judge), strict=True)
    pairs = [(is_correct, accepted) for is_correct, accepted in said if accepted is not None]
    failed = len(labels) - len(pairs)
    if labels and not pairs:
        raise VerifierError(f"it failed on all {counted(failed, 'completion')} of the audit sample")
    is_by_stratum = is_by_stratum or columns.stratum is not None
    found = _rates_of_pairs(pairs, accept_rate, is_by_stratum, confidence)
    return replace(found, counts={**found.counts, "num_failed": failed})


def _rates_of_pairs(
    pairs: Sequence[tuple[bool, bool]],
    accept_rate: float | None,
    is_by_stratum: bool,
    confidence: float,
) -> Rates:
    """Rates of what is correct and what is accepted, by the design of the sample."""
    if not is_by_stratum:
        right = [accepted for is_correct, accepted in pairs if is_correct]
        wrong = [accepted for is_correct, accepted in pairs if not is_correct]
        return random_sample_rates(sum(right), len(right), sum(wrong), len(wrong), confidence)
    if accept_rate is None:
        raise ConfigError(
            "accept_rate", None, "a sample by stratum needs the share that the verifier accepts"
        )
    strata = [[is_correct for is_correct, a in pairs if a is side] for side in (True, False)]
    for side, found in zip(("accepted", "rejected"), strata, strict=True):
        if not found:
            raise ConfigError("audit", side, f"no completion of the sample is {side}")
    accepted_side, rejected_side = ((sum(found), len(found)) for found in strata)
    return strata_rates(accept_rate, accepted_side, rejected_side, confidence)


@dataclass(frozen=True, slots=True)
class _Columns:
    completion: str
    label: str
    stratum: str | None
    prompt: str | None

    @classmethod
    def of(cls, table: Table) -> "_Columns":
        def first(names: Sequence[str]) -> str | None:
            return next((name for name in names if name in table.column_names), None)

        completion, label = first(COMPLETION_COLUMNS), first(LABEL_COLUMNS)
        for what, name, known in (
            ("completion", completion, COMPLETION_COLUMNS),
            ("label", label, LABEL_COLUMNS),
        ):
            if name is None:
                raise PromptSetError(
                    f"the audit sample has no {what} column; known: {', '.join(known)}; seen: "
                    f"{', '.join(table.column_names) or 'none'}"
                )
        assert completion is not None
        assert label is not None
        return cls(completion, label, first(STRATUM_COLUMNS), first(PROMPT_COLUMNS))


def _accepted(
    table: Table, columns: _Columns, prompts: Sequence[Prompt], judge: Judge
) -> list[bool | None]:
    """What the verifier said of each row; ``None`` where it failed."""
    if columns.stratum is not None:
        return [_yes(row, columns.stratum) for row in table.rows]
    by_id = {prompt.id: prompt for prompt in prompts}
    by_text: dict[str, Prompt] = {}
    contradictory: set[str] = set()
    for each in prompts:
        known = by_text.setdefault(normalised(each.content), each)
        if known.truth != each.truth:
            contradictory.add(normalised(each.content))
    found: list[bool | None] = []
    for row in table.rows:
        prompt = by_id.get(str(row.columns.get("prompt_id")))
        if prompt is None and columns.prompt is not None:
            text = value_at(row.columns, columns.prompt)
            asked = normalised(text) if isinstance(text, str) else ""
            if asked in contradictory:
                raise PromptSetError(
                    f"audit sample, {row.place}: the prompt set has several truths for its prompt; "
                    "a prompt_id says which"
                )
            prompt = by_text.get(asked)
        if prompt is None:
            raise PromptSetError(f"audit sample, {row.place}: its prompt is not in the prompt set")
        text = row.columns[columns.completion]
        if not isinstance(text, str):
            raise PromptSetError(f"audit sample, {row.place}: the completion is no text")
        (grade,) = judge.grade(prompt, [text])
        verdict = judge.verdict(grade)
        found.append(None if verdict == "failed" else verdict == "accepted")
    return found


def _yes(row: Row, column: str) -> bool:
    value = row.columns[column]
    if isinstance(value, bool):
        return value
    text = str(value).strip().casefold()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise PromptSetError(f"audit sample, {row.place}, column {column!r}: {value!r} is no yes or no")
