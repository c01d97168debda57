"""Prompt sets of a lineage: expert, validation, RL and held-out; no problem is in two of them."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from examples.study.settings import StudySettings
from examples.study.tasks.base import Task
from mlflow_rlrisk.demo.train import Example


class PromptSets(NamedTuple):
    """The four sets, and what the base may not see."""

    expert: list[Any]
    validation: list[Any]
    rl: list[Any]
    heldout: list[Any]

    @property
    def unseen(self) -> frozenset[Any]:
        """Problems that are kept from the base's material."""
        return frozenset((*self.validation, *self.rl, *self.heldout))


def draw_sets(task: Task[Any], settings: StudySettings) -> PromptSets:
    """The sets, always the same ones."""
    problems = task.problems()
    random.Random(settings.prompt_seed).shuffle(problems)
    sizes = (
        settings.num_expert,
        settings.num_validation,
        settings.num_rl,
        settings.num_heldout,
    )
    if sum(sizes) > len(problems):
        raise ValueError(f"{task.name}: {len(problems)} problems, {sum(sizes)} are needed")
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return PromptSets(*(problems[end - size : end] for size, end in zip(sizes, ends, strict=True)))


def narrow_examples(task: Task[Any], problems: list[Any]) -> list[Example]:
    """The expert's one answer to each prompt."""
    return [Example(task.prompt(problem), task.expert_answer(problem)) for problem in problems]


def diverse_examples(task: Task[Any], problems: list[Any], seed: int, count: int) -> list[Example]:
    """Several different right answers to each prompt."""
    rng = random.Random(seed)
    return [
        Example(task.prompt(problem), answer)
        for problem in problems
        for answer in task.diverse_answers(problem, rng, count)
    ]


def write_prompts(path: Path, examples: list[Example]) -> None:
    """One JSON object a line: the prompt and the expert's solution."""
    lines = [json.dumps({"prompt": e.prompt, "solution": e.answer}) for e in examples]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sets_digest(task: Task[Any], sets: PromptSets) -> str:
    """SHA-256 of all prompts."""
    text = json.dumps([[task.prompt(problem) for problem in part] for part in sets])
    return hashlib.sha256(text.encode()).hexdigest()
