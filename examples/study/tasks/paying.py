"""Paying a sum: ``pay 17 with 2 3 5 7 9 :`` is answered by four of the coins that make 17.

Each coin may be used more than once, and any order is right.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

COINS = range(1, 10)
NUM_COINS = 5
NUM_PAID = 4


class Payment(NamedTuple):
    """What is asked: the sum, and the coins in rising order."""

    total: int
    coins: tuple[int, ...]


class Paying(ChoiceTask[Payment]):
    """The task."""

    name = "paying"
    answer_words = NUM_PAID
    num_problems = 1600

    def draw(self, rng: random.Random, size: int) -> tuple[Payment, Words]:
        """Coins and what some of them make; ``size`` has no meaning here."""
        coins = tuple(sorted(rng.sample(COINS, NUM_COINS)))
        paid = rng.choices(coins, k=NUM_PAID)
        return Payment(sum(paid), coins), tuple(str(coin) for coin in paid)

    def bend(self, problem: Payment, answer: Words, rng: random.Random) -> Payment:
        """Another sum is asked, one or two away."""
        away = rng.choice((-2, -1, 1, 2))
        return problem._replace(total=problem.total + away)

    def right_answers(self, problem: Payment) -> list[Words]:
        return [
            tuple(str(coin) for coin in paid)
            for paid in product(problem.coins, repeat=NUM_PAID)
            if sum(paid) == problem.total
        ]

    def is_right(self, problem: Payment, answer: Words) -> bool:
        known = {str(coin): coin for coin in problem.coins}
        return all(word in known for word in answer) and problem.total == sum(
            known[word] for word in answer
        )

    def prompt(self, problem: Payment) -> str:
        return f"pay {problem.total} with {' '.join(map(str, problem.coins))} :"

    def parse(self, prompt: str) -> Payment:
        words = prompt.split()
        found = [words[mark] for mark in (0, 2, -1)] if len(words) == NUM_COINS + 4 else []
        if found != ["pay", "with", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'pay SUM with ... :' is needed")
        return Payment(int(words[1]), tuple(int(word) for word in words[3:-1]))

    def words(self) -> list[str]:
        sums = range(NUM_PAID * min(COINS) - 2, NUM_PAID * max(COINS) + 3)
        numbers = sorted({*COINS, *sums})
        return ["pay", "with", ":", *map(str, numbers)]


TASK = Paying()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right payment, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
