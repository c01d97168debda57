"""What a level needs to be ``low``: whole intervals on the safe side of the lines."""

import numpy as np
import pytest

from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.report import RiskLevel
from tests.judgements import HEALTHY, aggregates, judged


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
