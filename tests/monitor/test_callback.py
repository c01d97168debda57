"""The callback inside a trainer: what it judges, what it must never do."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from tests.monitor.histories import drop_history, pilot_rows

pytest.importorskip("transformers")

ARGS = SimpleNamespace(num_generations=8, scale_rewards="group", beta=0.0)


def play(callback: Any, rows: Any, args: Any = ARGS) -> SimpleNamespace:
    control = SimpleNamespace(should_training_stop=False, should_save=False)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    callback.on_train_begin(args, state, control)
    for step, metrics in rows:
        state.global_step = step
        callback.on_log(args, state, control, logs={**metrics, "note": "text", "flag": True})
        if control.should_training_stop:
            break
    callback.on_train_end(args, state, control)
    return control


def test_warn_warns_and_lets_the_run_go_on(caplog: pytest.LogCaptureFixture) -> None:
    from mlflow_rlrisk import RLRiskCallback

    callback = RLRiskCallback(policy=None, action="warn")
    with caplog.at_level(logging.WARNING):
        control = play(callback, pilot_rows())

    assert not control.should_training_stop
    assert [alarm.rule for alarm in callback.alarms] == ["R2", "R3", "R4", "R4", "R5"]
    assert "WARN R2 at step 20" in caplog.text


def test_stop_saves_and_stops_where_it_is_advised() -> None:
    from mlflow_rlrisk import RLRiskCallback

    callback = RLRiskCallback(policy=PolicyConfig(), action="stop")
    control = play(callback, pilot_rows())

    assert control.should_training_stop
    assert control.should_save
    assert callback.stopped_at == callback.judgement.stop.step == 30


def test_the_settings_of_the_trainer_are_used() -> None:
    from mlflow_rlrisk import RLRiskCallback

    callback = RLRiskCallback()
    args = SimpleNamespace(num_generations=16, scale_rewards="batch", beta=0.1)
    play(callback, pilot_rows(), args)

    missing = {each.rule for each in callback.judgement.missing}
    assert "R4" in missing
    assert "bonus" in str(callback.judgement.entropy_law_refused)
    low = next(alarm for alarm in callback.alarms if alarm.rule == "R3")
    assert low.evidence["group_size"] == 16


def test_a_share_of_the_batch_is_refused_where_several_rewards_are_normalised() -> None:
    from mlflow_rlrisk import RLRiskCallback
    from mlflow_rlrisk.monitor.sources.mlflow_run import facts_from_params

    # TRL 1.16 takes the spread of the whole batch then, whatever scale_rewards says.
    several = {"scale_rewards": "group", "multi_objective_aggregation": "normalize_then_sum"}
    callback = RLRiskCallback()
    play(callback, pilot_rows(), SimpleNamespace(num_generations=8, beta=0.0, **several))

    assert "R4" in {each.rule for each in callback.judgement.missing}
    assert "R4" not in {alarm.rule for alarm in callback.alarms}
    assert facts_from_params(several).batch_scaled


def test_a_parameter_that_is_no_group_size_is_none() -> None:
    from mlflow_rlrisk.monitor.sources.mlflow_run import facts_from_params

    for text in ("inf", "nan", "1", "many"):
        assert facts_from_params({"num_generations": text}).group_size is None


def test_a_value_that_trl_logs_as_none_was_no_number() -> None:
    from mlflow_rlrisk import RLRiskCallback

    rows = pilot_rows()[:4]
    rows[-1] = rows[-1]._replace(metrics={**rows[-1].metrics, "entropy": None})  # type: ignore[dict-item]
    callback = RLRiskCallback()
    play(callback, rows)

    lacks = {each.rule: each.needs for each in callback.judgement.missing}
    assert f"from step {rows[-1].step} on" in lacks["R1"]


def test_a_callback_that_watches_a_second_run_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow_rlrisk import RLRiskCallback, trl_callback

    tagged: list[str] = []
    runs = iter(["first", "second"])
    monkeypatch.setattr(trl_callback, "_active_run", lambda: next(runs))
    monkeypatch.setattr(trl_callback, "_tag_run", lambda run_id, _: tagged.append(run_id))
    callback = RLRiskCallback(action="stop")

    first, second = play(callback, pilot_rows()), play(callback, pilot_rows())

    assert first.should_training_stop
    assert second.should_training_stop
    assert callback.stopped_at == 30
    assert set(tagged) == {"first", "second"}


def test_a_resumed_run_is_judged_whole_and_old_alarms_are_not_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import TrainerState

    from mlflow_rlrisk import RLRiskCallback

    rows = drop_history(0.6, list(range(1, 151)))
    whole, resumed = RLRiskCallback(action="warn"), RLRiskCallback(action="stop")
    play(whole, rows)
    caplog.clear()

    # The trainer loads the checkpoint's state, its log with it, before it calls back.
    control = SimpleNamespace(should_training_stop=False, should_save=False)
    state = TrainerState(global_step=140, is_world_process_zero=True)
    state.log_history = [{**metrics, "step": step} for step, metrics in rows[:145]]
    resumed.on_train_begin(ARGS, state, control)
    for state.global_step, metrics in rows[140:]:
        resumed.on_log(ARGS, state, control, logs=dict(metrics))

    assert [alarm.rule for alarm in whole.alarms] == ["R1"]
    assert resumed.judgement.to_dict() == whole.judgement.to_dict()
    assert "R1" not in caplog.text
    assert not control.should_training_stop


def test_an_error_of_the_monitor_never_breaks_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow_rlrisk import RLRiskCallback, trl_callback

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no monitor today")

    callback = RLRiskCallback(action="stop", model="models:/nowhere/1")
    monkeypatch.setattr(trl_callback.Monitor, "update", broken)
    with caplog.at_level(logging.WARNING):
        control = play(callback, pilot_rows())

    assert not control.should_training_stop
    assert "training goes on" in caplog.text


def test_a_registry_that_refuses_does_not_break_the_end_of_training(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow_rlrisk import RLRiskCallback

    with caplog.at_level(logging.WARNING):
        play(RLRiskCallback(model="models:/nowhere/1"), drop_history(0.1, list(range(1, 30))))

    assert "training goes on" in caplog.text


def test_settings_are_checked_before_training() -> None:
    from mlflow_rlrisk import RLRiskCallback

    with pytest.raises(ConfigError, match="warn or stop"):
        RLRiskCallback(action="kill")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="entropy_drop"):
        RLRiskCallback(policy={"entropy_drop": 2.0})
    with pytest.raises(ConfigError, match="cannot be read"):
        RLRiskCallback(policy="no-such-policy.yaml")
