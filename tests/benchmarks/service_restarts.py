"""`rlrisk serve` ended and started again while it is asked; what is left behind, and for how long.

    python -m tests.benchmarks.service_restarts [--rounds 4] [--out FILE.json]

Callers ask for assessments under keys of their own, each until it is answered, while the service
ends by SIGTERM and by SIGKILL in turn. MLflow is away, so that the assessments stay open. Then the
API's first process is killed while a stream of progress is open, and the worker several times.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from service.serve import MEMORY
from tests.service.running_service import Client, RunningService, free_port, write_settings

NUM_CALLERS = 4
LIMIT_S = 180.0
ORPHANS_LIMIT_S = 60.0
NOWHERE = "http://127.0.0.1:9"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlrisk-restarts-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        limits = {"max_open": 100_000, "max_open_per_token": 100_000}
        config = write_settings(folder, NOWHERE, limits=limits)
        os.environ["TMPDIR"] = str(folder / "tmp")
        service = RunningService(config, free_port(), "all", {})
        service.start()
        try:
            service.wait_until_up(LIMIT_S)
            found = restarts(service, chosen.rounds) | deaths(service)
        finally:
            service.stop(only_itself=True)
            left = service.pids()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        found |= {
            "processes_left_after_sigterm": len(left),
            "metrics_folders_left": len(list(MEMORY.glob(f"rlrisk-metrics-*-{service.port}"))),
        }
    print(json.dumps(found, indent=1))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


def restarts(service: RunningService, num_rounds: int) -> dict[str, Any]:
    """End and start it under load; each key must have one assessment, the one that was told."""
    told: dict[str, str] = {}
    stopping = threading.Event()
    callers = [
        threading.Thread(target=_ask, args=(service.url, number, told, stopping))
        for number in range(NUM_CALLERS)
    ]
    for each in callers:
        each.start()
    for number in range(num_rounds):
        time.sleep(3.0)
        assert service.process is not None
        service.process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        service.process.wait()
        service.start()
        service.wait_until_up(LIMIT_S)
    time.sleep(2.0)
    stopping.set()
    for each in callers:
        each.join()
    client = Client(service.url)
    again = {key: _submit(client, key) for key in told}
    counts = client.ask("GET", "/metrics").body.decode()
    rows = sum(
        float(line.rsplit(" ", 1)[1])
        for line in counts.splitlines()
        if line.startswith("rlrisk_assessments{")
    )
    states = [line for line in counts.splitlines() if line.startswith("rlrisk_assessments{")]
    return {
        "restarts": num_rounds,
        "accepted": len(told),
        "assessments_in_the_database": int(rows),
        "another_id_for_the_same_key": sum(again[key] != told[key] for key in told),
        "not_open_any_more": sum(
            float(line.rsplit(" ", 1)[1])
            for line in states
            if "queued" not in line and "running" not in line
        ),
    }


def _ask(url: str, number: int, told: dict[str, str], stopping: threading.Event) -> None:
    client, count = Client(url), 0
    while not stopping.is_set():
        key = f"{number}-{count}"
        try:
            told[key] = _submit(client, key)
            count += 1
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.1)


def _submit(client: Client, key: str) -> str:
    answer = client.assess("models:/chains-sft/1", headers={"Idempotency_Key": key})
    return str(answer.json["id"])


def deaths(service: RunningService) -> dict[str, Any]:
    """Seconds until a killed API and a killed worker are there again, and orphans are gone."""
    client = Client(service.url)
    asked = _submit(client, "streamed")
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
    """Processes of the API, the first one first."""
    return sorted(service.pids("--role api"))


if __name__ == "__main__":
    main()
