"""``rlrisk gate selftest``: which moves are tried, and what is left of them."""

import warnings
from collections import Counter
from typing import Any

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tests.gate.conftest import RULES, Gated
from tests.gate.route_lists import TAKES_LINE_BREAKS
from tests.gate.world import one_object

EVERYWHERE = {"name": "all", "models": ["*"], "aliases": ["rl-ready", "x"]}
NAMED = {"name": "one", "models": ["coder"], "aliases": ["y"]}


def spellings(alias: str) -> list[str]:
    hows = ["as it is", "in capitals", "with a line break", "in full-width letters"]
    hows += ["with a Cyrillic letter"] if set(alias) & {"a", "e"} else []
    return [f"set alias '{alias}' {how}" for how in hows]


TAGS = ["rlrisk.risk_level", "rlrisk.attestation", "RLRISK.Risk_Level"]
TAG_MOVES = [
    *(move for key in TAGS for move in (f"set tag '{key}'", f"create a version with tag '{key}'")),
    "delete tag 'rlrisk.attestation'",
    "set tag 'rlrisk.risk_level' of the model",
]
FREE = ["set an unprotected alias", "delete an alias"]


def left_behind(gated: Gated) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=gated.uri, registry_uri=gated.uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = [run.info.run_id for run in client.search_runs(experiments)]
    deleted = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)
    return [
        *client.search_registered_models(),
        *(run for run in runs if run != gated.run_id),
        *(each for run in deleted for each in client.list_artifacts(run.info.run_id)),
    ]


def test_the_selftest_tries_every_move_and_leaves_nothing_behind(gated: Gated, rlrisk: Any) -> None:
    gated.world.write_policy([*RULES, EVERYWHERE, NAMED])

    with warnings.catch_warnings():  # of MLflow's, about stages
        warnings.simplefilter("error", FutureWarning)
        code, out = rlrisk("gate", "selftest", "--json")

    told = one_object(out)
    assert [move for move in told["moves"] if not move["passed"]] == []
    assert (code, told["passed"]) == (0, True)
    assert [move["name"] for move in told["moves"]] == [
        *spellings("champion"),
        "transition to stage 'Production'",
        "transition to stage 'PRODUCTION'",
        *TAG_MOVES,
        "set alias 'champion' of a copy",
        "rename a model that has alias 'champion' to a protected name",
        *FREE,
        "create a version",
        *spellings("rl-ready"),
        *spellings("x"),
        *TAG_MOVES,
        "set alias 'rl-ready' of a copy",
        *FREE,
    ]
    assert {move["name"] for move in told["moves"] if move["is_allowed"]} == set(FREE)
    # What was really tried, by the gate's own log.
    blocked = Counter(each.action.split()[0] for each in gated.entries() if each.outcome == "block")
    line_breaks = 3 if TAKES_LINE_BREAKS else 0
    assert blocked == {
        "set_alias": 4 + 1 + 4 + 3 + 1 + line_breaks,
        "transition_stage": 2,
        "set_tag": 6,
        "create_version": 6 + 1,
        "delete_tag": 2,
        "set_model_tag": 2,
        "rename": 1,
    }
    assert left_behind(gated) == []


def test_a_version_is_of_the_run_in_its_source_as_servers_ask(
    gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = mlflow.MlflowClient.create_model_version, list[bool]()

    def create(client: Any, name: str, source: str, *more: Any, **named: Any) -> Any:
        if source.startswith("runs:/"):
            made.append(source == f"runs:/{more[0]}/checkpoint")
        return make(client, name, source, *more, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", create)
    gated.world.write_policy([EVERYWHERE])

    assert rlrisk("gate", "selftest")[0] == 0

    assert made == [True] * 4  # a version to try things on, three with tags


def test_a_name_that_mlflow_itself_refuses_is_a_move_that_nobody_makes(
    gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_line_breaks(client: Any, name: str, alias: str, version: str) -> None:
        if "\n" in alias:  # as MLflow 3.18 does
            raise MlflowException(f"Invalid alias name: '{alias}'.", INVALID_PARAMETER_VALUE)
        set_alias(client, name, alias, version)

    set_alias = mlflow.MlflowClient.set_registered_model_alias
    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", refuse_line_breaks)
    gated.world.write_policy([EVERYWHERE])

    code, out = rlrisk("gate", "selftest", "--json")

    told = {move["name"]: move for move in one_object(out)["moves"]}
    assert (code, told["set alias 'x' with a line break"]["passed"]) == (0, True)


def test_a_move_that_has_to_pass_and_does_not_is_told_in_the_registrys_words(
    gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: Any, name: str, alias: str) -> None:
        raise MlflowException("read-only")

    monkeypatch.setattr(mlflow.MlflowClient, "delete_registered_model_alias", refuse)
    gated.world.write_policy([EVERYWHERE])

    code, out = rlrisk("gate", "selftest", "--json")

    failed = [move for move in one_object(out)["moves"] if not move["passed"]]
    assert code == 1
    assert [(move["name"], move["message"]) for move in failed] == [
        ("delete an alias", "read-only")
    ]


@pytest.mark.parametrize(
    ("method", "move"),
    [
        ("set_registered_model_alias", "set alias 'x' as it is"),
        ("set_registered_model_tag", "set tag 'rlrisk.risk_level' of the model"),
    ],
)
def test_what_mlflow_takes_for_no_name_shows_no_gate(
    gated: Gated, rlrisk: Any, monkeypatch: pytest.MonkeyPatch, method: str, move: str
) -> None:
    def refuse_all(client: Any, name: str, key: str, value: str) -> None:
        raise MlflowException(f"Invalid name: '{key}'.", INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(mlflow.MlflowClient, method, refuse_all)
    gated.world.write_policy([EVERYWHERE])

    code, out = rlrisk("gate", "selftest")

    assert code == 1
    assert f"✗ refused: {move}" in out


def test_the_selftest_finds_a_gate_that_is_not_there(gated: Gated, rlrisk: Any) -> None:
    mlflow.set_registry_uri(gated.uri)

    code, out = rlrisk("gate", "selftest", "--json")

    told = one_object(out)["moves"]
    failed = {move["name"]: move["message"] for move in told if not move["passed"]}
    assert code == 1
    assert failed.keys() >= {
        "set alias 'champion' as it is",
        "rename a model that has alias 'champion' to a protected name",
    }
    assert set(failed.values()) == {"it went through"}
    assert "delete an alias" not in failed
    assert left_behind(gated) == []


@pytest.mark.parametrize("rule", [NAMED, {**EVERYWHERE, "mode": "audit"}])
def test_a_selftest_that_would_try_nothing_passes_nobody(
    gated: Gated, rlrisk: Any, rule: dict[str, Any]
) -> None:
    gated.world.write_policy([rule])

    assert rlrisk("gate", "selftest")[0] == 2


@pytest.mark.parametrize(
    "rules",
    [
        [{**EVERYWHERE, "models": ["coder-[ab]?-*"]}],
        [{**EVERYWHERE, "models": ["coder", "other-*"]}],
        [EVERYWHERE, {"name": "closed", "models": ["*"], "every_version": True}],
        [EVERYWHERE, {"name": "copies", "models": ["*-copy"], "every_version": True}],
        [EVERYWHERE, {"name": "mark", "models": ["*"], "aliases": ["rlrisk-selftest"]}],
        [EVERYWHERE, {"name": "else", "workspaces": ["team-*"], "stages": ["Staging"]}],
        [{**EVERYWHERE, "workspaces": ["default"]}],
    ],
    ids=["choice", "second pattern", "closed", "closed copies", "its alias", "elsewhere", "here"],
)
def test_a_gate_that_holds_is_found_to_hold_whatever_its_rules(
    gated: Gated, rlrisk: Any, rules: list[dict[str, Any]]
) -> None:
    gated.world.write_policy(rules)

    code, out = rlrisk("gate", "selftest", "--json")

    moves = one_object(out)["moves"]
    assert [move for move in moves if not move["passed"]] == []
    assert code == 0
    assert sum(not move["is_allowed"] for move in moves) >= 1
    assert left_behind(gated) == []


def test_rules_for_another_workspace_are_not_tried_in_this_one(gated: Gated, rlrisk: Any) -> None:
    gated.world.write_policy([{**EVERYWHERE, "workspaces": ["team-*"]}])

    assert rlrisk("gate", "selftest") == (2, "")
    assert left_behind(gated) == []
