"""The judgement in sentences: every figure with its interval, every line with its source."""

from collections.abc import Iterator, Mapping

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.report_record import Component, Metric, RiskLevel
from mlflow_rlrisk.risk import Judgement, Veto
from mlflow_rlrisk.risk.components import HEADROOM, SIGNAL, STARVED, AssessedComponents
from mlflow_rlrisk.risk.luck import LuckLine
from mlflow_rlrisk.thresholds import threshold

BY_SAMPLES_ALONE = (
    "low by the samples alone: nothing in them stands in the way of RL; that the run's learning "
    "rate and length teach these prompts was not tried (rlrisk lookahead)"
)
"""What a ``low`` does not say while the run's first updates were not tried."""


def reasons(
    judgement: Judgement,
    assessed: AssessedComponents,
    metrics: Mapping[str, Metric],
    *,
    config: AssessmentConfig,
    policy: PolicyConfig,
    context: AssessmentContext,
) -> tuple[str, ...]:
    """Why the level is what it is, most decisive first; never empty."""
    words = _Words(metrics, config, policy, context)
    sentences = (
        *(gap.reason for gap in judgement.gaps),
        *words.vetoes(judgement),
        *(words.lacking(name, assessed.not_assessed[name]) for name in judgement.lacking),
        *words.withheld(judgement),
        *(words.component(part) for part in _severe(judgement, assessed, policy)),
        *words.figures(judgement),
    )
    if not sentences:
        return (f"no risk index: {judgement.index_undefined}",)
    if judgement.level is RiskLevel.LOW and assessed.not_assessed:
        alone = (BY_SAMPLES_ALONE,) if "lookahead" in assessed.not_assessed else ()
        return (*sentences, *alone, "not assessed: " + ", ".join(assessed.not_assessed))
    return sentences


def _severe(
    judgement: Judgement, assessed: AssessedComponents, policy: PolicyConfig
) -> list[Component]:
    """Components that say something which no sentence before them does."""
    is_medium = judgement.level is RiskLevel.MEDIUM
    short = judgement.short_of
    is_rare = short is not None and short.name == HEADROOM
    return [
        part
        for part in sorted(assessed.components, key=lambda part: part.order)
        if not (part.name == "verifier" and Veto.VERIFIER in judgement.vetoes)
        and not (is_rare and part.name == "headroom" and part.q <= policy.max_component)
        and (part.q > 0.0 or (part.straddles and is_medium))
    ]


class _Words:
    def __init__(
        self,
        metrics: Mapping[str, Metric],
        config: AssessmentConfig,
        policy: PolicyConfig,
        context: AssessmentContext,
    ) -> None:
        self._metrics = metrics
        self._config = config
        self._policy = policy
        self._context = context

    def _interval(self, value: float, low: float, high: float) -> str:
        if low == high == value:
            return f"{value:.3g}"
        return f"{value:.3g} ({self._config.confidence:.0%} interval {low:.3g} to {high:.3g})"

    def _metric(self, name: str) -> str:
        metric = self._metrics[name]
        return self._interval(metric.value, metric.ci_low, metric.ci_high)

    def vetoes(self, judgement: Judgement) -> list[str]:
        """What makes the level ``high`` by itself, or would."""
        is_unknown = judgement.level is RiskLevel.UNKNOWN
        would = "would weigh heavily once the evidence suffices: " * is_unknown
        return [would + self._veto(v) for v in judgement.vetoes if v is not Veto.INDEX]

    def _veto(self, veto: Veto) -> str:
        size = self._config.group_size
        if veto is Veto.SIGNAL:
            line, signal = self._policy.veto_signal_below, self._metrics[SIGNAL]
            some = "most" if signal.ci_high < 0.5 else f"{1.0 - signal.value:.0%} of the"
            return (
                f"group signal {self._metric(SIGNAL)} is below {line:g}: {some} groups of "
                f"{size} carry no reward difference{self._all_equal()}"
                f" [{self._origin('policy.veto_signal_below', line)}]"
            )
        if veto is Veto.STARVED:
            line, starved = self._policy.veto_starved_above, self._metrics[STARVED]
            some = "most" if starved.ci_low > 0.5 else f"{starved.value:.0%} of the"
            return (
                f"starved share {self._metric(STARVED)} is above {line:g}: {some} prompts are too "
                f"hard for groups of {size} [{self._origin('policy.veto_starved_above', line)}]"
            )
        youden, entry = self._context.verifier_youden_j, threshold("verifier.veto")
        shown = (
            "" if youden is None else self._interval(youden.value, youden.ci_low, youden.ci_high)
        )
        return f"verifier J {shown} is not above 0 [{entry.source}; {entry.scope}]"

    def lacking(self, name: str, why: str) -> str:
        """That ``low`` is withheld until a component is assessed."""
        return f"low needs {name} assessed [policy {self._policy.name}], and it was not: {why}"

    def withheld(self, judgement: Judgement) -> Iterator[str]:
        """What makes a ``medium`` of a ``low``: the group signal, answers that may be chance."""
        is_medium = judgement.level is RiskLevel.MEDIUM
        if is_medium and self._metrics[SIGNAL].ci_low < self._policy.low_signal_from:
            yield self._signal()
        if judgement.short_of is not None:
            yield self._luck(judgement.short_of)

    def _signal(self) -> str:
        line, size = self._policy.low_signal_from, self._config.group_size
        return (
            f"group signal {self._metric(SIGNAL)} is not above {line:g} with its whole interval, "
            f"as low needs at groups of {size}{self._all_equal()}"
            f" [{self._origin('policy.low_signal_from', line)}]"
        )

    def _luck(self, asked: LuckLine) -> str:
        is_stand_in = asked.name == HEADROOM
        where = " where rollouts hardly agree and no first updates were tried" * is_stand_in
        return (
            f"{asked.measure} {self._metric(asked.name)} is not above {asked.line:g} with its "
            f"whole interval, as low needs{where} "
            f"[{self._origin(f'policy.{asked.field}', asked.line)}]"
        )

    def _origin(self, name: str, line: float) -> str:
        """Source and scope of a line; a user's own line does not borrow those of the default."""
        entry = threshold(name)
        if line == entry.values["value"]:
            return f"{entry.source}; {entry.scope}"
        return f"policy {self._policy.name}; set by the user's policy"

    def _all_equal(self) -> str:
        wrong = self._metrics.get(PREFIX + "frac_all_wrong")
        correct = self._metrics.get(PREFIX + "frac_all_correct")
        if wrong is None or correct is None:
            return ""
        return f"; {wrong.value:.0%} are all wrong and {correct.value:.0%} all correct"

    def component(self, part: Component) -> str:
        """One component with its ramp; a straddling interval is said to be one."""
        extra = self._all_equal() if part.name == "starvation" else ""
        unsure = "; the interval straddles a decision line" if part.straddles else ""
        return (
            f"{part.measure} {self._interval(part.x, part.x_low, part.x_high)}: severity "
            f"{part.q:.2f} between {part.ok:g} (no risk) and {part.bad:g} (full){extra}{unsure}"
            f" [{part.source}; {part.scope}]"
        )

    def figures(self, judgement: Judgement) -> Iterator[str]:
        """The index and the calibrated chance, as far as there are any."""
        use = self._policy.calibration
        if judgement.index is not None:
            yield self._index(judgement.index, judgement.probabilities)
        if judgement.fail_probability is not None:
            yield self._calibrated(judgement.fail_probability)
        if use is not None and not use.used:
            yield f"the calibration record is not used: {use.reason}"

    def _calibrated(self, chance: Metric) -> str:
        """The calibrated chance, and what it rests on."""
        use = self._policy.calibration
        line = self._policy.max_fail_probability
        rests = (
            ""
            if use is None
            else f"{counted(use.num_outcomes, 'outcome')} of {counted(use.num_lineages, 'lineage')}"
        )
        record = "" if use is None else f"; record {use.record[:12]}"
        beyond = f", above {line:g}: not low" if chance.value > line else ""
        shown = self._interval(chance.value, chance.ci_low, chance.ci_high)
        by = "" if use is None or use.feature == "risk_index" else ", by its first updates,"
        return f"calibrated chance that RL fails{by} {shown}{beyond} [{rests}{record}]"

    def _index(self, index: Metric, probabilities: Mapping[str, float]) -> str:
        """The index and how the replicates fall."""
        shown = self._interval(index.value, index.ci_low, index.ci_high)
        lines = f"low below {self._policy.low_below:g}, high from {self._policy.high_from:g}"
        if not probabilities:
            return f"risk index {shown} as far as the evidence goes, {lines} [not calibrated]"
        chances = ", ".join(f"{level} {share:.0%}" for level, share in probabilities.items())
        return (
            f"risk index {shown}, {lines}; resampled prompts say {chances} "
            "[convention, not calibrated]"
        )
