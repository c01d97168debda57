"""Sampling settings that are newer than stored keys: taken, refused by name, unknown before."""

from pathlib import Path
from typing import Any

import pytest

from service.sampling.scoring import Scorer
from tests.service.running_service import BASE
from tests.service.test_lookaheads import SAMPLING, body, browser, settings_of, table

QUIET = {"enable_thinking": False}


@pytest.mark.parametrize(
    "given",
    [
        {"chat_template_kwargs": QUIET},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"stop": ["</answer>"]},
    ],
)
def test_a_request_sets_them_and_others_are_another_request(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    settings = settings_of(tmp_path)
    jobs = table(settings)
    client = browser(settings, jobs)
    headers = {"Idempotency-Key": "k"}
    asked = body(sampling=given)

    first = client.post("/v1/assessments", json=asked, headers=headers)
    again = client.post("/v1/assessments", json=asked, headers=headers)
    other = client.post("/v1/assessments", json=body(), headers=headers)

    row = jobs.find(first.json["id"])
    assert row is not None
    assert row.request["sampling"] == SAMPLING | given
    assert (again.json["id"], other.status_code) == (row.id, 409)


@pytest.mark.parametrize(
    "given",
    [{"a b": 1}, {"a": None}, {"a": "\x00"}, {"a": [1]}, {f"v{i}": 1 for i in range(17)}, 3],
)
def test_what_is_no_variable_is_refused_with_its_place(tmp_path: Path, given: Any) -> None:
    settings = settings_of(tmp_path)
    client = browser(settings, table(settings))

    refused = client.post("/v1/assessments", json=body(sampling={"chat_template_kwargs": given}))

    assert refused.status_code == 422
    (first, *_) = refused.get_json(force=True)["errors"]
    assert first["pointer"].startswith("/sampling/chat_template_kwargs")


def test_what_templates_are_given_anyway_is_refused_before_anything_is_sampled(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path)
    client = browser(settings, table(settings))
    given = {"chat_template_kwargs": {"messages": "x"}}

    refused = client.post("/v1/assessments", json=body(sampling=given))

    assert refused.status_code == 422
    (fault,) = refused.get_json(force=True)["errors"]
    assert fault["pointer"] == "/sampling/chat_template_kwargs.messages"
    assert "no variable of a template" in fault["message"]


def test_variables_of_a_checkpoint_without_a_template_end_the_assessment_with_the_reason(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path)
    jobs = table(settings)
    asked = body(model=str(BASE), sampling={"chat_template_kwargs": QUIET})
    made = browser(settings, jobs).post("/v1/assessments", json=asked)
    scorer = Scorer(jobs, settings, lambda: False)

    assert any(scorer.score(made.json["id"]) for _ in range(6))

    ended = jobs.find(made.json["id"])
    assert ended is not None
    assert str(ended.state) == "failed"
    assert "chat_template_kwargs are given and the tokenizer has no chat template" in str(
        ended.error_detail
    )
