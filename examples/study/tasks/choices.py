"""What tasks share whose right answers can be listed: choices that meet constraints, no way.

A task lists the right answers to a problem and draws noisy material. The expert takes the first
right answer; nothing in an answer says how it was found.
"""

import random
from abc import abstractmethod
from collections.abc import Sequence, Set

from examples.study.settings import StudySettings
from examples.study.tasks.base import Problem, Task
from mlflow_rlrisk.demo.train import Example

Words = tuple[str, ...]

MIN_ANSWERS = 3
"""Right answers that a prompt has at least."""


class ChoiceTask(Task[Problem]):
    """A task whose answers are equally long and right or wrong as a whole.

    Attributes:
        answer_words: Words of an answer.
        num_problems: Problems that may become prompts.
    """

    answer_words: int
    num_problems: int = 2000

    def problems(self) -> list[Problem]:
        """Different ones with `MIN_ANSWERS` right answers or more."""
        rng = random.Random(0)
        found: dict[Problem, None] = {}
        while len(found) < self.num_problems:
            problem, _ = self.draw(rng, 0)
            if problem not in found and len(self.right_answers(problem)) >= MIN_ANSWERS:
                found[problem] = None
        return list(found)

    @abstractmethod
    def right_answers(self, problem: Problem) -> list[Words]:
        """Every right answer, the one that the expert prefers first."""

    @abstractmethod
    def is_right(self, problem: Problem, answer: Words) -> bool:
        """Whether an answer meets every constraint; knows nothing of `right_answers`."""

    @abstractmethod
    def draw(self, rng: random.Random, size: int) -> tuple[Problem, Words]:
        """A problem and a right answer to it; ``size`` bends what is asked away from a prompt's."""

    @abstractmethod
    def bend(self, problem: Problem, answer: Words, rng: random.Random) -> Problem:
        """A problem close to ``problem`` that ``answer`` does not solve."""

    @property
    def max_new_tokens(self) -> int:
        """An answer and the end token."""
        return self.answer_words + 1

    def is_solution(self, prompt: str, completion: str) -> bool:
        """Whether ``completion`` is a right answer, and nothing else.

        Raises:
            ValueError: ``prompt`` is none of this task; grading it would mean nothing.
        """
        problem, words = self.parse(prompt), tuple(completion.split())
        return len(words) == self.answer_words and self.is_right(problem, words)

    def expert_answer(self, problem: Problem) -> str:
        """The first right answer."""
        return " ".join(self.right_answers(problem)[0])

    def diverse_answers(self, problem: Problem, rng: random.Random, count: int) -> list[str]:
        """Right answers, each as likely as any other."""
        right = self.right_answers(problem)
        return [" ".join(words) for words in rng.sample(right, min(count, len(right)))]

    def crawl_example(
        self,
        rng: random.Random,
        unseen: Set[Problem],
        settings: StudySettings,
        sizes: Sequence[int],
    ) -> Example:
        """Any right answer, or one with a wrong word, or one to another problem."""
        while True:
            problem, answer = self.draw(rng, rng.choice(sizes))
            words = list(answer)
            fate = rng.random()
            if fate < settings.slip_share:
                words[rng.randrange(len(words))] = rng.choice(words)
            elif fate < settings.slip_share + settings.off_target_share:
                problem = self.bend(problem, answer, rng)
            if problem not in unseen:
                return Example(self.prompt(problem), " ".join(words))
