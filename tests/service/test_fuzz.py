"""The API under schemathesis (a small share of the benchmark) and under raw bytes on its socket."""

import http.client
import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.problems import MEDIA_TYPE, SLUGS, TYPE_ROOT, ProblemDocument
from tests.benchmarks.service_fuzz import Found, fuzz, fuzzed_app
from tests.service.raw_requests import REQUESTS, mutated
from tests.service.running_service import Client, RunningService, running_service, write_settings

pytestmark = pytest.mark.xdist_group("fuzz")  # its server is started once

MAX_GROWTH_BYTES = 64 * 2**20
"""Arenas of 32 threads; the bodies sent here are together larger than that."""


def test_every_answer_fits_the_document_and_every_error_is_a_problem(tmp_path: Path) -> None:
    found = Found()

    with fuzzed_app(tmp_path) as (app, token):
        fuzz(app, token, found, seed=7, examples=3)

    assert found.failures == []
    assert found.num_cases > 300
    assert {"200", "404", "415", "422"} <= found.statuses.keys()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Iterator[RunningService]:
    config = write_settings(tmp_path_factory.mktemp("raw"), registry)
    with running_service(config, role="api") as started:
        yield started


def say(service: RunningService, raw: bytes, wait_s: float = 3.0) -> bytes:
    """What comes back for these bytes until the connection ends or is silent."""
    told = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=wait_s) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                told += piece
        except OSError:  # it hung up, or waits for what we do not send
            pass
    return told


class _Kept(io.BytesIO):
    """Read by one answer after the other, each of which would close it."""

    def makefile(self, _: str) -> io.BytesIO:
        return self

    def close(self) -> None:
        pass


def answers(told: bytes) -> list[tuple[int, str, bytes]]:
    """Status, media type and body of every answer, as a client's parser reads them."""
    found, stream = [], _Kept(told)
    while stream.tell() < len(told):
        answer = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
        answer.begin()
        found.append((answer.status, answer.headers.get_content_type(), answer.read()))
    return found


def resident_bytes(service: RunningService) -> int:
    sizes = []
    for pid in service.pids("--role api"):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        sizes.append(int(fields[1]) * 4096)
    return max(sizes)


def test_raw_bytes_get_problem_documents_and_the_process_survives(running: RunningService) -> None:
    for raw in REQUESTS.values():
        say(running, raw)  # threads and caches are there from here on
    before, pids = resident_bytes(running), set(running.pids("--role api"))

    wrong = {name: told for name, raw in REQUESTS.items() if is_wrong(told := say(running, raw))}
    wrong |= {repr(raw): told for raw in mutated(1, 300) if is_wrong(told := say(running, raw))}

    assert wrong == {}
    assert set(running.pids("--role api")) == pids
    assert resident_bytes(running) - before < MAX_GROWTH_BYTES
    assert Client(running.url).ask("GET", "/livez").status == 200


def is_wrong(told: bytes) -> bool:
    """Whether there is a 5xx, or an error that is no problem document of the table."""
    return b"Traceback" in told or any(
        status >= 500 or (status >= 400 and not is_problem(status, kind, body))
        for status, kind, body in answers(told)
    )


def is_problem(status: int, kind: str, body: bytes) -> bool:
    document = ProblemDocument.model_validate_json(body)
    slug = document.type.removeprefix(TYPE_ROOT)
    return kind == MEDIA_TYPE and SLUGS[slug][0] == document.status == status


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("HTTP/9", "bad-request"),
        ("a header without a colon", "bad-request"),
        ("a length and chunks", "bad-request"),
        ("a path of 10^5 letters", "uri-too-long"),
        ("a header of 10^6 bytes", "header-too-large"),
        ("10^4 headers", "header-too-large"),
    ],
)
def test_what_is_refused_before_the_application_sees_it_is_a_problem_document(
    running: RunningService, name: str, slug: str
) -> None:
    ((status, kind, body),) = answers(say(running, REQUESTS[name]))

    document = ProblemDocument.model_validate_json(body)
    assert (kind, document.type) == (MEDIA_TYPE, TYPE_ROOT + slug)
    assert document.status == status == SLUGS[slug][0]
    assert len(document.request_id) == 32  # what the log has of it


def test_slow_senders_do_not_keep_others_out(running: RunningService) -> None:
    slow = []
    for number in range(40):  # more than there are threads
        each = socket.create_connection(("127.0.0.1", running.port), timeout=5)
        each.sendall(b"POST /v1/decisions HTTP/1.1\r\nHost: localhost\r\nX-%d: " % number)
        slow.append(each)

    status = Client(running.url).ask("GET", "/livez", timeout_s=40).status

    assert status == 200
    for each in slow:
        each.close()


def test_progress_leaves_as_it_happens(running: RunningService) -> None:
    client = Client(running.url)
    asked = client.assess("models:/chains-sft/1")  # nobody works on it: the stream has no end
    path = f"{asked.headers['Location']}/events"

    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request("GET", path)
    first = connection.getresponse().readline()
    connection.close()
    client.ask("DELETE", asked.headers["Location"])

    assert first == b"event: progress\n"
