"""Agreements that were measured once more: of the same weights, and counted right."""

import re

import numpy as np
from scipy.stats import mannwhitneyu

from examples.study.agreeing import told
from examples.study.agreements import read_agreements
from examples.study.predictors import RESULTS
from examples.study.rows import read_pairs
from examples.study.scoring import study_of


def test_every_row_is_of_the_weights_that_were_assessed_and_trained() -> None:
    known = {
        (row["lineage"], row["checkpoint"]): row for row in read_pairs(RESULTS / "pairs.jsonl")
    }
    rows = read_agreements()

    assert len({(row["lineage"], row["checkpoint"]) for row in rows}) == len(rows) == 384
    for row in rows:
        assert row["weights"] == known[row["lineage"], row["checkpoint"]]["digests"]["weights"]
        value, low, high = row["agreement"]
        assert 0.0 <= low <= value <= high <= 1.0


def test_the_auroc_of_agreement_is_that_of_mann_and_whitney() -> None:
    own = {(row["lineage"], row["checkpoint"]): row["agreement"][0] for row in read_agreements()}
    pairs = read_pairs(RESULTS / "pairs.jsonl")
    study = study_of([row for row in pairs if (row["lineage"], row["checkpoint"]) in own])
    values = np.array([own[row["lineage"], row["checkpoint"]] for row in study.rows])
    good, failed = values[~study.failed], values[study.failed]

    stated = re.search(r"`agreement_accuracy` \| ([0-9.]+)", told())

    assert stated is not None
    expected = mannwhitneyu(good, failed).statistic / (good.size * failed.size)
    assert abs(float(stated[1]) - expected) <= 0.0051
