"""Settings of the tests that were planned before their runs; each is `FULL` with other lineages."""

from examples.study.settings import FULL, LineageSettings

PROSPECTIVE = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="latin-opt",
                task="latin",
                architecture="opt",
                base_seed=4,
                base_steps=300,
                walk_lengths=(-2, -1, 0, 1, 2),
                sft_learning_rate=1e-3,
                rl_learning_rate=2e-4,
            ),
            LineageSettings(
                name="arranging-phi",
                task="arranging",
                architecture="phi",
                base_seed=5,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Two further lineages, planned when the index was fixed; everything else is as in `FULL`."""

PROSPECTIVE_2 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="coloring-olmo2",
                task="coloring",
                architecture="olmo2",
                base_seed=6,
                base_steps=1000,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="paying-bloom",
                task="paying",
                architecture="bloom",
                base_seed=7,
                base_steps=900,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="brackets-stablelm",
                task="brackets",
                architecture="stablelm",
                base_seed=8,
                base_steps=300,
                walk_lengths=(-1, 0, 0, 1),
                sft_learning_rate=1e-3,
                rl_learning_rate=2e-4,
            ),
        )
    }
)
"""Three more, planned when the index had changed after that test."""

PROSPECTIVE_3 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="seating-gptj",
                task="seating",
                architecture="gptj",
                base_seed=9,
                base_steps=400,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="booking-qwen3",
                task="booking",
                architecture="qwen3",
                base_seed=10,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=1e-4,
            ),
            LineageSettings(
                name="weaving-cohere",
                task="weaving",
                architecture="cohere",
                base_seed=11,
                base_steps=300,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Three more, planned when the run's first updates had become part of the level.

`booking-qwen3` has a third of the rate at which its pilot did well: a recipe too weak for the task.
"""

PROSPECTIVE_4 = FULL.model_copy(
    update={
        "lineages": (
            PROSPECTIVE_3.lineage("booking-qwen3").model_copy(
                update={"name": "booking-qwen3-slow", "rl_learning_rate": 3e-5}
            ),
        )
    }
)
"""One of these again at a tenth of its pilot's rate, for at a third hardly a run had failed."""

PROSPECTIVE_5 = FULL.model_copy(
    update={
        "lineages": (
            PROSPECTIVE_3.lineage("seating-gptj").model_copy(
                update={"name": "seating-gptj-slow", "rl_learning_rate": 7e-5}
            ),
            PROSPECTIVE_3.lineage("weaving-cohere").model_copy(
                update={"name": "weaving-cohere-slow", "rl_learning_rate": 5e-5}
            ),
        )
    }
)
"""The other two again at rates where runs are to end on both sides of the line of failure."""

PROSPECTIVE_6 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="weighing-starcoder2",
                task="weighing",
                architecture="starcoder2",
                base_seed=12,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="turning-bigcode",
                task="turning",
                architecture="gpt_bigcode",
                base_seed=13,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="guarding-mixtral",
                task="guarding",
                architecture="mixtral",
                base_seed=14,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Three new ones at the rate that most had, two of them arithmetic, which RL learned slowly before.

No run was made to choose the rate.
"""

PROSPECTIVE_7 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="hiking-granite",
                task="hiking",
                architecture="granite",
                base_seed=15,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="queueing-falcon",
                task="queueing",
                architecture="falcon",
                base_seed=16,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=1e-4,
            ),
        )
    }
)
"""Two more, for the chance of failure that is read off the first updates; no run chose a rate."""

PROSPECTIVE_8 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="sharing-persimmon",
                task="sharing",
                architecture="persimmon",
                base_seed=17,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=1e-4,
            ),
            LineageSettings(
                name="climbing-gptneo",
                task="climbing",
                architecture="gpt_neo",
                base_seed=18,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=5e-5,
            ),
        )
    }
)
"""Two more, for the level with the wider interval of the updates; no run chose a rate."""

PROSPECTIVE_9 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="tiling-phi3",
                task="tiling",
                architecture="phi3",
                base_seed=19,
                base_steps=1200,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="covering-glm",
                task="covering",
                architecture="glm",
                base_seed=20,
                base_steps=1200,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Two more for the same, of the kind on which levels by the samples failed; no run chose a rate."""

PROSPECTIVE_10 = FULL.model_copy(
    update={
        "lineages": (
            PROSPECTIVE_3.lineage("seating-gptj").model_copy(
                update={"name": "seating-gptj-young", "base_seed": 21, "base_steps": 320}
            ),
        )
    }
)
"""A task that RL learns well, from a base that was hardly trained: few right answers, no luck."""

PROSPECTIVE_11 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="swapping-mistral",
                task="swapping",
                architecture="mistral",
                base_seed=22,
                base_steps=400,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="packing-helium",
                task="packing",
                architecture="helium",
                base_seed=23,
                base_steps=600,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="swinging-smollm3",
                task="swinging",
                architecture="smollm3",
                base_seed=24,
                base_steps=190,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="tracing-arcee",
                task="tracing",
                architecture="arcee",
                base_seed=25,
                base_steps=130,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Four new ones at the rate that most had, for the line of headroom; no run chose a rate."""

PROSPECTIVE_12 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="dividing-apertus",
                task="dividing",
                architecture="apertus",
                base_seed=26,
                base_steps=500,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="balancing-ernie",
                task="balancing",
                architecture="ernie4_5",
                base_seed=27,
                base_steps=450,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="hiding-olmo3",
                task="hiding",
                architecture="olmo3",
                base_seed=28,
                base_steps=140,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="parking-exaone4",
                task="parking",
                architecture="exaone4",
                base_seed=29,
                base_steps=450,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Four new ones at the rate that most had, for a line of agreement; no run chose a rate."""

PROSPECTIVE_13 = FULL.model_copy(
    update={
        "lineages": (
            LineageSettings(
                name="sorting-hunyuan",
                task="sorting",
                architecture="hunyuan",
                base_seed=30,
                base_steps=140,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
            LineageSettings(
                name="translating-cohere2",
                task="translating",
                architecture="cohere2",
                base_seed=31,
                base_steps=140,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=2e-4,
            ),
            LineageSettings(
                name="summing-seedoss",
                task="summing",
                architecture="seed_oss",
                base_seed=32,
                base_steps=340,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=2e-4,
            ),
            LineageSettings(
                name="multiplying-glm4",
                task="multiplying",
                architecture="glm4",
                base_seed=33,
                base_steps=360,
                walk_lengths=(0,),
                sft_learning_rate=1e-3,
                rl_learning_rate=3e-4,
            ),
        )
    }
)
"""Four new ones for the index where little is left to learn, two whose answers are extracted."""

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
}
"""By the file in ``results`` that froze them."""
