"""Answers lost and new: counted by hand, chance by enumeration, from grades as they are stored."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.lineage import LineageMember, trace_lineage
from mlflow_rlrisk.lineage.modes import Sample, answer_modes
from mlflow_rlrisk.lineage.table import Answers
from mlflow_rlrisk.records import FinishReason, Grade, GradedGroup, GradeStatus, Prompt, Rollout
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks.lineage_page import render_lineage
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap
from tests.lineage.ladders import collapsing


def counted(answers: Sequence[str | None]) -> dict[str, tuple[int, bool]]:
    return {
        answer: (count, answer == "right")
        for answer, count in Counter(filter(None, answers)).items()
    }


def sample(answers: Sequence[str | None]) -> Sample:
    return len(answers), counted(answers)


def lost(before: Sequence[str | None], after: Sequence[str | None]) -> int:
    kinds = Counter(filter(None, before)).items()
    return sum(count >= 2 and answer not in after for answer, count in kinds)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=4),
)
def test_chance_is_the_mean_over_all_ways_to_deal_the_answers_out(
    before: list[str | None], after: list[str | None]
) -> None:
    together = before + after
    deals = []
    for chosen in combinations(range(len(together)), len(before)):
        sides = [[], []]  # type: list[list[str | None]]
        for place, answer in enumerate(together):
            sides[place not in chosen].append(answer)
        deals.append((lost(sides[0], sides[1]), lost(sides[1], sides[0])))

    (found,) = answer_modes(
        [sample(before)], [[sample(after)]], PromptBootstrap(1, 200, 0), confidence=0.95
    )

    assert (found.lost_by_chance, found.new_by_chance) == pytest.approx(np.mean(deals, axis=0))
    assert found.lost.value == lost(before, after)
    assert found.new.value == lost(after, before)


def test_two_samples_of_one_policy_lose_what_chance_says() -> None:
    rng = np.random.default_rng(0)
    rates = 1.0 / np.arange(1, 13)
    sides = [
        [
            sample([str(each) for each in rng.choice(12, 16, p=rates / rates.sum())])
            for _ in range(400)
        ]
        for _ in range(2)
    ]

    (found,) = answer_modes(sides[0], sides[1:], PromptBootstrap(400, 2000, 0), confidence=0.999)

    assert found.lost.ci_low <= found.lost_by_chance <= found.lost.ci_high
    assert found.new.ci_low <= found.new_by_chance <= found.new.ci_high
    assert found.lost_by_chance > 0.3


_BY_CHANCE = """
from collections import Counter
from mlflow_rlrisk.lineage.modes import answer_modes
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap

counted = [Counter(str(i * i % p) for i in range(17)) for p in (11, 13, 17, 19, 23)]
sides = [(17, {answer: (n, False) for answer, n in each.items()}) for each in counted]
(found,) = answer_modes(sides, [sides[::-1]], PromptBootstrap(5, 200, 0), confidence=0.95)
print(repr(found.lost_by_chance), repr(found.new_by_chance))
"""


def test_what_chance_says_is_the_same_to_the_bit_in_every_process() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", _BY_CHANCE],
            env={**os.environ, "PYTHONHASHSEED": seed},  # the order of a set of answers
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "6")
    ]

    assert len(set(told)) == 1


def test_that_none_of_fifty_prompts_lost_an_answer_does_not_mean_that_none_ever_does() -> None:
    sides = [[sample(["right"] * 2 + ["wrong"] * 3)] * 50] * 2

    (found,) = answer_modes(sides[0], sides[1:], PromptBootstrap(50, 200, 0), confidence=0.95)

    unseen = 1.0 - 0.025 ** (1 / 50)  # Clopper and Pearson: none of 50
    assert (found.lost.value, found.lost.ci_low, found.lost_correct.value) == (0.0, 0.0, 0.0)
    assert found.lost.ci_high == pytest.approx(2 * unseen)  # both answers of such a prompt
    assert found.new.ci_high == pytest.approx(2 * unseen)
    assert found.lost_correct.ci_high == pytest.approx(unseen)


def graded(prompt: Prompt, grades: Sequence[Grade]) -> GradedGroup:
    rollouts = tuple(
        Rollout(
            prompt_id=prompt.id,
            sample_index=index,
            completion="",
            token_ids=np.array([1], dtype=np.int64),
            logprobs=None,
            entropies=None,
            finish_reason=FinishReason.STOP,
        )
        for index in range(len(grades))
    )
    return GradedGroup(prompt=prompt, rollouts=rollouts, grades=tuple(grades))


def test_stored_answers_are_counted_once_and_judged_at_the_threshold(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    first, second = (Prompt(id=each * 16, content=each) for each in "pq")
    failed = Grade(status=GradeStatus.FAILED, reason="no reward")
    group = graded(
        first, [Grade.scored(1.0, "7"), Grade.scored(0.4, "8"), Grade.scored(1.0, "7"), failed]
    )
    other = graded(second, [Grade.scored(0.0), Grade.scored(0.0, "9")])

    store.append([group])
    store.append([group, other])  # the first lies in two shards, as after a kill

    assert store.answers(None) == {
        first.id: {"7": (2, True), "8": (1, False)},
        second.id: {"9": (1, False)},
    }
    assert store.answers(0.3)[first.id]["8"] == (1, True)
    assert store.answers(None, num_samples=2) == {
        first.id: {"7": (1, True), "8": (1, False)},
        second.id: {"9": (1, False)},
    }
    assert RolloutStore(tmp_path / "none").answers(None) == {}


def with_answers(
    members: Sequence[LineageMember], kept: Mapping[str, Answers]
) -> list[LineageMember]:
    """The first member gives each answer twice; of the others the answers of ``kept`` are left."""
    prompt_ids = [each.prompt_id for each in members[0].statistics]
    whole = counted(["right", "right", "other", "other"])
    return [
        replace(
            member,
            answers=dict.fromkeys(prompt_ids, whole if place == 0 else kept.get(member.name, {})),
        )
        for place, member in enumerate(members)
    ]


def test_a_lineage_tells_which_answers_a_version_lost_beside_the_base() -> None:
    kept = {"epoch5": counted(["right"] * 4), "epoch1": counted(["right", "other", "new", "new"])}
    members = with_answers(collapsing(), kept)

    lineage = trace_lineage(members, base="base")

    found = {each.checkpoint: each.modes for each in lineage.modes}
    assert {each.reference for each in lineage.modes} == {"base"}
    assert [found[name].lost.value for name in ("epoch1", "epoch5", "epoch25")] == [0, 1, 2]
    assert [found[name].lost_correct.value for name in ("epoch1", "epoch5", "epoch25")] == [0, 0, 1]
    assert [found[name].new.value for name in ("epoch1", "epoch5", "epoch25")] == [1, 0, 0]
    page = render_lineage(lineage)
    assert "Answers, beside base" in page
    assert lineage.to_dict()["modes"][0]["modes"]["lost"]["value"] == 0.0


def test_a_verifier_that_extracts_no_answers_is_named_on_the_page_and_in_json() -> None:
    members = [replace(each, answers={}) for each in collapsing()]

    lineage = trace_lineage(members, base="base")

    reason = "the verifier in use gives rewards and extracts no answers"
    assert lineage.modes == ()
    assert lineage.to_dict()["undefined"]["modes"] == reason
    assert f"lost or has new is not told: {reason}." in render_lineage(lineage)
    assert "modes" not in trace_lineage(with_answers(collapsing(), {}), base="base").undefined


def test_modes_are_told_of_versions_whose_answers_were_kept_beside_a_base_whose_were() -> None:
    members = with_answers(collapsing(), {"epoch1": counted(["new"] * 2)})
    base, *rungs = members
    lost = [replace(each, answers=None) for each in members]

    told = [
        [change.checkpoint for change in trace_lineage(each, base="base", num_resamples=50).modes]
        for each in ([base, rungs[0], *lost[2:]], [base, *lost[1:]], [lost[0], *rungs])
    ]

    assert told == [["epoch1"], [], []]


def test_without_answers_no_modes_are_told_and_divergence_is_left_to_drift() -> None:
    lineage = trace_lineage(collapsing(), base="base")

    assert lineage.modes == ()
    assert "the answers of base, epoch1, epoch5, epoch25 were not kept" in render_lineage(lineage)
    moved = next(name for name in (lineage.choice.start_from, "epoch25") if name != "base")
    assert f"rlrisk drift base {moved} " in lineage.choice.next_steps[-1]
    assert "rlrisk drift" not in " ".join(trace_lineage(collapsing()).choice.next_steps)
