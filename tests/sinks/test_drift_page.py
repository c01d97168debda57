"""The drift page over reports typed in: every step, its alarms, and foreign names."""

from dataclasses import replace

import pytest

from mlflow_rlrisk.lineage.drift import Divergence, DriftReport, WeightDrift
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.modes import AnswerModes
from mlflow_rlrisk.sinks.drift_page import drift_steps, render_drift


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, ci_low=value - half, ci_high=value + half)


def divergence(value: float) -> Divergence:
    return Divergence(
        sampled_from="a",
        against="b",
        per_token=estimate(value),
        per_token_k3=estimate(value),
        per_sequence=estimate(10 * value),
        num_sequences=80,
    )


REPORT = DriftReport(
    before="models:/sft/3",
    after="models:/rl/1",
    num_prompts=20,
    weights=WeightDrift(
        total=0.1,
        by_part={"attention": 0.2, "norms": 0.0},
        num_unchanged=1,
        num_tensors=9,
        only_before=(),
        only_after=(),
    ),
    is_tokenizer_equal=True,
    is_template_equal=False,
    generation_config={"temperature": (None, 0.3)},
    reverse=divergence(0.02),
    forward=divergence(0.03),
    changes={
        "rlrisk/pass_at_1": estimate(0.05),
        "rlrisk/pass_at_8": estimate(-0.2),
        "rlrisk/token_entropy": estimate(-0.4),
        "rlrisk/group_signal_fraction": estimate(-0.3),
        "rlrisk/heldout_nll": estimate(0.15),
    },
    reward_change=estimate(0.05),
    reward_bound=0.31,
    is_bound_kept=True,
    is_reward_lower=False,
    modes=AnswerModes(
        lost=estimate(1.5),
        new=estimate(0.5),
        lost_correct=estimate(0.4),
        lost_by_chance=0.7,
        new_by_chance=0.6,
    ),
    forget_ratio=0.375,
    forget_ratio_ci=(0.2, 0.5),
    notes=("a note",),
)


def test_every_step_from_weights_to_reward_is_drawn_and_listed() -> None:
    page = render_drift(REPORT)

    stages = [step.stage for step in drift_steps(REPORT)]
    assert list(dict.fromkeys(stages)) == [
        "weights",
        "inputs",
        "data",
        "policy",
        "samples",
        "reward",
    ]
    for text in (
        "moved by 10.00%",
        "unchanged",
        "temperature: unset → 0.3",
        "+0.150 nats/token",
        "38%",
        "pass@8",
        "answers lost, per prompt",
        "The mean reward rose, groups with signal became fewer",
        "the divergence allows ±0.310",
        "The chat template differs",
        "a note",
    ):
        assert text in page, text
    assert page.count("<svg") == 1
    assert page == render_drift(REPORT)


def test_what_was_not_measured_is_said_and_drawn_as_nothing() -> None:
    bare = replace(
        REPORT,
        weights=None,
        reverse=None,
        forward=None,
        reward_bound=None,
        is_bound_kept=None,
        changes={},
        modes=None,
        forget_ratio=None,
        forget_ratio_ci=None,
    )

    steps = {step.label: step for step in drift_steps(bare)}

    assert steps["weights"].text == "not measured"
    assert steps["KL(after ‖ before)"].change is None
    assert "--expert-data" in steps["loss on expert data"].text
    assert "not measured" in render_drift(bare)


@pytest.mark.parametrize(
    ("changes", "alarm"),
    [
        ({"is_reward_lower": True, "reward_change": estimate(-0.2)}, "The mean reward fell, and"),
        ({"is_bound_kept": False}, "a figure is wrong"),
        ({"is_tokenizer_equal": False}, "The tokenizer differs"),
    ],
)
def test_an_alarm_stands_on_the_first_screen(changes: dict[str, object], alarm: str) -> None:
    page = render_drift(replace(REPORT, **changes))  # type: ignore[arg-type]

    assert alarm in page[: page.index("From weights to rewards")]


def test_hostile_names_stay_text() -> None:
    page = render_drift(replace(REPORT, after='<script>alert(1)</script>"\u202e'))

    assert "<script" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize("value", ["$\\x$", "$x^$", "$$", "a\x00b", "\ud800x", "<script>"])
def test_whatever_a_generation_config_holds_is_drawn_as_it_is(value: str) -> None:
    report = replace(REPORT, generation_config={"stop_strings": (None, [value]), "s": (value, 1)})

    page = render_drift(report)

    assert "\x00" not in page
    assert "<script" not in page
    page.encode()
