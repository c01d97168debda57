import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import PromptSetError
from mlflow_rlrisk.overlap import find_overlap
from mlflow_rlrisk.overlap.minhash import BandIndex, band_keys
from mlflow_rlrisk.overlap.search import NEAR
from mlflow_rlrisk.overlap.shingles import normalised, shingle_hashes, text_hashes

TEXTS = st.text(st.sampled_from("ab é\n"), max_size=12)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = normalised(text).split()
    if len(words) < 3:
        return {tuple(words)}
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def jaccard(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_hashes_are_equal_exactly_where_the_normalised_texts_are(texts: list[str]) -> None:
    clean = [normalised(text) for text in texts]

    together = text_hashes(clean)
    alone = [text_hashes([text])[0] for text in clean]

    assert together.tolist() == alone
    assert len(set(alone)) == len(set(clean))


@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6))
def test_there_is_one_hash_for_each_distinct_run_of_three_words(texts: list[str]) -> None:
    clean = [normalised(text) for text in texts]

    values, lengths = shingle_hashes(clean)

    parts = np.split(values, np.cumsum(lengths)[:-1])
    assert lengths.tolist() == [len(shingles(text)) for text in clean]
    for i, one in enumerate(clean):
        for j, other in enumerate(clean):
            shared = len(set(parts[i].tolist()) & set(parts[j].tolist()))
            assert shared == len(shingles(one) & shingles(other))


def edited(rng: random.Random, text: str, words: list[str], count: int) -> str:
    found = text.split()
    for place in rng.sample(range(len(found)), count):
        found[place] = rng.choice(words)
    return "  ".join(found).upper()


def test_the_matches_are_those_of_comparing_every_pair() -> None:
    rng = random.Random(1)
    words = [f"w{i}" for i in range(300)]
    rl = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(160)]
    sft = [
        edited(rng, text, words, rng.choice([0, 1, 1, 2, 3, 5]))
        for text in rng.sample(rl, 90)
        if len(text.split()) > 5
    ]
    sft += [" ".join(rng.choices(words, k=30)) for _ in range(40)]

    found = find_overlap(rl, sft)

    best = [max(jaccard(text, other) for other in sft) for text in rl]
    exact = [normalised(text) in {normalised(other) for other in sft} for text in rl]
    assert found.num_exact == sum(exact) > 5
    assert found.num_near == sum(b >= NEAR and not e for b, e in zip(best, exact, strict=True)) > 5
    assert found.share == (found.num_exact + found.num_near) / 160
    for match in found.examples:
        assert match.similarity == pytest.approx(jaccard(match.rl_prompt, match.sft_prompt))


def test_a_shared_template_does_not_make_two_tasks_near_duplicates() -> None:
    form = "Using each of the given numbers at most once build an expression that is equal to {} "
    form += "and explain each step of the way then put the final result "
    form += "into a box at the end of your answer numbers {}"
    rl = [form.format(1000 + i, i) for i in range(300)]
    sft = [form.format(5000 + i, 7000 + i) for i in range(300)] + rl[:30]

    found = find_overlap(rl, sft)

    assert (found.num_exact, found.num_near) == (30, 0)
    assert jaccard(rl[100], sft[0]) >= NEAR  # what counting the template would have said


def test_tasks_put_together_from_few_parts_are_not_near_for_the_parts_that_tell_alone() -> None:
    rng = random.Random(0)
    names, goods = ("Ann", "Bob", "Cid", "Dan", "Eve"), ("apples", "pears", "figs", "nuts")

    def problem() -> str:
        first, last = rng.choice(names), rng.choice(names)
        own, more, asked = (rng.choice(goods) for _ in range(3))
        return (
            f"{first} has {rng.randint(2, 20)} {own} and buys {rng.randint(2, 20)} more {more} . "
            f"How many {asked} does {last} have now ?"
        )

    problems = list(dict.fromkeys(problem() for _ in range(3300)))
    rl, sft = problems[:1500], problems[1500:3000]

    found = find_overlap(rl, [*sft, *rl[:30]])

    near = sum(max(jaccard(text, other) for other in sft) >= NEAR for text in rl[30:180])
    assert near <= 3
    assert found.num_exact == 30
    assert found.num_near <= 30  # 850 by the parts that few prompts have


def test_a_template_that_only_one_side_has_hides_no_task() -> None:
    rng = random.Random(3)
    words = [f"w{i}" for i in range(400)]
    rl = [" ".join(rng.choices(words, k=20)) for _ in range(100)]
    form = "below is an instruction write a response that completes it in full detail {} response"

    found = find_overlap(rl, [form.format(text) for text in rl[:40]])

    assert jaccard(rl[0], form.format(rl[0])) < NEAR
    assert (found.num_exact, found.num_near) == (0, 40)


def test_many_templates_that_only_one_side_has_hide_no_task() -> None:
    # Each of them is in too few prompts to be told by its share.
    rng = random.Random(3)
    words = [f"w{i}" for i in range(4000)]
    rl = [" ".join(rng.choices(words, k=20)) for _ in range(1000)]
    own = [" ".join(rng.choices(words, k=20)) for _ in range(600)]
    forms = [
        " ".join([*rng.choices(words, k=12), "{}", *rng.choices(words, k=6)]) for _ in range(20)
    ]

    found = find_overlap(rl, [forms[i % 20].format(text) for i, text in enumerate(rl[:400] + own)])

    assert (found.num_exact, found.num_near) == (0, 400)


def test_a_match_in_a_later_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow_rlrisk.overlap.search as search

    monkeypatch.setattr(search, "BATCH_CHARS", 64)
    monkeypatch.setattr(search, "SAMPLE", 3)
    rng = random.Random(2)
    words = [f"w{i}" for i in range(500)]
    rl = [" ".join(rng.choices(words, k=30)) for _ in range(50)]
    sft = [" ".join(rng.choices(words, k=30)) for _ in range(50)]
    near = edited(rng, rl[3], words, 1)

    found = find_overlap(rl, [*sft, near, rl[7], rl[3]])

    assert (found.num_exact, found.num_near, found.num_sft) == (2, 0, 53)
    assert find_overlap(rl, iter([*sft, near])).num_near == 1


def test_case_white_space_and_compatible_characters_do_not_matter() -> None:
    found = find_overlap(["What  is ½?\n", "Ｆｕｌｌ"], ["what is 1⁄2?", "full"])

    assert found.num_exact == 2


def test_nothing_to_search_is_an_error_and_no_zero() -> None:
    with pytest.raises(PromptSetError, match="the SFT data have no prompts"):
        find_overlap(["a"], [])
    with pytest.raises(PromptSetError, match="RL prompt set is empty"):
        find_overlap([], ["a"])


def test_texts_of_similarity_point_eight_share_a_band_almost_always() -> None:
    rng = np.random.default_rng(5)
    size, shared = 90, 80  # Jaccard 80 / 100
    left = rng.integers(0, 2**63, (400, size), dtype=np.uint64)
    right = np.concatenate(
        [left[:, :shared], rng.integers(0, 2**63, (400, size - shared), dtype=np.uint64)], axis=1
    )
    lengths = np.full(400, size)

    index = BandIndex(band_keys(left.ravel(), lengths))
    indexed, asked = index.candidates(band_keys(right.ravel(), lengths))

    found = {(int(i), int(j)) for i, j in zip(indexed, asked, strict=True)}
    assert sum((i, i) in found for i in range(400)) >= 398
    assert len(found) < 500
