"""SFT/RL overlap: ours beside datasketch's MinHashLSH, and ours at 10^6 prompts with its memory.

``python -m tests.benchmarks.overlap`` compares both on a sample, in turn;
``python -m tests.benchmarks.overlap --million`` runs 10^6 RL against 10^6 SFT prompts once.
datasketch is no dependency: ``pip install datasketch`` first.
"""

import argparse
import random
import resource
import time
from collections.abc import Iterator
from functools import partial

from mlflow_rlrisk.overlap import find_overlap
from mlflow_rlrisk.overlap.minhash import NUM_BANDS, ROWS_PER_BAND
from mlflow_rlrisk.overlap.search import NEAR
from mlflow_rlrisk.overlap.shingles import normalised
from tests.benchmarks.interleaved import finish, seconds_by_name, table

WORDS = [f"w{i}" for i in range(30_000)]
FORM = "Solve the problem step by step and put the answer into a box: "


def sentence(rng: random.Random) -> str:
    return FORM + " ".join(rng.choices(WORDS, k=40))


def rl_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return [sentence(rng) for _ in range(count)]


def sft_texts(rl: list[str]) -> Iterator[str]:
    """A tenth of the RL prompts in capitals, a tenth with one word changed, the rest other ones."""
    rng = random.Random(1)
    for index, text in enumerate(rl):
        if index < len(rl) // 10:
            yield text.upper()
        elif index < len(rl) // 5:
            words = text.split()
            words[20] = "changed"
            yield " ".join(words)
        else:
            yield sentence(rng)


def by_datasketch(rl: list[str], sft: list[str]) -> int:
    """The usual program: MinHash of every prompt, an index, candidates compared exactly."""
    from datasketch import MinHash, MinHashLSH

    def grams(text: str) -> set[str]:
        words = normalised(text).split()
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}

    def sketch(found: set[str]) -> MinHash:
        made = MinHash(num_perm=NUM_BANDS * ROWS_PER_BAND)
        made.update_batch([gram.encode() for gram in found])
        return made

    index = MinHashLSH(num_perm=NUM_BANDS * ROWS_PER_BAND, params=(NUM_BANDS, ROWS_PER_BAND))
    sets = [grams(text) for text in rl]
    for place, found in enumerate(sets):
        index.insert(place, sketch(found))
    matched = set()
    for text in sft:
        found = grams(text)
        for place in index.query(sketch(found)):
            if len(found & sets[place]) >= NEAR * len(found | sets[place]):
                matched.add(place)
    return len(matched)


def compare(size: int, reps: int) -> None:
    rl = rl_texts(size)
    sft = list(sft_texts(rl))
    ours, theirs = find_overlap(rl, sft), by_datasketch(rl, sft)
    print(f"found: ours {ours.num_exact + ours.num_near}, datasketch {theirs} of {size // 5}")
    contenders = {
        "ours": partial(find_overlap, rl, sft),
        "datasketch MinHashLSH": partial(by_datasketch, rl, sft),
    }
    seconds = seconds_by_name(contenders, reps)
    results = [table(f"overlap of {size} RL with {size} SFT prompts", seconds, {}, "ours")]
    finish(results, None)


def million(size: int) -> None:
    rl = rl_texts(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    found = find_overlap(rl, sft_texts(rl))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(found.sentence)
    print(
        f"{time.perf_counter() - start:.0f} s wall, {time.process_time() - cpu:.0f} s CPU "
        f"(making the SFT texts included), peak {(after - before) / 1024:.0f} MB over the "
        f"{before / 1024:.0f} MB of the RL texts"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--reps", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.million:
        million(chosen.size or 1_000_000)
    else:
        compare(chosen.size or 5_000, chosen.reps)


if __name__ == "__main__":
    main()
