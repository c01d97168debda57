"""One place of the registry that cannot be looked at keeps nobody from looking at the others."""

import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_rlrisk.gate.promotion_policy import PolicySource
from mlflow_rlrisk.gate.reconcile import Finding, Reconciler
from mlflow_rlrisk.gate.turns import LOCK_SUFFIX
from tests.gate.conftest import Gated

EVERYWHERE = {"name": "r", "aliases": ["champion"], "stages": ["Production"]}


def reconcile(gated: Gated, client: mlflow.MlflowClient | None = None) -> list[Finding]:
    bar = PolicySource(gated.world.policy_path).current()
    return Reconciler(client or gated.client, gated.store.gatekeeper.log).run(bar)


def take_alias_behind_the_gates_back(gated: Gated, model: str, source: str = "") -> str:
    gated.version(model)
    made = gated.plain.create_model_version(model, source or gated.source)
    gated.plain.set_registered_model_alias(model, "champion", made.version)
    return str(made.version)


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/x", "s3://bucket/x"])
def test_files_that_a_store_cannot_read_are_not_proven_and_the_others_are_looked_at(
    gated: Gated, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first gives a ValueError, the second a ModuleNotFoundError: boto3 is not there.
    monkeypatch.setitem(sys.modules, "boto3", None)
    for model, its_source in (("prod-a", source), ("prod-b", "")):
        take_alias_behind_the_gates_back(gated, model, its_source)

    findings = reconcile(gated)

    assert [(each.model, each.action) for each in findings] == [
        ("prod-a", "removed"),
        ("prod-b", "removed"),
    ]
    for model in ("prod-a", "prod-b"):
        assert gated.plain.get_registered_model(model).aliases == {}


def test_a_fault_at_one_place_is_told_and_the_others_are_looked_at(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for model in ("prod-a", "prod-b"):
        take_alias_behind_the_gates_back(gated, model)
    client = gated.client
    remove = client.delete_registered_model_alias

    def fail_at_the_first(name: str, alias: str) -> None:
        if name == "prod-a":
            raise RuntimeError("the proxy sent a page in HTML")
        remove(name, alias)

    monkeypatch.setattr(client, "delete_registered_model_alias", fail_at_the_first)

    first, second = reconcile(gated, client)

    assert (first.model, first.alias, first.version) == ("prod-a", "champion", "2")
    assert (first.action, second.action) == ("failed", "removed")
    assert "RuntimeError: the proxy sent a page in HTML" in first.message
    assert "alias 'champion' of prod-a cannot be looked at" in caplog.text


def test_a_model_whose_name_mlflow_cannot_search_for_hides_no_other(gated: Gated) -> None:
    # Its filter takes the backslash for an escape; anybody may register such a name.
    gated.world.write_policy([EVERYWHERE])
    for model in ("a\\", "prod-b"):
        version = take_alias_behind_the_gates_back(gated, model)
        gated.plain.transition_model_version_stage(model, version, "Production", False)

    findings = reconcile(gated)

    assert [(each.model, each.alias or each.stage, each.action) for each in findings] == [
        ("a\\", "*", "failed"),
        ("a\\", "champion", "removed"),
        ("a\\", "Production", "failed"),  # it has left; whether others are there is not known
        ("prod-b", "champion", "removed"),
        ("prod-b", "Production", "removed"),
    ]
    assert gated.plain.get_model_version("a\\", "2").current_stage == "Archived"


@pytest.mark.parametrize("name", ["o'neil", 'o"neil'])
def test_every_version_in_a_stage_is_looked_at_whatever_the_models_name(
    gated: Gated, name: str
) -> None:
    gated.world.write_policy([EVERYWHERE])
    for _ in range(2):
        version = gated.version(name).version
        gated.plain.transition_model_version_stage(name, version, "Production", False)

    findings = reconcile(gated)

    assert [(each.version, each.action) for each in findings] == [
        ("1", "removed"),
        ("2", "removed"),
    ]


def copy_of_copies(gated: Gated, num_copies: int, source: str) -> str:
    gated.version("prod-a")
    made = gated.plain.create_model_version("prod-a", source or gated.source)
    gated.attest(made)
    for _ in range(num_copies):
        made = gated.plain.create_model_version("prod-a", f"models:/prod-a/{made.version}")
    return str(made.version)


@pytest.mark.parametrize("source", ["", "runs:/{}/checkpoint"])
def test_as_many_copies_of_copies_as_are_followed_stay_and_one_more_is_taken_back(
    gated: Gated, source: str
) -> None:
    if source:
        gated.client.log_artifacts(gated.run_id, str(gated.checkpoint), "checkpoint")
    version = copy_of_copies(gated, 16, source.format(gated.run_id))
    gated.store.set_registered_model_alias("prod-a", "champion", version)
    (kept,) = reconcile(gated)
    beyond = gated.plain.create_model_version("prod-a", f"models:/prod-a/{version}").version
    gated.plain.set_registered_model_alias("prod-a", "champion", beyond)

    (taken,) = reconcile(gated)

    assert (kept.version, kept.action) == ("18", "kept")
    assert (taken.version, taken.action, taken.restored_to) == ("19", "restored", "18")


def test_what_was_taken_back_and_could_not_be_logged_is_told_as_taken_back(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    take_alias_behind_the_gates_back(gated, "prod-a")
    Path(gated.uri.removeprefix("sqlite:///") + LOCK_SUFFIX).mkdir()  # no file to lock

    (finding,) = reconcile(gated)

    assert finding.action == "removed"
    assert "not logged: IsADirectoryError" in finding.message
    assert "alias 'champion' of prod-a could not be logged" in caplog.text
    assert gated.plain.get_registered_model("prod-a").aliases == {}


def test_a_former_holder_that_cannot_be_judged_does_not_come_back_and_keeps_nothing(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gated.version("prod-a", is_proven=True)
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    take_alias_behind_the_gates_back(gated, "prod-a")
    client = gated.client
    find = client.get_model_version

    def fail_at_the_first(name: str, version: str) -> Any:
        if version == "1":
            raise RuntimeError("the proxy sent a page in HTML")
        return find(name, version)

    monkeypatch.setattr(client, "get_model_version", fail_at_the_first)

    (finding,) = reconcile(gated, client)

    assert (finding.action, finding.restored_to) == ("removed", None)
    assert "prod-a version 1 cannot come back: RuntimeError: the proxy" in caplog.text


def test_a_pass_that_breaks_is_told_and_the_next_one_goes_on(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow_rlrisk.cli import run

    take_alias_behind_the_gates_back(gated, "prod-a")
    search = mlflow.MlflowClient.search_registered_models
    faults = [RuntimeError("the proxy sent a page in HTML")]

    def fail_once(*given: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return search(*given, **named)

    pauses = iter([None, KeyboardInterrupt])

    def pause(_: float) -> None:
        if (stop := next(pauses)) is not None:
            raise stop

    monkeypatch.setattr(mlflow.MlflowClient, "search_registered_models", fail_once)
    monkeypatch.setattr("mlflow_rlrisk.commands.gate.time.sleep", pause)

    with pytest.raises(SystemExit):
        run(["gate", "reconcile", "--every", "1s"])

    told = capsys.readouterr()
    assert "RuntimeError: the proxy sent a page in HTML" in told.err
    assert "Traceback" not in told.err
    assert told.out.startswith("removed   prod-a@champion (2)")


def test_a_single_pass_that_breaks_is_a_failure(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow_rlrisk.cli import run

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the proxy sent a page in HTML")

    monkeypatch.setattr(mlflow.MlflowClient, "search_registered_models", fail)

    with pytest.raises(RuntimeError, match="in HTML"):
        run(["gate", "reconcile"])
