"""The rules on published and simulated histories, and each rule at its own line."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor import Judgement, LogRow, MonitorPolicy, MonitorSettings, RunFacts
from mlflow_rlrisk.monitor import judge_rows as judge
from tests.monitor.histories import (
    collapsing_rows,
    drop_history,
    healthy_rows,
    pilot_rows,
    random_healthy_run,
    surging_rows,
)

REAL_RUNS = Path(__file__).parents[1] / "data" / "real_grpo_runs.json"
DENSE, FIVES, TENS = list(range(1, 401)), list(range(0, 401, 5)), list(range(10, 151, 10))


def fired(judgement: Judgement) -> list[tuple[str, int, str]]:
    return [(alarm.rule, alarm.step, str(alarm.severity)) for alarm in judgement.alarms]


@pytest.mark.parametrize("steps", [DENSE, FIVES, TENS, list(range(10, 151))])
@pytest.mark.parametrize(
    ("drop", "is_alarm"),
    [(0.268, False), (0.454, False), (0.501, True), (0.478, False), (0.599, True)],
)
def test_the_published_drops_alarm_as_in_the_study(
    drop: float, is_alarm: bool, steps: list[int]
) -> None:
    judgement = judge(drop_history(drop, steps))

    assert [alarm.rule for alarm in judgement.alarms] == (["R1"] if is_alarm else [])
    for alarm in judgement.alarms:
        assert alarm.step <= alarm.confirmed_step <= 150
        assert alarm.threshold == 0.5
        assert alarm.value == pytest.approx(drop * (alarm.step - 10) / 140, abs=1e-9)
        assert alarm.evidence["source"] == "arXiv:2606.18487"


def test_the_run_that_died_by_rising_entropy_alarms_in_the_published_order() -> None:
    judgement = judge(pilot_rows())

    assert fired(judgement) == [
        ("R2", 20, "warn"),
        ("R3", 30, "warn"),
        ("R4", 30, "warn"),
        ("R4", 35, "critical"),
        ("R5", 35, "critical"),
    ]
    assert judgement.alarms[0].value == pytest.approx(2.6, abs=0.06)
    assert judgement.stop.step == 30


@pytest.mark.parametrize("seed", range(5))
def test_five_healthy_histories_give_no_alarm(seed: int) -> None:
    run = random_healthy_run(np.random.default_rng(seed))

    judgement = judge(healthy_rows(run))

    assert fired(judgement) == []
    assert judgement.stop.step is None


@pytest.mark.parametrize("seed", range(3))
def test_the_same_runs_alarm_once_they_collapse_or_surge(seed: int) -> None:
    run = random_healthy_run(np.random.default_rng(seed))

    collapsed = judge(collapsing_rows(run, onset=40, length=20))
    surged = judge(surging_rows(run, onset=15, length=15))

    assert {"R1", "R4"} <= {alarm.rule for alarm in collapsed.alarms}
    assert {"R2", "R3", "R5"} <= {alarm.rule for alarm in surged.alarms}
    assert collapsed.stop.step is not None
    assert surged.stop.step is not None
    assert min(a.confirmed_step for a in collapsed.alarms) > 40


def real_run(name: str) -> list[LogRow]:
    columns = json.loads(REAL_RUNS.read_text(encoding="utf-8"))[name]
    return [
        LogRow(i + 1, dict(zip(columns, v, strict=True)))
        for i, v in enumerate(zip(*columns.values(), strict=True))
    ]


def test_a_real_healthy_run_gives_no_alarm() -> None:
    assert fired(judge(real_run("healthy"))) == []


def test_of_two_real_runs_that_spend_their_entropy_only_the_dead_one_should_stop() -> None:
    # Both lose more than two thirds of it; the shallow one goes from .45 to .80 meanwhile.
    shallow, deep = judge(real_run("shallow")), judge(real_run("deep"))

    assert [rule for rule, *_ in fired(shallow)] == ["R1"]
    assert shallow.stop.step is None
    assert [rule for rule, *_ in fired(deep)] == ["R4", "R1"]
    assert deep.stop.reason == "R1 and R4 corroborate each other"


def rows(**columns: list[float]) -> list[LogRow]:
    names = {
        "zero": "frac_reward_zero_std",
        "cut": "completions/clipped_ratio",
        "length": "completions/mean_length",
        "ratio": "sampling/importance_sampling_ratio/mean",
    }
    size = len(next(iter(columns.values())))
    return [
        LogRow(i + 1, {names.get(name, name): values[i] for name, values in columns.items()})
        for i in range(size)
    ]


def test_dead_groups_need_three_logs_or_a_second_witness() -> None:
    calm = [0.3] * 20

    assert fired(judge(rows(zero=[*calm, 0.7, 0.7, 0.3]))) == []
    assert fired(judge(rows(zero=[*calm, 0.7, 0.7, 0.7]))) == [("R4", 21, "warn")]
    witnessed = judge(rows(zero=[*calm, 0.95], grad_norm=[0.4] * 20 + [0.0]))
    assert ("R4", 21, "critical") in fired(witnessed)


def test_steps_of_one_group_do_not_cry_wolf() -> None:
    rng = np.random.default_rng(3)

    share = [float(x) for x in rng.random(300) < 0.4]  # one prompt a step: 0 or 1

    assert fired(judge(rows(zero=share))) == []


def test_a_batch_scaled_share_is_refused() -> None:
    settings = MonitorSettings(facts=RunFacts(batch_scaled=True))

    judgement = judge(rows(zero=[1.0] * 20), settings)

    assert fired(judgement) == []
    assert "scale_rewards" in next(m.needs for m in judgement.missing if m.rule == "R4")


def test_success_is_held_against_the_critical_rate_of_the_stated_group_size() -> None:
    low = rows(reward=[0.06] * 10)

    assert fired(judge(low)) == [("R3", 1, "warn")]  # p*(8) = 0.083
    sixteen = MonitorSettings(facts=RunFacts(group_size=16))
    assert fired(judge(low, sixteen)) == []  # p*(16) = 0.042
    assert any("groups of 8 are assumed" in note for note in judge(low).notes)


def test_rewards_become_success_rates_first() -> None:
    # The same run, success 0.30 -> 0.04, in four spellings of its reward.
    success = np.linspace(0.30, 0.04, 40)
    spread = np.sqrt(success * (1 - success))
    wanted = fired(judge(rows(reward=list(success))))
    assert [rule for rule, *_ in wanted] == ["R3"]

    doubled = rows(reward=list(2 * success), reward_std=list(2 * spread))
    signed = rows(reward=list(2 * success - 1), reward_std=list(2 * spread))
    stated = MonitorSettings(facts=RunFacts(reward_scale=(0.5, 1.5)))
    shifted = judge(rows(reward=list(success + 0.5)), stated)

    assert fired(judge(doubled)) == wanted
    assert fired(judge(signed)) == wanted
    assert fired(shifted) == wanted


def test_values_that_cannot_be_what_their_name_says_are_left_out_and_said() -> None:
    # In percent, or of another quantity: 700 % dead groups would stop a healthy run.
    judgement = judge(rows(zero=[7.0] * 9, entropy=[-1.0] * 9, cut=[50.0] * 9))

    assert fired(judgement) == []
    assert {"R1", "R4", "R6"} <= {each.rule for each in judgement.missing}
    said = [note for note in judgement.notes if note.startswith("out of range: 9 values of")]
    assert len(said) == 3


def test_rewards_beyond_the_stated_scale_give_no_success_rate() -> None:
    stated = MonitorSettings(facts=RunFacts(reward_scale=(-1.0, 1.0)))

    judgement = judge(rows(reward=[0.5, 3.0, 0.5]), stated)

    assert judgement.outcome is not None
    assert judgement.outcome.quantity == "reward"
    assert any("beyond the stated -1 (wrong) and 1 (right)" in note for note in judgement.notes)


@pytest.mark.parametrize(("fail", "right", "bonus"), [(-1, 1, 1.4), (0, 2, 2.6), (0, 1, 1.3)])
def test_rewards_beyond_the_scale_that_their_spread_says_give_no_success_rate(
    fail: int, right: int, bonus: float
) -> None:
    # One step in twenty with a bonus: a success of 1.2 is no share.
    reward = np.linspace(fail + 0.3 * (right - fail), fail + 0.7 * (right - fail), 40)
    spread = np.sqrt((reward - fail) * (right - reward))
    reward[19::20] = bonus

    judgement = judge(rows(reward=list(reward), reward_std=list(spread)))

    assert judgement.outcome is not None
    assert judgement.outcome.quantity == "reward"
    assert "--reward-scale" in next(m.needs for m in judgement.missing if m.rule == "R3")


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0), (1.0,)])
def test_a_scale_of_two_equal_rewards_is_no_scale(scale: Any) -> None:
    with pytest.raises(ConfigError, match="reward_scale"):
        RunFacts(reward_scale=scale)


def test_rewards_of_plus_and_minus_one_are_told_by_the_extremes_that_verl_logs() -> None:
    def row(step: int, worst: float, best: float) -> LogRow:
        reward = 2 * (0.5 + step / 1000) - 1  # 50 to 60 % are right
        mean, ends = "critic/score/mean", {"critic/score/min": worst, "critic/score/max": best}
        return LogRow(step, {mean: reward, "actor/entropy": 0.4, **ends})

    rows, others = ([row(step, end, 1.0) for step in range(1, 101)] for end in (-1.0, -1.5))
    judgement, penalised = judge(rows), judge(others)
    stated = judge(others, MonitorSettings(facts=RunFacts(reward_scale=(-1.0, 1.0))))

    assert judgement.alarms == ()
    assert judgement.outcome is not None
    assert judgement.outcome.final == pytest.approx(0.6, abs=0.01)
    assert any("-1 (wrong) and 1 (right)" in note for note in judgement.notes)
    assert penalised.alarms == ()
    assert "--reward-scale" in next(m.needs for m in penalised.missing if m.rule == "R3")
    assert stated.outcome == judgement.outcome


def test_an_unknown_reward_scale_is_refused_not_guessed() -> None:
    judgement = judge(rows(reward=[1.7, 1.2, 0.03, 0.02, 0.01]))

    assert fired(judgement) == []
    assert "--reward-scale" in next(m.needs for m in judgement.missing if m.rule == "R3")
    assert judgement.outcome is not None
    assert judgement.outcome.quantity == "reward"


def test_a_gradient_of_zero_is_critical_at_once() -> None:
    judgement = judge(rows(grad_norm=[0.3, 0.2, 0.0]))

    assert fired(judgement) == [("R5", 3, "critical")]
    assert judgement.stop.step == 3


def test_truncation_needs_five_logs_in_a_row() -> None:
    assert fired(judge(rows(cut=[0.2] * 4 + [0.0] + [0.2] * 4))) == []
    assert fired(judge(rows(cut=[0.0, *[0.2] * 5]))) == [("R6", 2, "warn")]


def test_mismatch_is_held_against_a_band() -> None:
    assert fired(judge(rows(ratio=[1.0, 0.9, 1.9, 0.6, 1.1]))) == []
    assert fired(judge(rows(ratio=[1.0, 2.5, 2.6, 2.7]))) == [("R7", 2, "warn")]
    low = judge(rows(ratio=[1.0, 0.4, 0.4, 0.4])).alarms[0]
    assert (low.threshold, low.evidence["margin"]) == (0.5, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("name", "value", "line", "margin"),
    [
        ("rollout_corr/rollout_is_mean", 1.5, 2.0, -0.5),
        ("rollout_corr/rollout_is_mean", 0.6, 0.5, -0.1),
        ("rollout_corr/rollout_is_eff_sample_size", 0.8, 0.3, -0.5),
        ("rollout_corr/kl", -0.02, -0.1, -0.08),
        ("rollout_corr/rollout_is_std", 0.4, 1.0, -0.6),
    ],
)
def test_a_mismatch_within_its_band_is_ok_and_says_how_far_the_band_reaches(
    name: str, value: float, line: float, margin: float
) -> None:
    # It was "pending", which is what a rule is that comes too early or too late.
    log = [LogRow(step, {name: value, "actor/entropy": 0.4}) for step in range(1, 6)]

    state = next(each for each in judge(log).rules if each.rule == "R7")

    assert (state.state, state.series, state.value) == ("ok", name, value)
    assert (state.threshold, state.margin) == (line, pytest.approx(margin))


def test_the_state_of_an_alarm_is_that_of_the_input_that_raised_it() -> None:
    ratio, kl = "rollout_corr/rollout_is_mean", "rollout_corr/kl"
    log = [LogRow(step, {ratio: 1.0, kl: 0.5}) for step in range(1, 6)]

    (state,) = [each for each in judge(log).rules if each.state == "alarm"]

    assert (state.rule, state.series, state.value, state.threshold) == ("R7", kl, 0.5, 0.1)
    assert state.margin == pytest.approx(0.4)


def test_a_run_that_diverged_by_its_rewards_shows_no_healthy_gradient_norm_as_alarm() -> None:
    reward = [0.5] * 5 + [math.nan] * 3

    (state,) = [
        each
        for each in judge(rows(reward=reward, grad_norm=[0.3] * 8)).rules
        if each.state == "alarm"
    ]

    assert (state.rule, state.series, state.value) == ("R5", "reward", 3.0)


def test_an_alarm_below_its_line_stays_beyond_it_when_its_input_ends_in_nan() -> None:
    judgement = judge(rows(reward=[0.3] * 5 + [0.01] * 10 + [math.nan]))

    state = next(each for each in judgement.rules if each.rule == "R3")

    assert (state.state, state.value) == ("alarm", 0.01)
    assert state.threshold is not None
    assert state.margin == pytest.approx(state.threshold - 0.01)


def test_long_completions_alarm_only_while_success_falls() -> None:
    length = [100.0] * 15 + [250.0] * 10
    falling, rising = list(np.linspace(0.6, 0.2, 25)), list(np.linspace(0.2, 0.6, 25))

    assert fired(judge(rows(length=length, reward=falling))) == [("R8", 16, "warn")]
    assert fired(judge(rows(length=length, reward=rising))) == []


def test_a_drop_that_will_cross_in_time_is_projected() -> None:
    entropy = [0.3 * 0.992**step for step in range(60)]

    judgement = judge(rows(entropy=entropy))

    state = next(state for state in judgement.rules if state.rule == "R1")
    expected = 10 + np.log(0.5) / np.log(0.992)  # half of what it was at step 10
    assert state.state == "ok"
    assert state.projected_step == pytest.approx(expected, abs=2)
    assert state.margin is not None
    assert state.margin < 0.0


def test_entropy_is_not_judged_where_the_start_of_the_run_is_not_logged() -> None:
    late = [LogRow(step, {"entropy": 0.1, "reward": 0.4}) for step in range(200, 260)]

    judgement = judge(late)

    lacking = {m.rule: m.needs for m in judgement.missing}
    assert "first logged step is 200" in lacking["R1"]
    assert "R2" in lacking


def test_an_entropy_that_counts_length_is_not_compared() -> None:
    facts = RunFacts(loss_agg_mode="seq-mean-token-sum")
    history = [LogRow(s, {"actor/entropy": 0.3 * 0.97**s}) for s in range(1, 80)]

    refused = judge(history, MonitorSettings(trainer="verl", facts=facts))

    assert fired(judge(history, MonitorSettings(trainer="verl")))[0][0] == "R1"
    assert fired(refused) == []
    assert "token-mean" in next(m.needs for m in refused.missing if m.rule == "R1")


def test_the_policy_moves_lines_and_names_what_stops() -> None:
    history = drop_history(0.454, DENSE)

    strict = judge(history, MonitorSettings(policy=MonitorPolicy(entropy_drop=0.4)))
    stopping = MonitorPolicy(entropy_drop=0.4, stop_on=("R1",))

    assert [alarm.rule for alarm in strict.alarms] == ["R1"]
    assert strict.stop.step is None  # alone it warns
    assert judge(history, MonitorSettings(policy=stopping)).stop.step is not None


def test_the_law_is_refused_beside_a_kl_term() -> None:
    columns = {
        "entropy": list(np.linspace(1.0, 0.2, 30)),
        "reward": list(0.55 - 0.12 * np.exp(np.linspace(1.0, 0.2, 30))),
    }

    free = judge(rows(**columns))
    bound = judge(rows(**columns, kl=[0.01] * 30))

    assert free.entropy_law is not None
    assert free.entropy_law.ceiling == pytest.approx(0.43)
    assert bound.entropy_law is None
    assert "bonus" in str(bound.entropy_law_refused)


def test_every_alarm_has_evidence_and_every_remedy_a_source() -> None:
    judgement = judge(pilot_rows())

    for alarm in judgement.alarms:
        assert {"window", "num_logs", "confirmed_step", "margin", "source", "scope"} <= set(
            alarm.evidence
        )
    assert judgement.advice
    for advice in judgement.advice:
        assert all((advice.source, advice.when, advice.trl, advice.verl, advice.limits))
        assert "KL penalty and label smoothing did not rescue" in advice.to_dict()["caution"]
