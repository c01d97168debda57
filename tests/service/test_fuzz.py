"""The API under schemathesis (a small share of the benchmark) and under raw bytes on its socket."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def statuses(told: bytes) -> list[int]:
    lines = [line for line in told.split(b"\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in lines]


def resident_bytes(service: RunningService) -> int:
    sizes = []
    for pid in service.pids("--role api"):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        sizes.append(int(fields[1]) * 4096)
    return max(sizes)


def test_raw_bytes_get_no_5xx_and_the_process_survives(running: RunningService) -> None:
    for raw in REQUESTS.values():
        say(running, raw)  # threads and caches are there from here on
    before, pids = resident_bytes(running), set(running.pids("--role api"))

    wrong = {name: told for name, raw in REQUESTS.items() if is_5xx(told := say(running, raw))}
    wrong |= {repr(raw): told for raw in mutated(1, 300) if is_5xx(told := say(running, raw))}

    assert wrong == {}
    assert set(running.pids("--role api")) == pids
    assert resident_bytes(running) - before < MAX_GROWTH_BYTES
    assert Client(running.url).ask("GET", "/livez").status == 200


def is_5xx(told: bytes) -> bool:
    return any(status >= 500 for status in statuses(told)) or b"Traceback" in told


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
