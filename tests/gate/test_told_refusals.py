"""A refusal reaches whoever asked with its outcome and reason, whatever the names in it say."""

import json
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from mlflow_rlrisk.errors import PromotionRefusedError
from tests.gate.conftest import Gated
from tests.gate.world import one_object


def over_rest(error: MlflowException) -> RestException:
    """What MLflow's client makes of a server's answer."""
    return RestException(json.loads(error.serialize_as_json()))


@pytest.mark.parametrize("level", ["unknown", "high"])
def test_promote_answers_as_check_does(gated: Gated, rlrisk: Any, level: str) -> None:
    gated.version("prod-a", is_proven=True, risk_level=level)
    place = ["prod-a/1", "--alias", "champion", "--json"]

    checked, promoted = (rlrisk("gate", each, *place) for each in ("check", "promote"))

    assert promoted[0] == checked[0] == {"unknown": 11, "high": 10}[level]
    for key in ("outcome", "reason", "message"):
        assert one_object(promoted[1])[key] == one_object(checked[1])[key]


def test_a_gate_that_cannot_decide_is_inconclusive(gated: Gated, rlrisk: Any) -> None:
    gated.version("prod-a", is_proven=True)
    gated.world.ring_path.write_text("{")

    code, out = rlrisk("gate", "promote", "prod-a/1", "--alias", "champion", "--json")

    told = one_object(out)
    assert (code, told["outcome"], told["reason"]) == (11, "inconclusive", "undecided")


def test_the_name_of_a_model_does_not_make_a_block_inconclusive(gated: Gated, rlrisk: Any) -> None:
    name = "prod-it is inconclusive by rule 'x'"
    gated.version(name)

    assert rlrisk("gate", "promote", f"{name}/1", "--alias", "champion")[0] == 10


def test_outcome_and_reason_survive_mlflows_rest(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True, risk_level="unknown")

    with pytest.raises(MlflowException) as caught:
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    for error in (caught.value, over_rest(caught.value)):
        refusal = PromotionRefusedError.told_by(error)
        assert refusal is not None
        assert (refusal.outcome, refusal.reason) == ("inconclusive", "unknown")
        assert refusal.message == caught.value.message


@pytest.mark.parametrize(
    ("sentence", "outcome", "reason"),
    [
        ("alias 'a' of 'm' version 3 is inconclusive by rule 'r': x", "inconclusive", "registry"),
        ("alias 'a' of 'm' version 3 is blocked by rule 'r': x", "block", "registry"),
        ("'read' is refused, it could not be decided (x)", "inconclusive", "undecided"),
    ],
)
@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"rlrisk": "block"},
        {"rlrisk": {"outcome": "promote", "reason": "proven"}},
        {"rlrisk": {"outcome": "block", "reason": None}},
    ],
)
def test_a_gate_that_tells_the_sentence_alone_is_read_by_its_words(
    sentence: str, outcome: str, reason: str, beside: dict[str, Any]
) -> None:
    error = MlflowException(f"rlrisk gate: {sentence}", PERMISSION_DENIED, **beside)

    refusal = PromotionRefusedError.told_by(over_rest(error))

    assert refusal is not None
    told = (refusal.outcome, refusal.reason, refusal.message)
    assert told == (outcome, reason, f"rlrisk gate: {sentence}")


def test_what_no_gate_said_is_no_refusal() -> None:
    assert PromotionRefusedError.told_by(None) is None
    assert PromotionRefusedError.told_by(ValueError("rlrisk gate: no")) is None
    assert PromotionRefusedError.told_by(over_rest(MlflowException("no such model"))) is None
