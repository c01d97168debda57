"""Streams and idle connections: they keep nobody else out, and no process from its end."""

import http.client
import subprocess
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.deps import Dependencies
from service.serve import GRACE_S
from service.settings import load_settings
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.service.running_service import Client, running_service, write_settings
from tests.service.test_assessment_table import submit


@pytest.fixture
def jobs(tmp_path: Path) -> AssessmentTable:
    return AssessmentTable(open_database(f"sqlite:///{tmp_path / 'jobs.db'}"))


@pytest.fixture
def caller(jobs: AssessmentTable, tmp_path: Path) -> FlaskClient:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    return create_app(settings, Dependencies(jobs=jobs, max_streams=2)).test_client()


def test_streams_beyond_their_number_are_told_to_come_again_and_a_closed_one_makes_room(
    jobs: AssessmentTable, caller: FlaskClient
) -> None:
    # As many as there are threads kept everybody out, and those that ask whether it lives.
    job = submit(jobs)  # nobody works on it: its stream has no end
    path = f"/v1/assessments/{job}/events"

    first, second = caller.get(path), caller.get(path)
    third = caller.get(path)
    first.close()
    for _ in range(3):  # without a body: it holds nothing
        with caller.head(path) as head:
            assert head.status_code == 200
    fourth = caller.get(path)
    refused = caller.get(path)

    assert [each.status_code for each in (second, third, fourth, refused)] == [200, 429, 200, 429]
    assert third.get_json(force=True)["type"].endswith("/quota")
    assert int(third.headers["Retry-After"]) > 0
    assert caller.get(f"/v1/assessments/{job}").status_code == 200  # to poll is always possible
    second.close()
    fourth.close()


@pytest.mark.parametrize(("threads", "streams"), [(4, 2), (1, 0)])
def test_half_of_the_threads_answer_however_many_streams_are_asked_for(
    tmp_path: Path, registry: str, threads: int, streams: int
) -> None:
    options = ["--processes", "1", "--threads", str(threads)]

    with running_service(
        write_settings(tmp_path, registry), role="api", options=options
    ) as service:
        client = Client(service.url)
        place = client.assess("models:/chains-sft/1").headers["Location"]
        connections = [
            http.client.HTTPConnection("127.0.0.1", service.port, timeout=20) for _ in range(8)
        ]
        for each in connections:
            each.request("GET", f"{place}/events")
        alive = client.ask("GET", "/livez", timeout_s=20)
        statuses = sorted(each.getresponse().status for each in connections)
        for each in connections:
            each.close()

    assert alive.status == 200
    assert statuses == [200] * streams + [429] * (8 - streams)


def test_neither_a_stream_nor_an_idle_connection_keeps_the_api_from_its_end(
    tmp_path: Path, registry: str
) -> None:
    # Both held it for its whole grace, longer than most of those that stop it wait.
    with running_service(write_settings(tmp_path, registry), role="api") as service:
        place = Client(service.url).assess("models:/chains-sft/1").headers["Location"]
        idle, stream = (
            http.client.HTTPConnection("127.0.0.1", service.port, timeout=20) for _ in range(2)
        )
        idle.request("GET", "/livez")
        idle.getresponse().read()
        stream.request("GET", f"{place}/events")
        events = stream.getresponse()
        assert events.readline() == b"event: progress\n"
        assert service.process is not None

        service.process.terminate()
        try:
            code = service.process.wait(timeout=0.8 * GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        rest = events.read()
        for each in (idle, stream):
            each.close()

    assert code == 0
    assert rest.endswith(b"\n\n")  # the last event is whole
