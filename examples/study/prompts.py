"""Prompt sets of a lineage: expert, validation, RL and held-out; no pair is in two of them."""

import hashlib
import json
import random
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

from examples.study.settings import StudySettings
from examples.study.tasks.walks import (
    Move,
    Pair,
    State,
    WalkTask,
    all_pairs,
    diverse_answers,
    expert_answer,
    render,
)
from mlflow_rlrisk.demo.train import Example


class PromptSets(NamedTuple):
    """The four sets, and what the base may not see."""

    expert: list[Pair]
    validation: list[Pair]
    rl: list[Pair]
    heldout: list[Pair]

    @property
    def unseen(self) -> frozenset[Pair]:
        """Pairs that are kept from the base's material."""
        return frozenset((*self.validation, *self.rl, *self.heldout))


def draw_sets(task: WalkTask, settings: StudySettings) -> PromptSets:
    """The sets, always the same ones."""
    pairs = all_pairs(task)
    random.Random(settings.prompt_seed).shuffle(pairs)
    sizes = (
        settings.num_expert,
        settings.num_validation,
        settings.num_rl,
        settings.num_heldout,
    )
    if sum(sizes) > len(pairs):
        raise ValueError(f"{task.name}: {len(pairs)} pairs, {sum(sizes)} are needed")
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return PromptSets(*(pairs[end - size : end] for size, end in zip(sizes, ends, strict=True)))


def narrow_examples(task: WalkTask, pairs: list[Pair]) -> list[Example]:
    """The expert's one answer to each prompt."""
    return [Example(task.prompt(pair), expert_answer(task, pair)) for pair in pairs]


def diverse_examples(task: WalkTask, pairs: list[Pair], seed: int, count: int) -> list[Example]:
    """Several different right answers to each prompt."""
    rng = random.Random(seed)
    return [
        Example(task.prompt(pair), answer)
        for pair in pairs
        for answer in diverse_answers(task, pair, rng, count)
    ]


@cache
def _states(task: WalkTask) -> list[State]:
    return task.states()


def crawl_example(
    task: WalkTask,
    rng: random.Random,
    unseen: Set[Pair],
    settings: StudySettings,
    walk_lengths: Sequence[int],
) -> Example:
    """One walk as a crawl might hold it: any way, right or wrong, no pair of ``unseen``."""
    states = _states(task)
    while True:
        start = rng.choice(states)
        length = max(1, task.distance + rng.choice(walk_lengths))
        chain: list[Move] = []
        state = start
        for _ in range(length):
            chain.append(rng.choice(task.moves(state)))
            state = chain[-1].state
        target = state
        fate = rng.random()
        words = render(chain).split()
        if fate < settings.slip_share:
            words[rng.randrange(len(words))] = rng.choice(words)
        elif fate < settings.slip_share + settings.off_target_share:
            target = rng.choice(task.moves(state)).state
        pair = Pair(start, target)
        if target != start and pair not in unseen:
            return Example(task.prompt(pair), " ".join(words))


def write_prompts(path: Path, examples: list[Example]) -> None:
    """One JSON object a line: the prompt and the expert's solution."""
    lines = [json.dumps({"prompt": e.prompt, "solution": e.answer}) for e in examples]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sets_digest(task: WalkTask, sets: PromptSets) -> str:
    """SHA-256 of all prompts."""
    text = json.dumps([[task.prompt(pair) for pair in pairs] for pairs in sets])
    return hashlib.sha256(text.encode()).hexdigest()
