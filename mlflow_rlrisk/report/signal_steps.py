"""What brings more groups with a reward difference."""

from collections.abc import Mapping, Sequence

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import InsufficientRolloutsError
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.metrics.success_columns import success_counts
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report_record import Metric
from mlflow_rlrisk.risk.components import SIGNAL
from mlflow_rlrisk.statistics.beta_binomial import BetaBinomialFit, beta_signal, fit_beta_binomial
from mlflow_rlrisk.statistics.groups import LARGEST_GROUP, smallest_group_size
from mlflow_rlrisk.thresholds import threshold

SHALLOWER = (
    "assess a shallower checkpoint of the same SFT run (rlrisk compare): "
    "depth often narrows what is sampled"
)


def signal_steps(
    metrics: Mapping[str, Metric],
    statistics: Sequence[PromptStatistics],
    config: AssessmentConfig,
) -> list[str]:
    """Prompts, depth, group size and cost, each with the figure that says so."""
    steps: list[str] = []
    wrong = metrics.get(PREFIX + "frac_all_wrong")
    correct = metrics.get(PREFIX + "frac_all_correct")
    if wrong is not None and correct is not None:
        if correct.value > wrong.value:
            steps.append(
                f"replace prompts that are always solved by harder ones: {correct.value:.0%} of "
                f"groups of {config.group_size} are all correct"
            )
        else:
            steps.append(
                f"mix in prompts that are sometimes solved: {wrong.value:.0%} of groups of "
                f"{config.group_size} are all wrong"
            )
        # Neither end outweighs the other twice: the prompts are split, not just too hard or easy.
        if 2.0 * min(wrong.value, correct.value) > max(wrong.value, correct.value):
            steps.append(SHALLOWER)
    steps += _group_size_step(statistics, config)
    signal = metrics[SIGNAL].value
    if signal > 0.0:
        steps.append(
            f"reckon with {1.0 / signal:.1f} times the rollouts if groups without signal are "
            "sampled again (dynamic sampling)"
        )
    return steps


def _group_size_step(statistics: Sequence[PromptStatistics], config: AssessmentConfig) -> list[str]:
    fit = beta_fit(statistics)
    if fit is None:
        return []
    target = threshold("group_size.target_signal").values["value"]
    if fit.is_misfit and not (fit.zero_inflated or fit.one_inflated):
        return [
            "do not count on larger groups: these prompts are of several kinds, so the "
            "Beta-binomial fit cannot say what size would carry signal"
        ]
    if not fit.can_extrapolate:
        return [
            "do not count on larger groups: too many prompts are always wrong or always correct "
            "for the Beta-binomial fit to say what size would carry signal"
        ]
    wanted = smallest_group_size(lambda size: float(beta_signal(fit.alpha, fit.beta, size)), target)
    if wanted is None:
        return [
            f"do not count on larger groups: by the Beta-binomial fit none up to {LARGEST_GROUP} "
            f"brings the group signal to {target:g}"
        ]
    if wanted <= config.group_size:
        return []
    return [
        f"groups of {wanted} would bring the expected group signal to {target:g} by the "
        f"Beta-binomial fit, at {wanted / config.group_size:.1f} times the rollouts per prompt"
    ]


def beta_fit(statistics: Sequence[PromptStatistics]) -> BetaBinomialFit | None:
    """Beta-binomial fit over the prompts, to say what signal other groups would carry.

    ``None`` where success or the fit is undefined, and where rewards tell more apart than
    success: their signal does not follow from solve rates.
    """
    counts = success_counts(statistics)
    if counts is None or not rewards_are_success(statistics):
        return None
    try:
        return fit_beta_binomial(*counts)
    except InsufficientRolloutsError:
        return None


def rewards_are_success(statistics: Sequence[PromptStatistics]) -> bool:
    """True when rewards take two values at most, and the higher one is success."""
    values = {reward for each in statistics for reward in each.rewards}
    if len(values) < 2:
        return True
    highest = max(values)
    return len(values) == 2 and all(
        each.rewards.count(highest) == each.num_correct for each in statistics
    )
