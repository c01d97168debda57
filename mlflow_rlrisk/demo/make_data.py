"""Draw the demo's prompt sets: ``python -m mlflow_rlrisk.demo.make_data`` rewrites ``data/``.

All sets hold pairs that are exactly `DISTANCE` steps apart, and no pair is in two of them. The
base checkpoint never saw a pair of the RL or of the held-out set.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

from mlflow_rlrisk.demo.task import (
    MAX_VALUE,
    distances_to,
    render_chain,
    render_prompt,
    shortest_chain,
)

DATA = Path(__file__).parent / "data"
EXPERT, RL, HELDOUT = DATA / "expert.jsonl", DATA / "rl.jsonl", DATA / "heldout.jsonl"
DISTANCE = 3
NUM_EXPERT, NUM_RL, NUM_HELDOUT = 256, 200, 200
SEED = 20260


class Pair(NamedTuple):
    """Start and target of a prompt."""

    start: int
    target: int


class Sets(NamedTuple):
    """The three disjoint sets."""

    expert: list[Pair]
    rl: list[Pair]
    heldout: list[Pair]


def draw_sets() -> Sets:
    """The sets, always the same ones."""
    pairs = [
        Pair(start, target)
        for target in range(1, MAX_VALUE + 1)
        for start, distance in sorted(distances_to(target).items())
        if distance == DISTANCE
    ]
    random.Random(SEED).shuffle(pairs)
    first_heldout, end = NUM_EXPERT + NUM_RL, NUM_EXPERT + NUM_RL + NUM_HELDOUT
    return Sets(pairs[:NUM_EXPERT], pairs[NUM_EXPERT:first_heldout], pairs[first_heldout:end])


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """One JSON object a line: the prompt and the expert's solution."""
    lines = [
        json.dumps(
            {
                "prompt": render_prompt(*pair),
                "solution": render_chain(shortest_chain(*pair)),
            }
        )
        for pair in pairs
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write the three files."""
    DATA.mkdir(exist_ok=True)
    sets = draw_sets()
    for path, pairs in ((EXPERT, sets.expert), (RL, sets.rl), (HELDOUT, sets.heldout)):
        write_pairs(path, pairs)


if __name__ == "__main__":
    main()
