import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, InsufficientRolloutsError, StatisticsError
from mlflow_rlrisk.statistics import (
    agreement,
    answer_coverage,
    answer_entropy,
    collision,
    correct_diversity,
    majority_share,
    rarefied_distinct,
)

multiplicities = st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda m: sum(m) >= 2)


@given(multiplicities, st.data())
def test_collision_and_rarefaction_equal_brute_force_over_all_draws(
    counts: list[int], data: st.DataObject
) -> None:
    answers = [label for label, count in enumerate(counts) for _ in range(count)]
    m = data.draw(st.integers(1, len(answers)), label="m")
    pairs = list(itertools.combinations(answers, 2))
    draws = list(itertools.combinations(answers, m))

    assert collision([counts])[0] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert rarefied_distinct([counts], m)[0] == pytest.approx(
        np.mean([len(set(draw)) for draw in draws])
    )


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=2, max_size=4))
def test_agreement_equals_brute_force_over_all_pairs(answers: list[tuple[int, bool]]) -> None:
    said = [(name, is_right) for name, (n, is_right) in enumerate(answers) for _ in range(n)]
    pairs = list(itertools.combinations(said, 2))

    both_right, both = agreement(
        [[n for n, is_right in answers if is_right]], [[n for n, _ in answers]]
    )

    assert both[0] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert both_right[0] == pytest.approx(np.mean([a == b and a[1] for a, b in pairs]))


def test_more_right_answers_than_answers_are_refused() -> None:
    with pytest.raises(StatisticsError, match="more right answers"):
        agreement([[3]], [[2]])
    with pytest.raises(StatisticsError, match="other prompts"):
        agreement([[1]], [[2], [2]])


@given(st.lists(multiplicities, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_prompts_do_not_mix_and_the_order_of_answers_changes_nothing(
    prompts: list[list[int]], random: object
) -> None:
    shuffled = [random.sample(counts, len(counts)) for counts in prompts]  # type: ignore[attr-defined]

    for function in (collision, answer_entropy, majority_share, answer_coverage, correct_diversity):
        together = function(shuffled)
        alone = [function([counts])[0] for counts in prompts]
        np.testing.assert_allclose(together, alone, atol=1e-14)


@given(multiplicities)
def test_entropy_lies_between_0_and_the_log_of_the_number_of_answers(counts: list[int]) -> None:
    plugin = answer_entropy([counts], "plugin")[0]

    assert 0.0 <= plugin <= math.log(len(counts)) + 1e-12
    assert (plugin == 0.0) == (len(counts) == 1)
    assert answer_entropy([counts], "miller_madow")[0] >= plugin
    assert answer_entropy([counts], "chao_shen")[0] >= plugin - 1e-12
    if len(set(counts)) == 1:
        assert plugin == pytest.approx(math.log(len(counts)))


def test_chao_shen_is_less_biased_than_the_plug_in() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    samples = [row[row > 0] for row in rng.multinomial(16, truth, size=2000)]
    entropy = -float(truth @ np.log(truth))

    plugin_bias = answer_entropy(samples, "plugin").mean() - entropy
    chao_shen_bias = answer_entropy(samples, "chao_shen").mean() - entropy

    assert plugin_bias < -0.15
    assert abs(chao_shen_bias) < abs(plugin_bias) / 3


def test_answers_that_all_differ_have_a_finite_entropy() -> None:
    # Good-Turing coverage is 0 here; dividing by it would give infinity.
    assert np.isfinite(answer_entropy([[1] * 16], "chao_shen")).all()
    assert answer_coverage([[1] * 16])[0] == 0.0


def test_one_answer_only_is_no_diversity() -> None:
    for method in ("plugin", "miller_madow", "chao_shen"):
        assert answer_entropy([[16]], method)[0] == 0.0
    assert collision([[16]])[0] == 1.0
    assert rarefied_distinct([[16]], 8)[0] == 1.0
    assert majority_share([[16]])[0] == 1.0


def test_answers_that_never_occurred_count_for_nothing() -> None:
    for function in (collision, answer_entropy, majority_share, answer_coverage):
        assert function([[3, 0, 2, 0]])[0] == function([[3, 2]])[0]
    assert (
        answer_entropy([[3, 0, 2]], "miller_madow")[0]
        == (answer_entropy([[3, 2]], "miller_madow")[0])
    )


def test_correct_diversity_compares_at_most_four_and_as_many_as_there_are() -> None:
    counts = [[2, 1], [1, 1], [3, 3, 2]]

    values = correct_diversity(counts)

    expected = [rarefied_distinct([each], min(4, sum(each)))[0] for each in counts]
    np.testing.assert_allclose(values, expected)
    np.testing.assert_allclose(
        correct_diversity(counts, at_most=2), [2 - collision([each])[0] for each in counts]
    )


def test_too_few_answers_are_refused_and_named() -> None:
    for call in (
        lambda: collision([[2], [1]]),
        lambda: rarefied_distinct([[2], [1]], 2),
        lambda: rarefied_distinct([[2], []], 1),
        lambda: correct_diversity([[2], [1]]),
        lambda: answer_entropy([[2], []]),
        lambda: majority_share([[2], [0]]),
        lambda: answer_coverage([[2], []]),
    ):
        with pytest.raises(InsufficientRolloutsError, match="first: prompt 1 with"):
            call()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "counts is empty"),
        ([3, 1], "one flat sequence"),
        ([[2, -1]], "counts of prompt 0 holds -1"),
        ([[2], [1.5]], "counts of prompt 1 holds 1.5"),
        ([[np.nan]], "counts of prompt 0 holds nan"),
    ],
)
def test_multiplicities_outside_their_contract_are_refused(counts: object, message: str) -> None:
    for function in (collision, answer_entropy, majority_share, correct_diversity):
        with pytest.raises(StatisticsError, match=message):
            function(counts)  # type: ignore[operator]


def test_settings_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="method='best'"):
        answer_entropy([[1, 2]], "best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="m=0"):
        rarefied_distinct([[1, 2]], 0)
    with pytest.raises(ConfigError, match="at_most=1"):
        correct_diversity([[1, 2]], 1)
