"""Several reports side by side: may they be compared, and do pass@1 and risk order them alike?

Reports of other prompts, samplers, verifiers or tokenizers measured other things. They are
refused with the names of what differs, never ranked with a footnote.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from mlflow_rlrisk.errors import ComparabilityError
from mlflow_rlrisk.metrics.catalogue import PREFIX, pass_at_k_name
from mlflow_rlrisk.report_record import TEMPLATED, Metric, RiskLevel, RiskReport
from mlflow_rlrisk.statistics.ranks import evened

PASS_AT_1 = pass_at_k_name(1)
HELDOUT = PREFIX + "heldout_nll"

_RISK_ORDER = {
    RiskLevel.LOW: 0,
    RiskLevel.MEDIUM: 1,
    RiskLevel.HIGH: 2,
    RiskLevel.UNKNOWN: 3,
}
TEMPLATE = "chat template"
_JUDGES_NOTHING = {"name", "required_level"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedReport:
    """One line of a comparison.

    Attributes:
        model: The model reference.
        risk_level: Its level.
        risk_index: Its index with interval, where it is defined.
        pass_at_1: Its pass@1 with interval, where it is defined.
        risk_rank: 1 is the safest; unknown levels come last, equal ones share a rank.
        pass_at_1_rank: 1 is the highest; undefined values come last, equal ones share a rank.
        metrics: All its metrics.
    """

    model: str
    risk_level: RiskLevel
    risk_index: Metric | None
    pass_at_1: Metric | None
    risk_rank: int
    pass_at_1_rank: int
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A pair that pass@1 and risk order the other way round."""

    higher_pass_at_1: str
    lower_risk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Reports from the safest to the riskiest, and where pass@1 disagrees.

    Attributes:
        entries: The reports, safest first, unknown levels last.
        disagreements: Pairs in which the model with the higher pass@1 is the riskier one.
            The estimates are compared; whether a difference is resolved by the prompts is not
            said here, for two intervals side by side do not tell.
        are_tops_different: True when a safer model than the best by pass@1 exists.
    """

    entries: tuple[RankedReport, ...]
    disagreements: tuple[Disagreement, ...]
    are_tops_different: bool

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        raw = asdict(self)
        raw["entries"] = [
            {**each, "risk_level": str(each["risk_level"])} for each in raw["entries"]
        ]
        raw["disagreements"] = list(raw["disagreements"])
        return raw


def check_comparable(reports: Sequence[RiskReport]) -> None:
    """Refuse reports that measured other things.

    The seed, the policy's name, the promoted level and a chat template that no text went through
    may differ; everything else that moves a number or a level must agree. So must the components
    of the index, where there is one: each can only raise it, and the report with more evidence
    would look riskier for having it.

    Raises:
        ComparabilityError: Names everything that differs, or a digest that was not recorded.
    """
    faults = []
    is_raw = all(map(_is_raw, reports))
    for what, read in _MUST_AGREE.items():
        if is_raw and what == TEMPLATE:
            continue
        values = [read(report) for report in reports]
        if any(value != values[0] for value in values[1:]):
            faults.append(f"{what} ({_apart(reports, [_short(value) for value in values])})")
    dtypes = {report.provenance.sampler.get("dtype") for report in reports} - {None}
    if len(dtypes) > 1:  # stored rollouts of other tools do not say
        faults.append(f"dtype of the weights ({' vs '.join(sorted(map(str, dtypes)))})")
    judged = [report for report in reports if report.risk_index is not None]
    parts = [_components(report) for report in judged]
    in_all = set(parts[0]).intersection(*parts) if parts else set()
    own = [", ".join(part for part in each if part not in in_all) or "none" for each in parts]
    if len(set(own)) > 1:
        faults.append(f"components of the index ({_apart(judged, own)})")
    for what in ("prompts", "verifier"):
        missing = [report for report in reports if not report.provenance.digests.get(what)]
        if missing:
            faults.append(f"{what} (digest not recorded in {len(missing)} of {len(reports)})")
    if faults:
        raise ComparabilityError("the reports measured other things: " + "; ".join(faults))


def _is_raw(report: RiskReport) -> bool:
    """True where no prompt went through the template; of expert data nothing is recorded."""
    return report.provenance.sampler.get(TEMPLATED) == 0 and HELDOUT not in report.metrics


def _digest(name: str) -> Callable[[RiskReport], object]:
    return lambda report: report.provenance.digests.get(name)


def _sampling(name: str) -> Callable[[RiskReport], object]:
    return lambda report: getattr(report.config.sampling, name)


def _lines(report: RiskReport) -> object:
    return report.policy.model_dump(mode="json", exclude=_JUDGES_NOTHING)


_MUST_AGREE: dict[str, Callable[[RiskReport], object]] = {
    "prompts": _digest("prompts"),
    "tokenizer": _digest("tokenizer"),
    TEMPLATE: _digest("template"),
    "verifier": _digest("verifier"),
    **{
        f"sampling.{name}": _sampling(name)
        for name in (
            "num_samples",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "stop",
            "max_new_tokens",
            "chat_template",
        )
    },
    "sampling.chat_template_kwargs": lambda report: json.dumps(
        report.config.sampling.chat_template_kwargs, ensure_ascii=False
    ),
    "number of prompts": lambda report: report.num_prompts if report.budget is None else "auto",
    "rollouts a prompt": lambda report: _rollouts(report) if report.budget is None else "auto",
    "group size": lambda report: report.config.group_size,
    "success threshold": lambda report: report.config.success_threshold,
    "confidence": lambda report: report.config.confidence,
    "policy": _lines,
}


def _components(report: RiskReport) -> tuple[str, ...]:
    """What enters the index. Starvation was read off the group signal alone once."""
    return tuple(
        sorted(
            f"{part.name}: {part.measure}" if part.name == "starvation" else part.name
            for part in report.components
            if part.weight > 0.0
        )
    )


def _rollouts(report: RiskReport) -> str:
    """As drawn: stored rollouts may be others than the settings ask for."""
    return f"{report.num_rollouts / max(report.num_prompts, 1):g}"


def _apart(reports: Sequence[RiskReport], shown: Sequence[str]) -> str:
    """What each report has; beside all but the first, the models that have it."""
    first = reports[0].provenance.model_reference
    told = []
    for value in dict.fromkeys(shown):
        holders = dict.fromkeys(
            report.provenance.model_reference
            for report, own in zip(reports, shown, strict=True)
            if own == value
        )
        told.append(value if first in holders else f"{value} of {', '.join(holders)}")
    return " vs ".join(told)


def _short(value: object) -> str:
    text = "policy lines" if isinstance(value, dict) else str(value)
    return text[:12] if len(text) == 64 else text  # a digest is recognised by its beginning


def rank(reports: Sequence[RiskReport]) -> Comparison:
    """Order comparable reports by risk, and mark where pass@1 would order them otherwise.

    Raises:
        ComparabilityError: The reports measured other things, or there is none.
    """
    if not reports:
        raise ComparabilityError("there is no report to compare")
    check_comparable(reports)
    levels = [_RISK_ORDER[report.risk_level] for report in reports]
    risks = list(zip(levels, evened([_index(each) for each in reports]).tolist(), strict=True))
    passes = evened([_pass_at_1(report) for report in reports]).tolist()
    by_risk = sorted(range(len(reports)), key=lambda place: risks[place])
    names = [report.provenance.model_reference for report in reports]
    best = names[max(by_risk, key=lambda place: passes[place])]  # of several the safest
    entries = tuple(
        RankedReport(
            model=names[place],
            risk_level=reports[place].risk_level,
            risk_index=reports[place].metrics.get("rlrisk/risk_index"),
            pass_at_1=reports[place].metrics.get(PASS_AT_1),
            risk_rank=1 + sum(other < risks[place] for other in risks),
            pass_at_1_rank=1 + sum(other > passes[place] for other in passes),
            metrics=reports[place].metrics,
        )
        for place in by_risk
    )
    known = [p for p in by_risk if reports[p].risk_level is not RiskLevel.UNKNOWN]
    disagreements = tuple(
        Disagreement(higher_pass_at_1=names[riskier], lower_risk=names[safer])
        for safer, riskier in combinations(known, 2)
        if risks[safer] < risks[riskier] and passes[safer] < passes[riskier]
    )
    return Comparison(
        entries=entries,
        disagreements=disagreements,
        are_tops_different=any(pair.higher_pass_at_1 == best for pair in disagreements),
    )


def _index(report: RiskReport) -> float:
    return math.inf if report.risk_index is None else report.risk_index


def _pass_at_1(report: RiskReport) -> float:
    metric = report.metrics.get(PASS_AT_1)
    return -math.inf if metric is None else metric.value
