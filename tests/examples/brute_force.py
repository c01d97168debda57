"""What brute force says of a choice task."""

from collections.abc import Iterable, Set
from typing import Any

from examples.study.tasks.choices import ChoiceTask, Words


def check_answers(
    task: ChoiceTask[Any], problem: Any, right: Set[Words], every: Iterable[Words]
) -> None:
    """Of ``every`` answer the task calls ``right`` ones right, and lists each of them once."""
    assert set(task.right_answers(problem)) == right
    assert len(task.right_answers(problem)) == len(right) >= 3
    assert {answer for answer in every if task.is_right(problem, answer)} == right
