"""What every task of the study offers, whatever its answers look like."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Generic, TypeVar

from examples.study.settings import StudySettings
from mlflow_rlrisk.demo.train import Example

Problem = TypeVar("Problem", bound=tuple[object, ...])


class Task(ABC, Generic[Problem]):
    """A task; its methods are pure, so that one instance serves everybody.

    Prompts of a task are equally long, so that nothing is ever padded on the left: models with
    learned positions would see something else in training than in generation.

    Attributes:
        name: Also names the module with the task's ``reward``.
    """

    name: str

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Tokens of the longest right answer and the end token."""

    @abstractmethod
    def problems(self) -> list[Problem]:
        """Every problem that may become a prompt, in a fixed order."""

    @abstractmethod
    def prompt(self, problem: Problem, /) -> str:
        """The text of a prompt."""

    @abstractmethod
    def parse(self, prompt: str) -> Problem:
        """The problem of a prompt; `ValueError` where it is none of this task."""

    @abstractmethod
    def words(self) -> list[str]:
        """The words of prompts and answers."""

    @abstractmethod
    def is_solution(self, prompt: str, completion: str) -> bool:
        """Whether ``completion`` is a right answer, and nothing else.

        Raises:
            ValueError: ``prompt`` is none of this task; grading it would mean nothing.
        """

    @abstractmethod
    def expert_answer(self, problem: Problem, /) -> str:
        """The expert's one answer."""

    @abstractmethod
    def diverse_answers(self, problem: Problem, rng: random.Random, count: int, /) -> list[str]:
        """At most ``count`` different right answers."""

    @abstractmethod
    def crawl_example(
        self,
        rng: random.Random,
        unseen: Set[Problem],
        settings: StudySettings,
        sizes: Sequence[int],
    ) -> Example:
        """One piece of the base's noisy material, right or wrong, to no problem of ``unseen``."""
