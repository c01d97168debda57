import json
from pathlib import Path

import pytest

from mlflow_rlrisk.demo.make_base import BASE, RECORD, crawl_example, digests
from mlflow_rlrisk.demo.make_data import (
    EXPERT,
    HELDOUT,
    NUM_EXPERT,
    NUM_HELDOUT,
    NUM_RL,
    RL,
    draw_sets,
    write_pairs,
)
from mlflow_rlrisk.demo.tokenizer import build_tokenizer, load_tokenizer, vocabulary

SETS = {EXPERT: NUM_EXPERT, RL: NUM_RL, HELDOUT: NUM_HELDOUT}


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_prompt_is_in_two_sets() -> None:
    prompts = [row["prompt"] for path in SETS for row in rows(path)]

    assert len(set(prompts)) == len(prompts) == sum(SETS.values())


def test_the_shipped_sets_are_the_ones_the_script_draws(tmp_path: Path) -> None:
    sets = draw_sets()
    for path, pairs in ((EXPERT, sets.expert), (RL, sets.rl), (HELDOUT, sets.heldout)):
        write_pairs(tmp_path / path.name, pairs)

        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_crawl_never_shows_an_unseen_pair() -> None:
    import random

    everything_below_thirty = {(start, target) for start in range(1, 30) for target in range(1, 61)}
    rng = random.Random(0)

    examples = [crawl_example(rng, everything_below_thirty) for _ in range(300)]

    assert all(int(example.prompt.split()[1]) >= 30 for example in examples)


def test_the_shipped_base_is_the_recorded_one() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))

    assert digests(BASE) == record["sha256"]
    assert record["num_parameters"] < 1_000_000
    assert (BASE / "model.safetensors").stat().st_size < 2_000_000


def test_the_tokenizer_gives_every_prompt_and_solution_back() -> None:
    pytest.importorskip("transformers")
    tokenizer = load_tokenizer(BASE)
    for path in SETS:
        for row in rows(path):
            for text in (row["prompt"], row["solution"]):
                ids = tokenizer.encode(text, add_special_tokens=False)

                assert tokenizer.decode(ids) == text
                assert ids == tokenizer.encode(text)
                assert tokenizer.unk_token_id not in ids


def test_the_shipped_tokenizer_is_the_one_the_code_builds() -> None:
    pytest.importorskip("transformers")

    stored = load_tokenizer(BASE)

    assert stored.get_vocab() == build_tokenizer().get_vocab()
    assert len(stored) == len(vocabulary())
    assert (stored.pad_token_id, stored.eos_token_id) == (0, 1)
