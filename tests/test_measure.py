import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.entropy_profile import NUM_POSITIONS, EntropyProfile
from mlflow_rlrisk.errors import ReportError
from mlflow_rlrisk.measure import ends_in_loop, measure
from mlflow_rlrisk.records import FinishReason, Grade, GradedGroup, GradeStatus, Prompt, Rollout

PROMPT = Prompt(id="q", content="1 + 1 =")


def rollout(
    index: int = 0,
    *,
    completion: str = "2",
    token_ids: list[int] | None = None,
    entropies: list[float] | None = None,
    logprobs: list[float] | None = None,
    truncated: bool = False,
) -> Rollout:
    ids = token_ids if token_ids is not None else list(range(len(entropies or [0])))
    return Rollout(
        prompt_id="q",
        sample_index=index,
        completion=completion,
        token_ids=np.array(ids),
        logprobs=None if logprobs is None else np.array(logprobs, dtype=np.float32),
        entropies=None if entropies is None else np.array(entropies, dtype=np.float32),
        finish_reason=FinishReason.LENGTH if truncated else FinishReason.STOP,
    )


def group(rollouts: list[Rollout], grades: list[Grade]) -> GradedGroup:
    return GradedGroup(prompt=PROMPT, rollouts=tuple(rollouts), grades=tuple(grades))


def failed(status: GradeStatus) -> Grade:
    return Grade(status=status, reason="no")


def test_failed_verifications_are_counted_and_never_become_wrong_answers() -> None:
    grades = [
        Grade.scored(1.0),
        Grade.scored(0.0),
        failed(GradeStatus.FAILED),
        failed(GradeStatus.TIMED_OUT),
        failed(GradeStatus.NOT_APPLICABLE),
    ]

    counted = measure(group([rollout(i) for i in range(5)], grades), None)

    assert (counted.num_samples, counted.num_scored, counted.num_correct) == (5, 2, 1)
    assert counted.num_failed == 2  # "not applicable" is no failure
    assert counted.rewards == (1.0, 0.0)


def test_rewards_other_than_0_and_1_leave_success_undefined_without_a_threshold() -> None:
    graded = group([rollout(0), rollout(1)], [Grade.scored(0.5), Grade.scored(1.0)])

    assert measure(graded, None).num_correct is None
    assert measure(graded, None).correct_counts is None
    assert measure(graded, 0.5).num_correct == 2
    assert measure(graded, 0.75).num_correct == 1


def test_rewards_that_differ_by_rounding_only_push_the_entropy_nowhere() -> None:
    rollouts = [rollout(0, logprobs=[-0.1]), rollout(1, logprobs=[-0.9])]

    for low, high in [(0.3, 0.1 + 0.2), (0.0, 1e-300)]:
        graded = group(rollouts, [Grade.scored(low), Grade.scored(high)])
        assert measure(graded, None).entropy_pressure is None


def test_truncated_rollouts_are_graded_as_they_are_and_counted() -> None:
    graded = group([rollout(0, truncated=True), rollout(1)], [Grade.scored(1.0)] * 2)

    counted = measure(graded, None)

    assert (counted.num_truncated, counted.num_correct) == (1, 2)


@given(
    st.lists(
        st.lists(st.floats(0.0, 8.0, width=32), min_size=1, max_size=20), min_size=1, max_size=6
    )
)
def test_entropy_and_surprisal_equal_plain_sums(entropies: list[list[float]]) -> None:
    rollouts = [
        rollout(i, entropies=row, logprobs=[-value for value in row])
        for i, row in enumerate(entropies)
    ]

    counted = measure(group(rollouts, [Grade.scored(0.0)] * len(rollouts)), None)

    flat = [value for row in entropies for value in row]
    assert counted.num_tokens == len(flat)
    assert counted.entropy_sum == pytest.approx(sum(flat), abs=1e-9)
    assert counted.nll_sum == pytest.approx(sum(flat), abs=1e-9)
    means = [sum(row) / len(row) for row in entropies]
    assert counted.sequence_entropy == pytest.approx(sum(means) / len(means), abs=1e-9)
    assert counted.num_low_entropy == sum(value < 0.01 for value in flat)


def test_one_rollout_without_entropies_leaves_the_entropy_of_the_prompt_undefined() -> None:
    rollouts = [rollout(0, entropies=[1.0], logprobs=[-1.0]), rollout(1, token_ids=[3])]

    counted = measure(group(rollouts, [Grade.scored(0.0)] * 2), None)

    assert counted.entropy_sum is None
    assert counted.sequence_entropy is None
    assert counted.num_low_entropy is None
    assert counted.nll_sum is None


def test_multiplicities_are_counted_up_to_white_space_and_largest_first() -> None:
    completions = ["a b", "a  b\n", "c", "a b", "d"]
    grades = [Grade.scored(float(text[0] == "a"), answer=text[0]) for text in completions]
    rollouts = [rollout(i, completion=text) for i, text in enumerate(completions)]

    counted = measure(group(rollouts, grades), None)

    assert counted.text_counts == (3, 1, 1)
    assert counted.correct_counts == (3,)
    assert counted.answer_counts == (3, 1, 1)
    assert counted.right_answer_counts == (3,)
    assert counted.num_unparsed == 0


def test_missing_answers_are_unparsed_where_others_have_one() -> None:
    grades = [Grade.scored(1.0, answer="2"), Grade.scored(0.0), failed(GradeStatus.FAILED)]

    counted = measure(group([rollout(i) for i in range(3)], grades), None)

    assert counted.num_unparsed == 1
    assert counted.answer_counts == counted.right_answer_counts == (1,)


def loops(token_ids: list[int], *, truncated: bool = True) -> bool:
    return bool(ends_in_loop([rollout(token_ids=token_ids, truncated=truncated)])[0])


@pytest.mark.parametrize("period", [1, 2, 7, 8, 20, 32])
def test_a_phrase_repeated_to_the_end_is_a_loop_of_any_period(period: int) -> None:
    repeats = max(4, -(-32 // period))

    assert loops([99, 98, 97] + list(range(period)) * repeats)


def test_what_is_short_or_breaks_off_is_no_loop() -> None:
    assert not loops([0] * 31)
    assert loops([0] * 32)
    assert not loops([0] * 40 + [1])
    assert not loops(list(range(33)) * 5)  # longer than the longest period
    assert not loops(list(range(200)))


def test_a_loop_that_ends_with_a_stop_token_is_still_a_loop() -> None:
    assert loops([5, 6] * 20 + [2], truncated=False)
    assert not loops([0] * 32, truncated=False)  # 31 tokens and the stop token


def test_loops_are_counted_per_rollout_of_a_group() -> None:
    rollouts = [
        rollout(0, token_ids=[7] * 50, truncated=True),
        rollout(1, token_ids=list(range(50)), truncated=True),
    ]

    assert measure(group(rollouts, [Grade.scored(0.0)] * 2), None).num_loops == 1


def test_the_profile_puts_every_token_into_the_bin_of_its_edges() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([[0.0, 0.0005, 30.0], rng.exponential(0.5, size=500)])
    profile = EntropyProfile()

    profile.add([rollout(entropies=values.tolist())])

    stored = values.astype(np.float32).astype(float)
    expected, _ = np.histogram(np.minimum(stored, 12.5), bins=EntropyProfile.edges())
    assert np.abs(profile.histogram - expected).sum() <= 2  # a value on an edge may round
    assert profile.num_tokens == values.size


def test_the_profile_means_by_position_are_plain_means() -> None:
    profile = EntropyProfile()

    profile.add([rollout(0, entropies=[1.0, 2.0, 3.0]), rollout(1, entropies=[3.0])])

    assert profile.mean_by_position() == [2.0, 2.0, 3.0]


def test_positions_beyond_the_last_share_one_bin() -> None:
    profile = EntropyProfile()

    profile.add([rollout(entropies=[0.5] * (NUM_POSITIONS + 44))])

    assert profile.position_count[NUM_POSITIONS] == 44
    assert len(profile.mean_by_position()) == NUM_POSITIONS


def test_profiles_of_parts_merge_to_the_profile_of_the_whole() -> None:
    first, second = rollout(0, entropies=[0.1, 2.0]), rollout(1, entropies=[0.7])
    whole, left, right = EntropyProfile(), EntropyProfile(), EntropyProfile()
    whole.add([first, second, rollout(2, token_ids=[1])])
    left.add([first])
    right.add([second])

    left.merge(right)

    assert left == whole
    assert EntropyProfile.from_dict(whole.to_dict()) == whole


@pytest.mark.parametrize("value", [[1, 2], "text", [float("nan")] * 257])
def test_a_damaged_profile_is_refused(value: object) -> None:
    raw = EntropyProfile().to_dict()

    with pytest.raises(ReportError, match="position_sum"):
        EntropyProfile.from_dict({**raw, "position_sum": value})
