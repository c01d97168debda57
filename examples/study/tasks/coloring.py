"""Colouring graphs: ``color a b a d b c b f c f d e e f with a red :``.

The answer names a colour for each vertex in alphabetical order; the ends of every edge differ,
and one vertex has the colour that the prompt gives it.
"""

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from examples.study.tasks.choices import ChoiceTask, Words

VERTICES = ("a", "b", "c", "d", "e", "f")
COLORS = ("blue", "green", "red")
PAIRS = tuple(combinations(VERTICES, 2))
NUM_EDGES = 7

Edge = tuple[str, str]


class Graph(NamedTuple):
    """What is asked: sorted edges, and the colour of one vertex."""

    edges: tuple[Edge, ...]
    vertex: str
    color: str


class Coloring(ChoiceTask[Graph]):
    """The task."""

    name = "coloring"
    answer_words = len(VERTICES)

    def draw(self, rng: random.Random, size: int) -> tuple[Graph, Words]:
        """Colours and a graph that allows them; ``size`` has no meaning here."""
        while True:
            colors = dict(zip(VERTICES, rng.choices(COLORS, k=len(VERTICES)), strict=True))
            free = [(x, y) for x, y in PAIRS if colors[x] != colors[y]]
            if len(free) >= NUM_EDGES:
                edges = tuple(sorted(rng.sample(free, NUM_EDGES)))
                vertex = rng.choice(VERTICES)
                return Graph(edges, vertex, colors[vertex]), tuple(colors.values())

    def bend(self, problem: Graph, answer: Words, rng: random.Random) -> Graph:
        """One edge joins two vertices of the answer that are coloured alike.

        Six vertices and three colours: there always are two.
        """
        colors = dict(zip(VERTICES, answer, strict=True))
        alike = [(x, y) for x, y in PAIRS if colors[x] == colors[y]]
        kept = rng.sample(problem.edges, NUM_EDGES - 1)
        return problem._replace(edges=tuple(sorted([*kept, rng.choice(alike)])))

    def right_answers(self, problem: Graph) -> list[Words]:
        found: list[Words] = [()]
        for place, vertex in enumerate(VERTICES):
            earlier = [VERTICES.index(x) for x, y in problem.edges if y == vertex]
            allowed = (problem.color,) if vertex == problem.vertex else COLORS
            found = [
                (*colors, color)
                for colors in found
                for color in allowed
                if all(colors[other] != color for other in earlier if other < place)
            ]
        return found

    def is_right(self, problem: Graph, answer: Words) -> bool:
        colors = dict(zip(VERTICES, answer, strict=True))
        if not set(answer) <= set(COLORS) or colors[problem.vertex] != problem.color:
            return False
        return all(colors[x] != colors[y] for x, y in problem.edges)

    def prompt(self, problem: Graph) -> str:
        edges = " ".join(vertex for edge in problem.edges for vertex in edge)
        return f"color {edges} with {problem.vertex} {problem.color} :"

    def parse(self, prompt: str) -> Graph:
        words = prompt.split()
        marks = (0, 2 * NUM_EDGES + 1, -1)
        found = [words[mark] for mark in marks] if len(words) == 2 * NUM_EDGES + 5 else []
        if found != ["color", "with", ":"]:
            raise ValueError(f"prompt={prompt!r}: 'color ... with A red :' is needed")
        ends = words[1 : 2 * NUM_EDGES + 1]
        return Graph(tuple(zip(ends[0::2], ends[1::2], strict=True)), words[-3], words[-2])

    def words(self) -> list[str]:
        return ["color", "with", ":", *VERTICES, *COLORS]


TASK = Coloring()


def reward(prompts: Sequence[str], completions: Sequence[str], **_columns: Any) -> list[float]:
    """1.0 for right colours, else 0.0; GRPO trains with it and the assessment grades with it."""
    return [
        float(TASK.is_solution(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
