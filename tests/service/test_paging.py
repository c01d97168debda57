"""Lists have an end on each page and none in all: nothing is left out, nothing comes twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.deps import Dependencies
from service.settings import load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.overrides import OverrideTable
from tests.service.running_service import write_settings
from tests.service.test_assessment_table import submit


@pytest.fixture
def jobs(tmp_path: Path) -> AssessmentTable:
    return AssessmentTable(open_database(f"sqlite:///{tmp_path / 'jobs.db'}"))


@pytest.fixture
def client(jobs: AssessmentTable, tmp_path: Path) -> FlaskClient:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    return create_app(settings, Dependencies(jobs=jobs)).test_client()


def ask_for_override(jobs: AssessmentTable) -> str:
    asked = OverrideTable(jobs.engine).ask(
        model="m",
        version="1",
        target=("alias", "rl-ready"),
        reason="because",
        expires="24h",
        person=("t", "somebody"),
        needs_approval=True,
    )
    return asked.id


def assess(jobs: AssessmentTable) -> str:
    job = submit(jobs, max_open=10**6, max_open_per_owner=10**6)
    begun = jobs.begin(job, max_attempts=3)
    assert begun is not None
    jobs.update(job, begun.fence, model_name="m", model_version="1")
    return job


LISTS = {
    "/v1/overrides": ("overrides", ask_for_override),
    "/v1/models/m": ("assessments", assess),
    "/v1/assessments": ("assessments", assess),
}


@pytest.mark.parametrize("path", LISTS)
def test_page_by_page_everything_comes_once_the_newest_first(
    jobs: AssessmentTable, client: FlaskClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, make = LISTS[path]
    older = [make(jobs) for _ in range(4)]
    with monkeypatch.context() as frozen:  # a coarse clock gives several the same time
        frozen.setattr("service.tables.overrides.time.time", lambda: 2e9)
        same = [make(jobs) for _ in range(3)]
    made = [*older, *same]

    seen, following, sizes = [], {}, []
    while True:
        told = client.get(path, query_string={"limit": 3, **following}).get_json()
        seen += [each["id"] for each in told[word]]
        sizes.append(len(told[word]))
        if told["next_before"] is None:
            break
        following = {"before": told["next_before"], "before_id": told["next_before_id"]}

    assert sizes == [3, 3, 1]
    assert sorted(seen) == sorted(made)
    assert seen[3:] == older[::-1]


@pytest.mark.parametrize("path", LISTS)
def test_a_page_that_cannot_be_is_refused_by_its_field(client: FlaskClient, path: str) -> None:
    for query in ("limit=0", "limit=201", "before=nan", "before_id=%00", "page=2"):
        answer = client.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert answer.get_json(force=True)["errors"][0]["pointer"] == f"/{query.split('=')[0]}"


def test_what_is_beyond_a_hundred_overrides_or_two_hundred_assessments_is_told_of(
    jobs: AssessmentTable, client: FlaskClient
) -> None:
    def grow(make: Callable[[AssessmentTable], str], number: int) -> None:
        for _ in range(number):
            make(jobs)

    grow(ask_for_override, 101)
    grow(assess, 201)

    overrides, model = (client.get(path).get_json() for path in ("/v1/overrides", "/v1/models/m"))
    rest = client.get(
        "/v1/models/m",
        query_string={"before": model["next_before"], "before_id": model["next_before_id"]},
    ).get_json()

    assert (len(overrides["overrides"]), len(model["assessments"])) == (100, 200)
    assert overrides["next_before"] is not None
    assert (len(rest["assessments"]), rest["next_before"]) == (1, None)
    assert client.get("/v1/models/other").status_code == 404
