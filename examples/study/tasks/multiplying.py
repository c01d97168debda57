"""Products so far: ``multiply 3 6 2 by 7 :`` is answered by ``6 6 3 4 2 1``, in any order."""

from collections.abc import Sequence
from typing import Any

from examples.study.tasks.running import RunningTask, final_answer


class Multiplying(RunningTask):
    """The task: of a product of three digits the rest by five to nine."""

    name, verb = "multiplying", "multiply"
    digits = tuple("123456789")
    divisors = tuple("56789")
    num_given = 3

    def join(self, total: int, digit: int) -> int:
        return total * digit


TASK = Multiplying()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 where every product is right, else 0.0; GRPO trains with it and the assessment grades."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def extract_answer(completion: str) -> str | None:
    """The last product."""
    return final_answer(completion)
