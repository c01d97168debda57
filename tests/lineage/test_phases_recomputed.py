"""Phase labels against a recomputation without any resampling: analytic paired errors."""

from math import comb, sqrt

import numpy as np
import pytest

from mlflow_rlrisk.lineage import LineageMember, trace_lineage
from tests.lineage.ladders import beta_rates, drawn, member

SAMPLES, GROUP = 32, 8
DEEP = SAMPLES // 2


def columns(one: LineageMember) -> dict[str, np.ndarray]:
    ordered = sorted(one.statistics, key=lambda each: each.prompt_id)
    solved = [each.num_correct or 0 for each in ordered]
    wrong = [SAMPLES - count for count in solved]
    # The right answer is among a group or not; the wrong ones in it are all different.
    distinct = [1.0 - comb(w, GROUP) / comb(SAMPLES, GROUP) + GROUP * w / SAMPLES for w in wrong]
    return {
        "pass": np.array(solved) / SAMPLES,
        "deep": np.array([1.0 - comb(w, DEEP) / comb(SAMPLES, DEEP) for w in wrong]),
        "distinct": np.array(distinct),
        "entropy": np.array([each.sequence_entropy for each in ordered]),
    }


def is_above(left: np.ndarray, right: np.ndarray) -> bool:
    difference = left - right
    return bool(difference.mean() > 1.96 * difference.std() / sqrt(difference.size))


def recomputed(series: list[LineageMember]) -> list[str]:
    found = [columns(each) for each in series]
    labels = ["base"]
    for place in range(1, len(found)):
        here, before = found[place], found[place - 1]
        rises = is_above(here["pass"], before["pass"])
        peaks = {
            name: max((each[name] for each in found[1:place]), key=np.mean)
            for name in ("entropy", "distinct", "deep")
            if place > 1
        }
        lost = any(is_above(peak, here[name]) for name, peak in peaks.items())
        if lost and (not rises or labels[-1] == "overfit"):
            labels.append("overfit")
        elif rises:
            labels.append("readapt")
        elif is_above(found[0]["pass"], here["pass"]):
            labels.append("shift")
        else:
            labels.append("unclear")
    return labels


@pytest.mark.parametrize("seed", range(6))
def test_labels_that_the_resamples_agree_on_are_those_of_analytic_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    series = [
        member(
            f"c{i}", drawn(beta_rates(*rng.uniform(0.3, 4.0, size=2)), SAMPLES, h, 10 * seed + i)
        )
        for i, h in enumerate(rng.uniform(0.05, 0.6, size=6))
    ]

    labels = trace_lineage(series, base="c0").phases.labels

    sure = [place for place, label in enumerate(labels) if label.confidence > 0.8]
    assert len(sure) >= 4
    expected = recomputed(series)
    assert [str(labels[place].phase) for place in sure] == [expected[place] for place in sure]
