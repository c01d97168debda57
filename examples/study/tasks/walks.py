"""What three tasks share: a walk from one state to another, with many right ways.

A task names its states, the moves out of a state and how a move is written. Prompts, the
expert's one answer, several other right answers and the noisy material of the base follow from
that.
"""

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence, Set
from functools import cache
from typing import NamedTuple

from examples.study.settings import StudySettings
from examples.study.tasks.base import Task
from mlflow_rlrisk.demo.train import Example

State = tuple[str, ...]


class Move(NamedTuple):
    """One step: how it is written, and where it leads."""

    words: tuple[str, ...]
    state: State


class Pair(NamedTuple):
    """Start and target of a prompt."""

    start: State
    target: State


class WalkTask(Task[Pair]):
    """A task whose answers are walks.

    Attributes:
        max_steps: A right answer has 1..max_steps steps.
        distance: Prompts are pairs that are exactly this many steps apart.
        step_words: Words of one step.
    """

    max_steps: int
    distance: int
    step_words: int

    @abstractmethod
    def states(self) -> list[State]:
        """Every state."""

    @abstractmethod
    def moves(self, state: State) -> tuple[Move, ...]:
        """Every possible step, in the order in which the expert prefers them."""

    @abstractmethod
    def follow(self, state: State, words: Sequence[str]) -> State | None:
        """Where one written step leads, ``None`` where it is wrong; knows nothing of `moves`."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest right answer and the end token."""
        return self.max_steps * self.step_words + 1

    def is_solution(self, prompt: str, completion: str) -> bool:
        """Whether ``completion`` leads from the prompt's start to its target without an error.

        Raises:
            ValueError: ``prompt`` is none of this task; grading it would mean nothing.
        """
        state, target = self.parse(prompt)
        words, width = completion.split(), self.step_words
        if not words or len(words) % width or len(words) > width * self.max_steps:
            return False
        for first in range(0, len(words), width):
            following = self.follow(state, words[first : first + width])
            if following is None:
                return False
            state = following
        return state == target

    def problems(self) -> list[Pair]:
        """Every pair at the task's distance."""
        return all_pairs(self)

    def expert_answer(self, pair: Pair) -> str:
        """The shortest, ties go to the move that the task prefers."""
        return expert_answer(self, pair)

    def diverse_answers(self, pair: Pair, rng: random.Random, count: int) -> list[str]:
        """Different right answers, drawn step by step."""
        return diverse_answers(self, pair, rng, count)

    def crawl_example(
        self, rng: random.Random, unseen: Set[Pair], settings: StudySettings, sizes: Sequence[int]
    ) -> Example:
        """One walk as a crawl might hold it: any way, right or wrong, no pair of ``unseen``."""
        states = _states(self)
        while True:
            start = rng.choice(states)
            length = max(1, self.distance + rng.choice(sizes))
            chain: list[Move] = []
            state = start
            for _ in range(length):
                chain.append(rng.choice(self.moves(state)))
                state = chain[-1].state
            target = state
            fate = rng.random()
            words = render(chain).split()
            if fate < settings.slip_share:
                words[rng.randrange(len(words))] = rng.choice(words)
            elif fate < settings.slip_share + settings.off_target_share:
                target = rng.choice(self.moves(state)).state
            pair = Pair(start, target)
            if target != start and pair not in unseen:
                return Example(self.prompt(pair), " ".join(words))


@cache
def _states(task: WalkTask) -> list[State]:
    return task.states()


def render(moves: Sequence[Move]) -> str:
    """An answer: the words of its steps."""
    return " ".join(word for move in moves for word in move.words)


@cache
def _sources(task: WalkTask) -> dict[State, tuple[State, ...]]:
    """The states from which one step leads to each state."""
    into: dict[State, dict[State, None]] = {}
    for state in task.states():
        for move in task.moves(state):
            into.setdefault(move.state, {})[state] = None
    return {state: tuple(found) for state, found in into.items()}


@cache
def distances_to(task: WalkTask, target: State) -> dict[State, int]:
    """Fewest steps to ``target``, of the states within ``task.max_steps``."""
    sources = _sources(task)
    distances, frontier = {target: 0}, [target]
    for steps in range(1, task.max_steps + 1):
        reached = {source for state in frontier for source in sources.get(state, ())}
        frontier = sorted(state for state in reached if state not in distances)
        distances.update(dict.fromkeys(frontier, steps))
    return distances


def all_pairs(task: WalkTask) -> list[Pair]:
    """Every prompt there is, in a fixed order."""
    return [
        Pair(start, target)
        for target in task.states()
        for start, steps in sorted(distances_to(task, target).items())
        if steps == task.distance
    ]


def expert_answer(task: WalkTask, pair: Pair) -> str:
    """The expert's one answer: the shortest, ties go to the move that the task prefers."""
    distances, state = distances_to(task, pair.target), pair.start
    chain: list[Move] = []
    while state != pair.target:
        steps = distances[state] - 1
        move = next(m for m in task.moves(state) if distances.get(m.state) == steps)
        chain.append(move)
        state = move.state
    return render(chain)


def random_answer(task: WalkTask, pair: Pair, rng: random.Random) -> str:
    """A right answer, drawn step by step among the moves that can still arrive in time."""
    distances, state = distances_to(task, pair.target), pair.start
    chain: list[Move] = []
    while state != pair.target:
        left = task.max_steps - len(chain) - 1
        useful = [m for m in task.moves(state) if distances.get(m.state, left + 1) <= left]
        move = rng.choice(useful)
        chain.append(move)
        state = move.state
    return render(chain)


def diverse_answers(task: WalkTask, pair: Pair, rng: random.Random, count: int) -> list[str]:
    """At most ``count`` different right answers."""
    found: dict[str, None] = {}
    for _ in range(4 * count):
        found[random_answer(task, pair, rng)] = None
    return list(found)[:count]


def right_answers(task: WalkTask, pair: Pair) -> Iterator[str]:
    """Every right answer that does not pass through the target on its way."""
    distances = distances_to(task, pair.target)

    def walk(state: State, chain: list[Move]) -> Iterator[str]:
        left = task.max_steps - len(chain) - 1
        for move in task.moves(state):
            if move.state == pair.target:
                yield render([*chain, move])
            elif distances.get(move.state, left + 1) <= left:
                yield from walk(move.state, [*chain, move])

    return walk(pair.start, [])
