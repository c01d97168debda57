import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from mlflow_rlrisk.calibration import CalibrationRecord, calibrate, formula_digest, index_of
from mlflow_rlrisk.calibration.curves import Kind, fit_curve
from mlflow_rlrisk.calibration.validation import (
    INDEX,
    brier_interval,
    out_of_lineage,
    risks_of,
)
from mlflow_rlrisk.errors import ConfigError, StatisticsError
from tests.calibration.simulated import COMPONENTS, outcome, outcomes


def test_nothing_is_calibrated_below_eight_outcomes_and_the_record_says_so() -> None:
    record = calibrate(outcomes(7, num_lineages=3), COMPONENTS)

    assert record.content["model"] == {"kind": "none", "feature": "risk_index", "curve": []}
    assert not record.is_used
    assert "7 checkpoints" in record.reasons[0]
    assert record.content["validation"] is None


@pytest.mark.parametrize(
    ("num", "lineages", "kind"),
    [(8, 3, "logistic"), (30, 3, "logistic"), (31, 3, "isotonic"), (40, 2, "none")],
)
def test_the_model_follows_from_the_number_of_outcomes_and_lineages(
    num: int, lineages: int, kind: str
) -> None:
    record = calibrate(outcomes(num, num_lineages=lineages), COMPONENTS)

    assert record.content["model"]["kind"] == kind
    assert record.is_used <= (kind != "none")


def test_outcomes_that_all_failed_or_all_held_draw_no_line() -> None:
    rows = [replace(row, failed=False) for row in outcomes(20)]

    record = calibrate(rows, COMPONENTS)

    assert record.content["model"]["kind"] == "none"
    assert "none of the 20" in record.reasons[0]


def test_an_index_that_failure_follows_beats_noise_and_is_used() -> None:
    record = calibrate(outcomes(120, seed=1), COMPONENTS)

    scores = record.content["validation"]["predictors"]
    assert record.is_used
    assert scores["risk_index"]["brier"] == min(each["brier"] for each in scores.values())
    assert scores["risk_index"]["skill"] > 0.3
    assert scores["risk_index"]["brier_low"] < scores["risk_index"]["brier"]
    assert scores["risk_index"]["brier"] < scores["risk_index"]["brier_high"]
    assert record.content["validation"]["ece"] < 0.2


def test_the_interval_of_a_score_is_students_over_the_means_of_equal_lineages() -> None:
    rng = np.random.default_rng(0)
    chances, failed = rng.random((5, 24)), rng.random((5, 24)) < rng.beta(2.0, 4.0, (5, 1))
    lineages = np.repeat(list("abcde"), 24).tolist()

    found = brier_interval(chances.ravel(), failed.ravel(), lineages)

    means = ((chances - failed) ** 2).mean(axis=1)
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_score_holds_that_of_lineages_not_seen() -> None:
    held, runs = 0, 1000
    for run in range(runs):
        rng = np.random.default_rng(run)
        sizes = rng.integers(10, 31, 6)
        lineages = np.repeat(list("abcdef"), sizes)
        wrong = rng.random(sizes.sum()) < np.repeat(rng.beta(3.0, 6.0, 6), sizes)
        low, high = brier_interval(np.zeros(sizes.sum()), wrong, lineages.tolist())
        held += low <= 1 / 3 <= high

    assert 0.92 * runs < held < 0.97 * runs


def test_an_index_that_says_nothing_is_not_used() -> None:
    unused = [
        calibrate(outcomes(60, seed=seed, strength=0.0), COMPONENTS).is_used for seed in range(12)
    ]

    assert sum(unused) <= 4  # of five noisy predictors and a constant, one must be ahead by luck


def test_a_rival_that_predicts_as_the_index_does_is_shown_and_keeps_it_from_nothing() -> None:
    rows = [
        replace(row, metrics={**row.metrics, "rlrisk/pass_at_64": 0.999 - row.index})
        for row in outcomes(120, seed=1)
    ]

    record = calibrate(rows, COMPONENTS)

    scores = record.content["validation"]["predictors"]
    assert scores["pass_at_64"]["brier"] == pytest.approx(scores["risk_index"]["brier"])
    assert record.is_used
    assert "pass_at_64 makes the same predictions as the index" in record.reasons


def test_a_better_rival_keeps_the_index_from_being_used() -> None:
    rows = [
        replace(row, metrics={**row.metrics, "rlrisk/pass_at_64": 0.1 if row.failed else 0.9})
        for row in outcomes(60, seed=2, strength=4.0)
    ]

    record = calibrate(rows, COMPONENTS)

    assert not record.is_used
    assert "pass_at_64" in record.reasons[0]


def test_a_rival_that_some_checkpoints_lack_is_said_to_be_missing() -> None:
    rows = outcomes(40)
    bare = {k: v for k, v in rows[0].metrics.items() if k != "rlrisk/token_entropy"}

    record = calibrate([replace(rows[0], metrics=bare), *rows[1:]], COMPONENTS)

    undefined = record.content["validation"]["undefined"]
    assert undefined == {"token_entropy": "1 of 40 checkpoints have no rlrisk/token_entropy"}
    assert "token_entropy" not in record.content["validation"]["predictors"]


@pytest.mark.parametrize("kind", [Kind.LOGISTIC, Kind.ISOTONIC])
def test_a_checkpoint_is_predicted_without_its_siblings(kind: Kind) -> None:
    rows = outcomes(36, seed=3, num_lineages=3)
    chances = out_of_lineage(rows, np.array([row.index for row in rows]), kind)

    turned = [replace(r, failed=not r.failed) if r.lineage == "family-0" else r for r in rows]
    again = out_of_lineage(turned, np.array([row.index for row in rows]), kind)

    own = np.array([row.lineage == "family-0" for row in rows])
    np.testing.assert_array_equal(chances[own], again[own])
    assert not np.allclose(chances[~own], again[~own])


def test_the_isotonic_curve_is_that_of_scikit_learn_kept_off_zero_and_one() -> None:
    rows = outcomes(60, seed=4)
    index = np.round([row.index for row in rows], 1)  # ties
    failed = np.array([row.failed for row in rows])

    curve = fit_curve(Kind.ISOTONIC, index, failed, ["x"] * 60)

    at = np.linspace(0.0, 1.0, 23)
    expected = IsotonicRegression(out_of_bounds="clip").fit(index, failed).predict(at)
    levels = IsotonicRegression().fit(index, failed).predict(np.unique(index))
    reached = np.interp(at, np.unique(index), np.clip(levels, 1 / 120, 1 - 1 / 120))
    np.testing.assert_allclose(curve(at), reached, atol=1e-12)
    assert np.abs(curve(at) - expected).max() <= 1 / 120 + 1e-12


def test_auroc_of_the_predictions_is_that_of_scikit_learn_and_of_all_pairs() -> None:
    rows = sorted(outcomes(50, seed=5), key=lambda row: (row.lineage, row.checkpoint))
    record = calibrate(rows, COMPONENTS)

    predicted = np.array([row["predicted"] for row in record.content["rows"]])
    failed = np.array([row.failed for row in rows])
    found = record.content["validation"]["predictors"]["risk_index"]["auroc"]
    pairs = itertools.product(predicted[failed], predicted[~failed])
    assert found == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert found == pytest.approx(roc_auc_score(failed, predicted))


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 60), st.integers(0, 1000), st.floats(-8.0, 12.0))
def test_the_curve_never_falls_and_the_order_of_rows_changes_nothing(
    num: int, seed: int, strength: float
) -> None:
    rows = outcomes(num, seed, num_lineages=3, strength=strength)
    order = np.random.default_rng(seed).permutation(num)

    record = calibrate(rows, COMPONENTS)
    again = calibrate([rows[place] for place in order], COMPONENTS)

    assert record.to_json() == again.to_json()
    chances = np.array([chance for _, chance in record.curve])
    assert (np.diff(chances) >= -1e-12).all()
    assert ((chances > 0.0) & (chances < 1.0)).all()


def test_an_index_that_points_the_other_way_gets_a_flat_curve_and_is_not_used() -> None:
    for num in (24, 60):
        record = calibrate(outcomes(num, seed=6, strength=-12.0), COMPONENTS)

        assert not record.is_used
        assert np.ptp([chance for _, chance in record.curve][1:-1]) < 0.5


def test_a_record_comes_back_from_its_file_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    record = calibrate(outcomes(40), COMPONENTS)
    path = tmp_path / "calibration.json"
    path.write_text(record.to_json(), encoding="utf-8")

    again = CalibrationRecord.read(path)
    changed = json.loads(record.to_json())
    changed["used"] = not changed["used"]
    path.write_text(json.dumps(changed), encoding="utf-8")

    assert again == record
    with pytest.raises(ConfigError, match="digest"):
        CalibrationRecord.read(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [("{", "read"), ("[]", "no record"), ('{"kind": "rlrisk calibration"}', "schema None")],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=word):
        CalibrationRecord.read(path)


def test_the_formula_hash_changes_with_any_line_and_not_with_their_order() -> None:
    turned = dict(reversed(COMPONENTS.items()))
    line = COMPONENTS["starvation"]
    moved = {**COMPONENTS, "starvation": line.model_copy(update={"weight": line.weight / 2})}

    assert formula_digest(turned) == formula_digest(COMPONENTS)
    assert formula_digest(moved) != formula_digest(COMPONENTS)


def test_an_index_without_any_component_is_refused() -> None:
    with pytest.raises(StatisticsError, match="can be read"):
        index_of({"rlrisk/pass_at_1": 0.5}, {"gen_loss": COMPONENTS["gen_loss"]})


def test_pass_at_64_is_read_at_the_most_attempts_that_all_checkpoints_share() -> None:
    short = {"rlrisk/pass_at_16": 0.6, "rlrisk/pass_at_32": 0.7}
    rows = [
        outcome("a", "1", 0.1, False, metrics={**short}),
        replace(outcome("a", "2", 0.1, False), metrics={"rlrisk/pass_at_16": 0.4}),
    ]

    risks = risks_of(rows, "pass_at_64")

    assert not isinstance(risks, str)
    np.testing.assert_array_equal(risks, [-0.6, -0.4])
    assert isinstance(risks_of(rows, "headroom"), str)
    assert risks_of(rows, INDEX) is not None
