"""Settings of the tests that were planned before their runs; each is `FULL` with other lineages."""

from typing import Any

from examples.study.settings import FULL, Architecture, LineageSettings, StudySettings


def _lineage(
    name: str,
    architecture: Architecture,
    base_seed: int,
    base_steps: int,
    *,
    rl_learning_rate: float = 3e-4,
    walk_lengths: tuple[int, ...] = (0,),
) -> LineageSettings:
    """A lineage whose task is named by what its own name begins with."""
    return LineageSettings(
        name=name,
        task=name.split("-")[0],
        architecture=architecture,
        base_seed=base_seed,
        base_steps=base_steps,
        walk_lengths=walk_lengths,
        sft_learning_rate=1e-3,
        rl_learning_rate=rl_learning_rate,
    )


def _planned(*lineages: LineageSettings) -> StudySettings:
    return FULL.model_copy(update={"lineages": lineages})


def _again(study: StudySettings, of: str, /, **changes: Any) -> LineageSettings:
    """A lineage of ``study`` with other settings."""
    return study.lineage(of).model_copy(update=changes)


PROSPECTIVE = _planned(
    _lineage("latin-opt", "opt", 4, 300, rl_learning_rate=2e-4, walk_lengths=(-2, -1, 0, 1, 2)),
    _lineage("arranging-phi", "phi", 5, 600),
)
"""Two further lineages, planned when the index was fixed; everything else is as in `FULL`."""

PROSPECTIVE_2 = _planned(
    _lineage("coloring-olmo2", "olmo2", 6, 1000),
    _lineage("paying-bloom", "bloom", 7, 900),
    _lineage(
        "brackets-stablelm", "stablelm", 8, 300, rl_learning_rate=2e-4, walk_lengths=(-1, 0, 0, 1)
    ),
)
"""Three more, planned when the index had changed after that test."""

PROSPECTIVE_3 = _planned(
    _lineage("seating-gptj", "gptj", 9, 400),
    _lineage("booking-qwen3", "qwen3", 10, 600, rl_learning_rate=1e-4),
    _lineage("weaving-cohere", "cohere", 11, 300),
)
"""Three more, planned when the run's first updates had become part of the level.

`booking-qwen3` has a third of the rate at which its pilot did well: a recipe too weak for the task.
"""

PROSPECTIVE_4 = _planned(
    _again(PROSPECTIVE_3, "booking-qwen3", name="booking-qwen3-slow", rl_learning_rate=3e-5),
)
"""One of these again at a tenth of its pilot's rate, for at a third hardly a run had failed."""

PROSPECTIVE_5 = _planned(
    _again(PROSPECTIVE_3, "seating-gptj", name="seating-gptj-slow", rl_learning_rate=7e-5),
    _again(PROSPECTIVE_3, "weaving-cohere", name="weaving-cohere-slow", rl_learning_rate=5e-5),
)
"""The other two again at rates where runs are to end on both sides of the line of failure."""

PROSPECTIVE_6 = _planned(
    _lineage("weighing-starcoder2", "starcoder2", 12, 600),
    _lineage("turning-bigcode", "gpt_bigcode", 13, 600),
    _lineage("guarding-mixtral", "mixtral", 14, 600),
)
"""Three new ones at the rate that most had, two of them arithmetic, which RL learned slowly before.

No run was made to choose the rate.
"""

PROSPECTIVE_7 = _planned(
    _lineage("hiking-granite", "granite", 15, 600),
    _lineage("queueing-falcon", "falcon", 16, 600, rl_learning_rate=1e-4),
)
"""Two more, for the chance of failure that is read off the first updates; no run chose a rate."""

PROSPECTIVE_8 = _planned(
    _lineage("sharing-persimmon", "persimmon", 17, 600, rl_learning_rate=1e-4),
    _lineage("climbing-gptneo", "gpt_neo", 18, 600, rl_learning_rate=5e-5),
)
"""Two more, for the level with the wider interval of the updates; no run chose a rate."""

PROSPECTIVE_9 = _planned(
    _lineage("tiling-phi3", "phi3", 19, 1200),
    _lineage("covering-glm", "glm", 20, 1200),
)
"""Two more for the same, of the kind on which levels by the samples failed; no run chose a rate."""

PROSPECTIVE_10 = _planned(
    _again(PROSPECTIVE_3, "seating-gptj", name="seating-gptj-young", base_seed=21, base_steps=320),
)
"""A task that RL learns well, from a base that was hardly trained: few right answers, no luck."""

PROSPECTIVE_11 = _planned(
    _lineage("swapping-mistral", "mistral", 22, 400),
    _lineage("packing-helium", "helium", 23, 600),
    _lineage("swinging-smollm3", "smollm3", 24, 190),
    _lineage("tracing-arcee", "arcee", 25, 130),
)
"""Four new ones at the rate that most had, for the line of headroom; no run chose a rate."""

PROSPECTIVE_12 = _planned(
    _lineage("dividing-apertus", "apertus", 26, 500),
    _lineage("balancing-ernie", "ernie4_5", 27, 450),
    _lineage("hiding-olmo3", "olmo3", 28, 140),
    _lineage("parking-exaone4", "exaone4", 29, 450),
)
"""Four new ones at the rate that most had, for a line of agreement; no run chose a rate."""

PROSPECTIVE_13 = _planned(
    _lineage("sorting-hunyuan", "hunyuan", 30, 140),
    _lineage("translating-cohere2", "cohere2", 31, 140, rl_learning_rate=2e-4),
    _lineage("summing-seedoss", "seed_oss", 32, 340, rl_learning_rate=2e-4),
    _lineage("multiplying-glm4", "glm4", 33, 360),
)
"""Four new ones for the index where little is left to learn, two whose answers are extracted."""

GROUPS_OF_16 = FULL.model_copy(update={"group_size": 16, "prompts_per_step": 8})
"""As `FULL`, as many rollouts an update, but in half as many groups of twice the size."""

PROSPECTIVE_14 = GROUPS_OF_16.model_copy(
    update={
        "lineages": (
            _again(PROSPECTIVE_8, "climbing-gptneo", name="climbing-gptneo-16"),
            _again(PROSPECTIVE_11, "tracing-arcee", name="tracing-arcee-16"),
            _again(PROSPECTIVE_12, "dividing-apertus", name="dividing-apertus-16"),
            _again(PROSPECTIVE_12, "parking-exaone4", name="parking-exaone4-16"),
        )
    }
)
"""Four of these again, assessed and trained in groups of 16: all others are of groups of 8."""

STUDIES = {
    "SETTINGS.json": FULL,
    "SETTINGS-prospective.json": PROSPECTIVE,
    "SETTINGS-prospective-2.json": PROSPECTIVE_2,
    "SETTINGS-prospective-3.json": PROSPECTIVE_3,
    "SETTINGS-prospective-4.json": PROSPECTIVE_4,
    "SETTINGS-prospective-5.json": PROSPECTIVE_5,
    "SETTINGS-prospective-6.json": PROSPECTIVE_6,
    "SETTINGS-prospective-7.json": PROSPECTIVE_7,
    "SETTINGS-prospective-8.json": PROSPECTIVE_8,
    "SETTINGS-prospective-9.json": PROSPECTIVE_9,
    "SETTINGS-prospective-10.json": PROSPECTIVE_10,
    "SETTINGS-prospective-11.json": PROSPECTIVE_11,
    "SETTINGS-prospective-12.json": PROSPECTIVE_12,
    "SETTINGS-prospective-13.json": PROSPECTIVE_13,
    "SETTINGS-prospective-14.json": PROSPECTIVE_14,
}
"""By the file in ``results`` that froze them."""
