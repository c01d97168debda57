"""PromptStatistics -> one column per estimator, and for each metric the formula over column means.

Every metric is a function of means over prompts. That is what lets one set of bootstrap weights
serve all metrics and the index at once: resample the means, apply the same formulas. A metric
whose estimator refuses (n < k, n < g, success undefined) is left out here with the reason; its
prompts are never dropped to make it computable.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlflow_rlrisk.errors import InsufficientRolloutsError
from mlflow_rlrisk.metrics_catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.statistics import beta_binomial, diversity, groups, passk, shares
from mlflow_rlrisk.statistics.counts import FloatVector

Bounds = tuple[float, float]

BAND = (1 / 16, 14 / 16)
"""Solve rates of ``band_share``: 1 to 14 of 16 rollouts, the prompt filter of arXiv:2606.18487."""
LARGEST_VOCABULARY = 2**20
"""Bounds an entropy where no interval can be estimated; four times today's largest vocabularies."""
ENTROPY_BOUNDS = (0.0, math.log(LARGEST_VOCABULARY))
SHARE: Bounds = (0.0, 1.0)


def identity(mean: FloatVector) -> FloatVector:
    """The mean itself."""
    return mean


def ratio(numerator: FloatVector, denominator: FloatVector) -> FloatVector:
    """Ratio of two means; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator == 0.0, np.nan, numerator / denominator))


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """How a metric follows from means of columns.

    Attributes:
        columns: Columns it reads, in the order of the arguments of ``evaluate``.
        evaluate: Vectorised over any shape of means.
        bounds: Values a single prompt could give, where they are known; needed for an interval
            when all prompts give the same.
        num_prompts: Prompts it rests on, where that is not all of them.
    """

    columns: tuple[str, ...]
    evaluate: Callable[..., FloatVector] = identity
    bounds: Bounds | None = None
    num_prompts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """Columns ``[P]``, formulas by full metric name, and why the other metrics are undefined."""

    num_prompts: int
    columns: dict[str, FloatVector] = field(default_factory=dict)
    formulas: dict[str, Formula] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add_mean(self, name: str, compute: Callable[[], FloatVector], bounds: Bounds) -> None:
        """Add a metric that is the mean of one column; undefined where ``compute`` refuses."""
        try:
            self.columns[name] = compute()
        except InsufficientRolloutsError as error:
            self.undefined[PREFIX + name] = str(error)
            return
        self.formulas[PREFIX + name] = Formula(columns=(name,), bounds=bounds)

    def add_ratio(
        self,
        name: str,
        numerator: FloatVector,
        denominator: FloatVector,
        bounds: Bounds | None = SHARE,
        num_prompts: int | None = None,
    ) -> None:
        """Add a metric that is a ratio of sums over prompts."""
        if not denominator.any():
            self.undefined[PREFIX + name] = "no rollout to divide by"
            return
        columns = (f"{name}.numerator", f"{name}.denominator")
        self.columns.update(zip(columns, (numerator, denominator), strict=True))
        self.formulas[PREFIX + name] = Formula(
            columns=columns, evaluate=ratio, bounds=bounds, num_prompts=num_prompts
        )

    def leave_out(self, reason: str, *names: str) -> None:
        """Record why metrics are undefined."""
        self.undefined.update({PREFIX + name: reason for name in names})


def prompt_columns(
    statistics: Sequence[PromptStatistics], group_size: int, max_new_tokens: int
) -> PromptColumns:
    """Columns and formulas of all metrics that the prompts support.

    Args:
        statistics: One record per prompt, at least one.
        group_size: Rollouts per prompt and step of the RL run, ``g``.
        max_new_tokens: Token limit of a rollout.

    Returns:
        The columns, each of shape ``[P]``.
    """
    table = PromptColumns(num_prompts=len(statistics))
    _add_success(table, statistics, group_size)
    _add_signal(table, statistics, group_size)
    _add_entropy(table, statistics)
    _add_diversity(table, statistics, group_size)
    _add_outcomes(table, statistics, max_new_tokens)
    return table


def success_counts(
    statistics: Sequence[PromptStatistics],
) -> tuple[FloatVector, FloatVector] | None:
    """``num_correct`` and ``num_scored`` as int arrays ``[P]``; ``None`` without success."""
    correct = [each.num_correct for each in statistics]
    if any(count is None for count in correct):
        return None
    return np.array(correct, dtype=np.int64), np.array([each.num_scored for each in statistics])


def undefined_success_reason(statistics: Sequence[PromptStatistics]) -> str:
    """Names the rewards that leave success undefined."""
    seen = sorted({reward for each in statistics for reward in each.rewards} - {0.0, 1.0})
    shown = ", ".join(f"{reward:g}" for reward in seen[:3]) + (", ..." if len(seen) > 3 else "")
    return f"rewards other than 0 and 1 (saw {shown}): state --success-threshold"


def _add_success(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    ks = [2**power for power in range(_largest_power(statistics) + 1)]
    names = ("headroom", "starved_share", "saturated_share", "frac_all_correct", "frac_all_wrong")
    spread = ("success_variance", "overdispersion")
    counts = success_counts(statistics)
    if counts is None:
        every = [pass_at_k_name(k).removeprefix(PREFIX) for k in ks]
        reason = undefined_success_reason(statistics)
        table.leave_out(reason, *every, *names, *spread, "band_share")
        return
    correct, scored = counts
    for k in ks:
        name = pass_at_k_name(k).removeprefix(PREFIX)
        table.add_mean(name, lambda k=k: passk.pass_at_k(correct, scored, k), SHARE)  # type: ignore[misc]
    critical = groups.critical_success(group_size)
    table.add_mean(
        "headroom", lambda: passk.pass_at_k(correct, scored, 1) / critical, (0.0, 1.0 / critical)
    )
    for name, estimate in (
        ("starved_share", groups.starved_probability),
        ("saturated_share", groups.saturated_probability),
        ("frac_all_correct", groups.frac_all_correct),
        ("frac_all_wrong", groups.frac_all_wrong),
    ):
        table.add_mean(name, lambda f=estimate: f(correct, scored, group_size), SHARE)  # type: ignore[misc]
    table.add_mean("band_share", lambda: shares.band_share(correct, scored, *BAND), SHARE)
    _add_spread(table, correct, scored)


def _largest_power(statistics: Sequence[PromptStatistics]) -> int:
    most = max((each.num_samples for each in statistics), default=1)
    return max(int(math.log2(max(most, 1))), 0)


def _add_spread(table: PromptColumns, correct: FloatVector, scored: FloatVector) -> None:
    num_prompts = table.num_prompts
    spread = ("success_variance", "overdispersion")
    if num_prompts < 2:
        table.leave_out("a variance over prompts needs at least 2 prompts", *spread)
        return
    try:
        moments = beta_binomial.success_moments(correct, scored)
    except InsufficientRolloutsError as error:
        table.leave_out(str(error), *spread)
        return
    names = ("solve_rate", "solve_rate_squared", "solve_rate_noise")
    table.columns.update(zip(names, moments.T, strict=True))

    def variance(*means: FloatVector) -> FloatVector:
        return beta_binomial.success_variance_of_means(np.stack(means, axis=-1), num_prompts)

    def overdispersion(*means: FloatVector) -> FloatVector:
        room = means[0] * (1.0 - means[0])
        return np.clip(ratio(variance(*means), np.where(room < 1e-12, 0.0, room)), 0.0, 1.0)

    table.formulas[PREFIX + "success_variance"] = Formula(columns=names, evaluate=variance)
    table.formulas[PREFIX + "overdispersion"] = Formula(columns=names, evaluate=overdispersion)


def _add_signal(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    rewards = [each.rewards for each in statistics]
    values = [reward for each in rewards for reward in each]
    if not values:
        names = ("group_signal_fraction", "frac_reward_zero_std", "expected_group_variance")
        table.leave_out("no rollout was scored", *names)
        return
    width = max(values) - min(values)
    if all(value in (0.0, 1.0) for value in {*values}):
        ones = np.array([int(sum(each)) for each in rewards], dtype=np.int64)
        scored = np.array([len(each) for each in rewards], dtype=np.int64)
        width = 1.0
        table.add_mean(
            "group_signal_fraction", lambda: groups.group_signal(ones, scored, group_size), SHARE
        )
        variance = lambda: groups.expected_group_variance(ones, scored, group_size)  # noqa: E731
    else:
        table.add_mean(
            "group_signal_fraction",
            lambda: groups.group_signal_from_values(rewards, group_size),
            SHARE,
        )
        variance = lambda: groups.reward_variance(rewards, group_size)  # noqa: E731
    # Sample variances of rewards within a width are at most width^2 / 2 (two rollouts).
    table.add_mean("expected_group_variance", variance, (0.0, max(width**2 / 2, 1e-12)))
    signal = table.formulas.get(PREFIX + "group_signal_fraction")
    if signal is None:
        reason = table.undefined[PREFIX + "group_signal_fraction"]
        table.leave_out(reason, "frac_reward_zero_std")
        return
    table.formulas[PREFIX + "frac_reward_zero_std"] = Formula(
        columns=signal.columns, evaluate=lambda mean: 1.0 - mean, bounds=SHARE
    )


def _add_entropy(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    tokens = _floats([each.num_tokens for each in statistics])
    samples = _floats([each.num_samples for each in statistics])
    sums = [each.entropy_sum for each in statistics]
    sequence = [each.sequence_entropy for each in statistics]
    low = [each.num_low_entropy for each in statistics]
    entropies = (
        "token_entropy",
        "token_entropy_token_mean",
        "token_entropy_seq_mean",
        "low_entropy_share",
    )
    missing = sum(value is None for value in sequence)
    if missing:
        table.leave_out(_not_recorded("token entropies", missing, len(statistics)), *entropies)
    else:
        per_prompt = _floats(sequence)
        table.add_mean("token_entropy", lambda: per_prompt, ENTROPY_BOUNDS)
        table.add_ratio("token_entropy_token_mean", _floats(sums), tokens, ENTROPY_BOUNDS)
        table.add_ratio("token_entropy_seq_mean", per_prompt * samples, samples, ENTROPY_BOUNDS)
        table.add_ratio("low_entropy_share", _floats(low), tokens)
    nll = [each.nll_sum for each in statistics]
    missing = sum(value is None for value in nll)
    if missing:
        reason = _not_recorded("log probabilities", missing, len(statistics))
        table.leave_out(reason, "sampled_nll", "sequence_nll")
    else:
        table.add_ratio("sampled_nll", _floats(nll), tokens, None)
        table.add_ratio("sequence_nll", _floats(nll), samples, None)


def _not_recorded(what: str, missing: int, total: int) -> str:
    return f"{what} were not recorded for {missing} of {total} prompts"


def _add_diversity(
    table: PromptColumns, statistics: Sequence[PromptStatistics], group_size: int
) -> None:
    texts = [each.text_counts for each in statistics]
    table.add_mean("duplicate_rate", lambda: diversity.collision(texts), SHARE)
    answers = _answer_counts(statistics)
    if answers is None:
        reason = "the verifier extracts no answers"
        table.leave_out(reason, "answer_distinct", "answer_collision", "answer_entropy")
    else:
        most = max((sum(each) for each in answers), default=1)
        highest = float(diversity.answer_entropy([[1] * most])[0]) if most else 0.0
        table.add_mean(
            "answer_distinct",
            lambda: diversity.rarefied_distinct(answers, group_size),
            (1.0, float(group_size)),
        )
        table.add_mean("answer_collision", lambda: diversity.collision(answers), SHARE)
        table.add_mean("answer_entropy", lambda: diversity.answer_entropy(answers), (0.0, highest))
    _add_correct_diversity(table, statistics)


def _answer_counts(statistics: Sequence[PromptStatistics]) -> list[tuple[int, ...]] | None:
    """Answer multiplicities with "no answer" as one of them; ``None`` if no prompt has answers."""
    if all(each.answer_counts is None for each in statistics):
        return None
    return [
        (*(each.answer_counts or ()), each.num_scored - sum(each.answer_counts or ()))
        for each in statistics
    ]


def _add_correct_diversity(table: PromptColumns, statistics: Sequence[PromptStatistics]) -> None:
    counts = [each.correct_counts for each in statistics]
    if any(each is None for each in counts):
        table.leave_out(undefined_success_reason(statistics), "correct_diversity")
        return
    several = np.array([sum(each or ()) >= 2 for each in counts])
    if not several.any():
        table.leave_out("no prompt has two correct rollouts to compare", "correct_diversity")
        return
    values = np.zeros(len(counts))
    chosen = [each or () for each, enough in zip(counts, several, strict=True) if enough]
    values[several] = diversity.correct_diversity(chosen)
    table.add_ratio(
        "correct_diversity", values, several.astype(float), (1.0, 4.0), int(several.sum())
    )


def _add_outcomes(
    table: PromptColumns, statistics: Sequence[PromptStatistics], max_new_tokens: int
) -> None:
    samples = _floats([each.num_samples for each in statistics])
    scored = _floats([each.num_scored for each in statistics])
    tokens = _floats([each.num_tokens for each in statistics])
    longest = float(max(max_new_tokens, (tokens / np.maximum(samples, 1.0)).max()))
    table.add_ratio("truncated_share", _floats([s.num_truncated for s in statistics]), samples)
    table.add_ratio("repetition_share", _floats([s.num_loops for s in statistics]), samples)
    table.add_ratio("verifier_failure_share", _floats([s.num_failed for s in statistics]), samples)
    table.add_ratio("completion_tokens", tokens, samples, (1.0, longest))
    answers = _answer_counts(statistics)
    if answers is None:
        table.leave_out("the verifier extracts no answers", "parse_failure_share")
        return
    table.add_ratio("parse_failure_share", _floats([each[-1] for each in answers]), scored)


def _floats(values: Sequence[float | None]) -> FloatVector:
    return np.array(values, dtype=np.float64)
