"""Sums so far: ``sum 3 8 5 6 by 9 :`` is answered by ``8 8 5 4 3 7 6 4``, or in another order."""

from collections.abc import Sequence
from typing import Any

from examples.study.tasks.running import RunningTask, final_answer


class Summing(RunningTask):
    """The task: of a sum of four digits the rest by eight or nine."""

    name, verb = "summing", "sum"
    digits = tuple("123456789")
    divisors = ("8", "9")
    num_given = 4

    def join(self, total: int, digit: int) -> int:
        return total + digit


TASK = Summing()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 where every sum is right, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def extract_answer(completion: str) -> str | None:
    """The last sum."""
    return final_answer(completion)
