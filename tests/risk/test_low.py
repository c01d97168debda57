"""What a level needs to be ``low``: whole intervals on the safe side of the lines."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.metrics.aggregate import Aggregates
from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.risk.luck import AGREEMENT
from tests.judgements import HEALTHY, aggregates, judged, metric


def test_low_needs_the_upper_end_of_the_index_and_no_severe_component() -> None:
    wide = np.linspace(0.70, 0.88, 200)  # the index straddles .25 while its mean is below

    assert judged(aggregates({**HEALTHY, "uncovered": wide})).level is RiskLevel.MEDIUM
    # A guard of severity .6 adds nothing to the index, and is not mild for that.
    severe = judged(aggregates({**HEALTHY, "entropy_abs": 0.24 - 0.6 * 0.06}))
    assert severe.index is not None
    assert severe.index.ci_high < 0.25
    assert severe.level is RiskLevel.MEDIUM


def test_low_needs_the_whole_interval_of_the_signal_above_its_line() -> None:
    astride = judged(aggregates({**HEALTHY, "starvation": np.linspace(0.70, 0.90, 200)}))
    above = judged(aggregates({**HEALTHY, "starvation": np.linspace(0.75, 0.90, 200)}))

    assert (astride.level, above.level) == (RiskLevel.MEDIUM, RiskLevel.LOW)
    assert astride.index is not None
    assert astride.index.ci_high < 0.25
    assert astride.probabilities["low"] == pytest.approx(0.75, abs=0.01)


def test_low_needs_the_whole_interval_of_the_headroom_from_its_line_on() -> None:
    astride = judged(aggregates({**HEALTHY, "headroom": np.linspace(3.9, 5.9, 200)}))
    above = judged(aggregates({**HEALTHY, "headroom": np.linspace(4.0, 5.9, 200)}))
    below = judged(aggregates({**HEALTHY, "headroom": 3.99}), PolicyConfig(low_headroom_from=3.9))

    assert (astride.level, above.level) == (RiskLevel.MEDIUM, RiskLevel.LOW)
    assert below.level is RiskLevel.LOW
    assert astride.probabilities["low"] == pytest.approx(0.95, abs=0.01)
    assert astride.index is not None
    assert astride.index.ci_high < 0.25


def with_agreement(draws: Any, num_prompts: int = 200, **values: Any) -> Aggregates:
    """Healthy aggregates with ``values``, and an agreement of so many prompts."""
    found = aggregates({**HEALTHY, **values})
    drawn = np.broadcast_to(np.asarray(draws, dtype=float), (200,)).copy()
    found.draws[AGREEMENT] = drawn
    told = replace(metric(drawn), num_prompts=num_prompts)
    return replace(found, metrics={**found.metrics, AGREEMENT: told})


def test_low_needs_the_whole_interval_of_the_agreement_from_its_line_on() -> None:
    astride = judged(with_agreement(np.linspace(0.45, 0.85, 200)))
    above = judged(with_agreement(np.linspace(0.50, 0.85, 200)))
    below = judged(with_agreement(0.45), PolicyConfig(low_agreement_from=0.4))

    assert (astride.level, above.level) == (RiskLevel.MEDIUM, RiskLevel.LOW)
    assert below.level is RiskLevel.LOW
    assert astride.probabilities["low"] == pytest.approx(0.875, abs=0.01)
    assert astride.index is not None
    assert astride.index.ci_high < 0.25


def test_agreement_is_asked_for_whether_or_not_the_first_updates_were_tried() -> None:
    tried = AssessmentContext(lookahead_reach=Evidence.exact(0.6, "tried"))

    assert judged(with_agreement(0.45), context=tried).level is RiskLevel.MEDIUM
    assert judged(with_agreement(0.55), context=tried).level is RiskLevel.LOW


def test_the_headroom_is_asked_for_only_where_too_few_prompts_tell_whether_rollouts_agree() -> None:
    many, few = (with_agreement(0.9, number, headroom=3.0) for number in (50, 49))
    wrong = with_agreement(0.1, 49)

    assert judged(many).level is RiskLevel.LOW
    assert judged(few).level is RiskLevel.MEDIUM
    assert judged(wrong).level is RiskLevel.LOW
    # A policy that asks for more prompts does not ask for less agreement.
    assert judged(with_agreement(0.45, 60)).level is RiskLevel.MEDIUM
    strict = PolicyConfig(min_prompts=150)
    assert judged(with_agreement(0.45, 60), strict).level is RiskLevel.MEDIUM
    # A policy that asks for none asks for the headroom instead.
    not_asked = PolicyConfig(low_agreement_from=0.0)
    assert judged(many, not_asked).level is RiskLevel.MEDIUM
    assert judged(with_agreement(0.1), not_asked).level is RiskLevel.LOW


def test_where_the_first_updates_were_tried_they_tell_more_than_the_headroom() -> None:
    rare = aggregates({**HEALTHY, "headroom": 3.0})
    tried, failing = (
        AssessmentContext(lookahead_reach=Evidence.exact(reach, "tried")) for reach in (0.6, 0.1)
    )

    without, learning, idle = (judged(rare, context=given) for given in (None, tried, failing))

    assert [each.level for each in (without, learning, idle)] == [
        RiskLevel.MEDIUM,
        RiskLevel.LOW,
        RiskLevel.MEDIUM,
    ]
    assert (without.probabilities["low"], learning.probabilities["low"]) == (0.0, 1.0)
    # A headroom that is severe withholds it all the same.
    severe = aggregates({**HEALTHY, "headroom": 2.4})
    assert judged(severe, context=tried).level is RiskLevel.MEDIUM


def test_a_policy_that_names_no_headroom_has_no_line_of_it() -> None:
    kept = {name: line for name, line in DEFAULT_COMPONENTS.items() if name != "headroom"}

    judgement = judged(aggregates({**HEALTHY, "headroom": 3.0}), PolicyConfig(components=kept))

    assert judgement.level is RiskLevel.LOW
