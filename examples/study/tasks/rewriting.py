"""String rewriting: ``a b c d => d a c b :`` is answered by the strings on the way.

Each string of the answer follows from the one before by one use of one rule.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

from examples.study.tasks.walks import Move, Pair, State, WalkTask

LETTERS = "abcd"
LENGTH = 4
RULES = (
    *((x + y, y + x) for x in LETTERS for y in LETTERS if x != y),
    ("aa", "bb"),
    ("bb", "cc"),
    ("cc", "dd"),
    ("dd", "aa"),
)
"""Left and right side: any two neighbours may change places, a double becomes the next double.

The expert prefers earlier rules, and earlier places in the string.
"""


class Rewriting(WalkTask):
    """The task."""

    name = "rewriting"
    max_steps = 4
    distance = 2
    step_words = LENGTH

    def states(self) -> list[State]:
        return list(product(LETTERS, repeat=LENGTH))

    @cache  # noqa: B019  (one instance lives as long as the process)
    def moves(self, state: State) -> tuple[Move, ...]:
        text, found = "".join(state), []
        for left, right in RULES:
            for place in range(LENGTH - 1):
                if text[place : place + 2] == left:
                    reached = tuple(text[:place] + right + text[place + 2 :])
                    found.append(Move(reached, reached))
        return tuple(found)

    def prompt(self, pair: Pair) -> str:
        return f"{' '.join(pair.start)} => {' '.join(pair.target)} :"

    def parse(self, prompt: str) -> Pair:
        words = prompt.split()
        if len(words) != 2 * LENGTH + 2 or words[LENGTH] != "=>" or words[-1] != ":":
            raise ValueError(f"prompt={prompt!r}: 'a b c d => e f g h :' is needed")
        return Pair(tuple(words[:LENGTH]), tuple(words[LENGTH + 1 : -1]))

    def words(self) -> list[str]:
        return ["=>", ":", *LETTERS]

    def follow(self, state: State, words: Sequence[str]) -> State | None:
        reached = tuple(words)
        differs = [place for place in range(LENGTH) if state[place] != reached[place]]
        if len(differs) != 2 or differs[1] != differs[0] + 1:
            return None  # every rule changes two neighbours
        old, new = ("".join(state[p] for p in differs), "".join(reached[p] for p in differs))
        return reached if (old, new) in RULES else None


TASK = Rewriting()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for a right derivation, else 0.0; GRPO trains with it, the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
