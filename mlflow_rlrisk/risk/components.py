"""From metrics and evidence to the components of the risk index, with their draws.

A component reads one quantity. What was not measured is listed as not assessed, never taken as
safe; no quantity enters twice under one name.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.config import ComponentConfig, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import Aggregates
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.report_record import Component
from mlflow_rlrisk.statistics.counts import FloatVector, finite_array
from mlflow_rlrisk.statistics.severity import ramp
from mlflow_rlrisk.thresholds import REGISTRY

SIGNAL = PREFIX + "group_signal_fraction"
ALL_WRONG = PREFIX + "frac_all_wrong"
STARVED = PREFIX + "starved_share"
HEADROOM = PREFIX + "headroom"
TRUNCATED = PREFIX + "truncated_share"
ENTROPY = PREFIX + "token_entropy"
ENTROPY_ESTIMATE = PREFIX + "token_entropy_estimate"
ENTROPY_RELATIVE = PREFIX + "token_entropy_relative"
OVERLAP = PREFIX + "sft_rl_overlap"
MISMATCH = PREFIX + "mismatch_k3_kl"
PASS_AT_1 = PREFIX + "pass_at_1"
PASS_AT_64 = PREFIX + "pass_at_64"
NO_AUDIT = "no labelled answers: rlrisk audit-verifier --audit FILE --rollouts FOLDER"
NO_LOOKAHEAD = "first updates of the RL run were not tried: rlrisk lookahead"
MOST_ATTEMPTS = 64
"""Attempts at which coverage is read, where so many were sampled."""

CORE = {
    "starvation": SIGNAL,
    "uncovered": PASS_AT_1,
    "headroom": HEADROOM,
    "entropy_abs": ENTROPY,
    "truncation": TRUNCATED,
}
"""Components that every assessment must have, as far as the policy names them, and the metric
without which there is none. There is a pass@k to read wherever there is a pass@1."""


READS = {
    **CORE,
    "entropy_rel": ENTROPY_RELATIVE,
    "overlap": OVERLAP,
    "mismatch": MISMATCH,
}
"""Metric that a component reads as it is; the others combine evidence beside the rollouts."""

STAND_IN = {ENTROPY: ENTROPY_ESTIMATE}
"""What a component reads, named as what it is, where its own metric is undefined: unbiased, so
that its interval over prompts holds the exact value as often as it says."""


def reading_of(component: str, values: Mapping[str, float]) -> float | None:
    """What a component reads off bare metrics; ``None`` where they do not hold it."""
    name = metric_of(component, values)
    if name is None:
        return None
    if component == "starvation" and ALL_WRONG in values:
        return float(unsolved_signal(values[name], values[ALL_WRONG]))
    return values[name]


def unsolved_signal(signal: npt.ArrayLike, all_wrong: npt.ArrayLike) -> FloatVector:
    """Of the groups that are not all right, the share with a reward difference. Larger is safer.

    Where every group is all right none is starved: 1, the limit as success nears 1.

    Args:
        signal: Shares of groups with a reward difference, any shape.
        all_wrong: Shares of groups that are all wrong, the same shape.

    Raises:
        StatisticsError: A share is not finite.

    >>> unsolved_signal([0.5, 0.01, 0.0, 0.0], [0.0, 0.49, 0.2, 0.0]).tolist()
    [1.0, 0.02, 0.0, 1.0]
    """
    mixed, wrong = finite_array("signal", signal), finite_array("all_wrong", all_wrong)
    # Graded rewards below the threshold of success are all wrong and differ: they count as mixed.
    left = mixed + np.minimum(wrong, np.maximum(1.0 - mixed, 0.0))
    return np.divide(mixed, left, out=np.ones_like(left), where=left > 0.0)


def metric_of(component: str, known: Container[str]) -> str | None:
    """The metric, among those ``known``, that a component reads; ``None`` where there is none.

    Coverage is pass@64, or pass@k at the most attempts sampled: fewer never read as safer.
    """
    if component == "uncovered":
        names = (f"{PREFIX}pass_at_{k}" for k in range(MOST_ATTEMPTS, 0, -1))
        return next((name for name in names if name in known), None)
    wanted = READS.get(component)
    if wanted is None or wanted in known:
        return wanted
    stand_in = STAND_IN.get(wanted)
    return stand_in if stand_in is not None and stand_in in known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a component reads: the estimate, its interval and its draws ``[B]``."""

    measure: str
    value: float
    low: float
    high: float
    draws: FloatVector


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessedComponents:
    """Components, their quantities in the same order, and why the others are missing."""

    components: tuple[Component, ...]
    quantities: tuple[Quantity, ...]
    not_assessed: dict[str, str]

    def find(self, name: str) -> Quantity | None:
        """The quantity of a component, ``None`` where it was not assessed."""
        for component, quantity in zip(self.components, self.quantities, strict=True):
            if component.name == name:
                return quantity
        return None


class Quantities:
    """Looks up what each component reads.

    Args:
        aggregates: Metrics and draws.
        context: Evidence beside the rollouts.
        confidence: Level of the intervals of the evidence.
        seed: Seed of the draws of evidence, apart from that of the prompts.
        made_at: Level of the intervals that are made here; ``None`` takes that of the evidence.
    """

    def __init__(
        self,
        aggregates: Aggregates,
        context: AssessmentContext,
        confidence: float,
        seed: int,
        made_at: float | None = None,
    ) -> None:
        self._aggregates = aggregates
        self._context = context
        self._given_at, self._made_at = confidence, made_at or confidence
        self._rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
        self._num_draws = max((draws.size for draws in aggregates.draws.values()), default=0)

    def of(self, component: str) -> Quantity | str:
        """The quantity of ``component``, or the reason why there is none.

        Raises:
            ConfigError: There is no component of this name.
        """
        context = self._context
        readers: dict[str, Callable[[], Quantity | str]] = {
            "starvation": self._starvation,
            "uncovered": self._uncovered,
            "headroom": lambda: self._metric(HEADROOM, "pass@1 over critical success"),
            "entropy_abs": self._entropy,
            "entropy_rel": lambda: self._metric(ENTROPY_RELATIVE, "token entropy over reference"),
            "coverage": self._coverage,
            "gen_loss": self._generalisation_loss,
            "verifier": self._verifier,
            "truncation": lambda: self._metric(TRUNCATED, "truncated share"),
            "overlap": lambda: self._given(context.sft_rl_overlap, "RL prompts in the SFT data"),
            "mismatch": lambda: self._given(context.mismatch_kl, "trainer-sampler KL (nats)"),
            "lookahead": self._lookahead,
        }
        if component not in readers:
            known = ", ".join(readers)
            raise ConfigError(f"components.{component}", component, f"unknown; known: {known}")
        return readers[component]()

    def _metric(self, name: str, measure: str) -> Quantity | str:
        metric = self._aggregates.metrics.get(name)
        if metric is None:
            return self._aggregates.undefined.get(name, f"{name} was not measured")
        return Quantity(
            measure=measure,
            value=metric.value,
            low=metric.ci_low,
            high=metric.ci_high,
            draws=self._aggregates.draws[name],
        )

    def _starvation(self) -> Quantity | str:
        """The signal where something is left to learn; as it is where success is undefined."""
        signal = self._metric(SIGNAL, "group signal")
        wrong = self._metric(ALL_WRONG, "groups all wrong")
        if isinstance(signal, str) or isinstance(wrong, str):
            return signal
        return self._combined(
            "group signal among groups not all right",
            unsolved_signal(signal.draws, wrong.draws),
            float(unsolved_signal(signal.value, wrong.value)),
        )

    def _uncovered(self) -> Quantity | str:
        name = metric_of("uncovered", self._aggregates.metrics) or PASS_AT_1
        return self._metric(name, "pass@" + name.removeprefix(PREFIX + "pass_at_"))

    def _entropy(self) -> Quantity | str:
        if ENTROPY not in self._aggregates.metrics and ENTROPY_ESTIMATE in self._aggregates.metrics:
            label = "token entropy (nats), unbiased estimate from top logprobs"
            return self._metric(ENTROPY_ESTIMATE, label)
        return self._metric(ENTROPY, "token entropy (nats)")

    def _given(self, evidence: Evidence | None, measure: str) -> Quantity | str:
        if evidence is None:
            return f"{measure}: no evidence was given"
        return Quantity(
            measure=measure,
            value=evidence.value,
            low=evidence.ci_low,
            high=evidence.ci_high,
            draws=evidence.draws(self._num_draws, self._given_at, self._rng),
        )

    def _coverage(self) -> Quantity | str:
        sibling = self._given(self._context.sibling_pass_at_64, "pass@64 of the best sibling")
        own = self._metric(PASS_AT_64, "pass@64")
        if isinstance(sibling, str):
            return sibling
        if isinstance(own, str):
            return own
        return self._combined(
            "pass@64 less the best sibling's", own.draws - sibling.draws, own.value - sibling.value
        )

    def _generalisation_loss(self) -> Quantity | str:
        label = "held-out SFT loss above the lineage's lowest, relative"
        if self._context.heldout_rise is not None:
            return self._given(self._context.heldout_rise, label)
        if self._context.heldout_rise_undefined is not None:
            return self._context.heldout_rise_undefined
        loss = self._given(self._context.heldout_loss, "held-out SFT loss")
        lowest = self._given(self._context.lowest_heldout_loss, "lowest held-out SFT loss")
        if isinstance(loss, str):
            return loss
        if isinstance(lowest, str):
            return lowest
        if lowest.low <= 0.0:
            return (
                f"lowest held-out SFT loss {lowest.low:.3g}: a relative rise needs a positive one"
            )
        floor = np.maximum(lowest.draws, lowest.low)
        return self._combined(
            label,
            loss.draws / floor - 1.0,
            loss.value / lowest.value - 1.0,
        )

    def _combined(self, measure: str, draws: FloatVector, value: float) -> Quantity:
        tail = (1.0 - self._made_at) / 2.0
        low, high = (float(end) for end in np.quantile(draws, [tail, 1.0 - tail]))
        return Quantity(
            measure=measure, value=value, low=min(low, value), high=max(high, value), draws=draws
        )

    def _verifier(self) -> Quantity | str:
        """The lower end of J: an audit too small to show a good verifier does not show one."""
        evidence = self._context.verifier_youden_j
        if evidence is None:
            return NO_AUDIT
        return self._lower_end("lower end of the verifier's J = TPR - FPR", evidence.ci_low)

    def _lookahead(self) -> Quantity | str:
        """The lower end here too: updates that may have changed nothing do not show learning."""
        evidence = self._context.lookahead_reach
        if evidence is None:
            return self._context.lookahead_undefined or NO_LOOKAHEAD
        label = f"lower end of the gap closed at the pace of the first updates ({evidence.source})"
        return self._lower_end(label, evidence.ci_low)

    def _lower_end(self, measure: str, low: float) -> Quantity:
        draws = np.full(self._num_draws, low)
        return Quantity(measure=measure, value=low, low=low, high=low, draws=draws)


def assess_components(quantities: Quantities, policy: PolicyConfig) -> AssessedComponents:
    """Every component of ``policy`` for which there is a quantity, in the policy's order."""
    components: list[Component] = []
    found: list[Quantity] = []
    missing: dict[str, str] = {}
    for name, line in policy.components.items():
        quantity = quantities.of(name)
        if isinstance(quantity, str):
            missing[name] = quantity
            continue
        components.append(_component(name, quantity, line, policy))
        found.append(quantity)
    return AssessedComponents(
        components=tuple(components), quantities=tuple(found), not_assessed=missing
    )


def _component(
    name: str, quantity: Quantity, line: ComponentConfig, policy: PolicyConfig
) -> Component:
    ends = ramp([quantity.value, quantity.low, quantity.high], line.ok, line.bad) + 0.0  # no -0
    q, q_low, q_high = float(ends[0]), float(ends[1:].min()), float(ends[1:].max())
    straddles = q_low <= policy.max_component < q_high
    registered = REGISTRY[f"component.{name}"]
    defaults = {"ok": line.ok, "bad": line.bad, "weight": line.weight} == registered.values
    return Component(
        name=name,
        measure=quantity.measure,
        x=quantity.value,
        x_low=quantity.low,
        x_high=quantity.high,
        q=q,
        q_high=max(q, q_high),
        weight=line.weight,
        contribution=line.weight * q,
        ok=line.ok,
        bad=line.bad,
        source=registered.source if defaults else f"policy {policy.name}",
        scope=registered.scope if defaults else "set by the user's policy",
        straddles=straddles,
    )
