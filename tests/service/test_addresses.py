"""Addresses, headers and filters that callers may spell in more than one way."""

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.deps import Dependencies
from service.settings import load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.service.running_service import write_settings


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    jobs = AssessmentTable(open_database(f"sqlite:///{tmp_path / 'jobs.db'}"))
    return create_app(settings, Dependencies(jobs=jobs)).test_client()


def test_the_document_tells_the_header_that_makes_a_request_repeatable(client: FlaskClient) -> None:
    submit = client.get("/openapi.json").json["paths"]["/v1/assessments"]["post"]

    (header,) = [each for each in submit["parameters"] if each["in"] == "header"]

    assert (header["name"], header["required"]) == ("Idempotency-Key", False)
    pattern = re.compile(header["schema"]["pattern"])
    for key, status in (("build-42", 422), ("x" * 128, 422), ("x" * 129, 400), ("a b", 400)):
        answer = client.post(
            "/v1/assessments",
            json={"model": "models:/a/1", "prompt_set": "nope", "verifier": "chains"},
            headers={header["name"]: key},
        )
        assert (answer.status_code, bool(pattern.fullmatch(key))) == (status, status == 422)


@pytest.mark.parametrize("path", ["//v1/assessments", "/v1//assessments", "/v1/assessments//x"])
def test_a_doubled_slash_is_another_address(client: FlaskClient, path: str) -> None:
    # A redirect to the merged one is a page, at an address made of what the caller called us.
    answer = client.get(f"http://localhost{path}")

    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


@pytest.mark.parametrize("reference", ["models:/m/1", "models:/m", "runs:/x/y"])
def test_a_reference_in_the_place_of_a_models_name_is_refused(
    client: FlaskClient, reference: str
) -> None:
    # No model has such a name: an empty list would say that nothing of it was assessed.
    answer = client.get("/v1/assessments", query_string={"model": reference})

    assert answer.status_code == 422
    assert [each["pointer"] for each in answer.json["errors"]] == ["/model"]
