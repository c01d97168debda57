"""A real service for tests: ``rlrisk serve`` in processes of its own, asked over a socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BASE = Path(__file__).parents[2] / "mlflow_rlrisk" / "demo" / "base"
PROMPTS = Path(__file__).parents[2] / "mlflow_rlrisk" / "demo" / "data" / "heldout.jsonl"
VERIFIER = "mlflow_rlrisk.demo.task:reward"
ASSESSMENT: dict[str, Any] = {
    "sampling": {"num_samples": 4, "max_new_tokens": 8},
    "group_size": 2,
    "device": "cpu",
    "num_resamples": 200,
    "verifier_workers": 1,
}
COMMAND = "from mlflow_rlrisk.cli import run; run()"
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """The slug of a problem document; the test fails where it is none."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        return str(self.json["type"]).rsplit("/", 1)[1]


@dataclass
class Client:
    """Asks one service with one token."""

    url: str
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = 30, **headers: str
    ) -> Answer:
        sent = dict(self.headers)
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def assess(self, model: str, **more: Any) -> Answer:
        headers = more.pop("headers", {})
        body = {"model": model, "prompt_set": "heldout", "verifier": "chains", **more}
        return self.ask("POST", "/v1/assessments", body, **headers)

    def wait(
        self, assessment_id: str, *, until_published: bool = True, limit_s: float = 240
    ) -> Any:
        """The assessment at its end."""
        deadline = time.monotonic() + limit_s
        found: Any = None
        while time.monotonic() < deadline:
            try:
                found = self.ask("GET", f"/v1/assessments/{assessment_id}").json
            except OSError:  # the API was killed
                time.sleep(0.2)
                continue
            is_final = found["state"] not in ("queued", "running")
            if is_final and (
                found["state"] != "succeeded" or not until_published or found["published_at"]
            ):
                return found
            time.sleep(0.2)
        raise AssertionError(f"not at its end after {limit_s} s: {found}")


def write_settings(folder: Path, tracking_uri: str, *, num_prompts: int = 8, **more: Any) -> Path:
    """Settings with the demo's prompts and verifier."""
    with PROMPTS.open(encoding="utf-8") as lines:
        text = "".join(line for _, line in zip(range(num_prompts), lines, strict=False))
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    settings = {
        "tracking_uri": tracking_uri,
        "prompt_sets": {"heldout": {"path": "prompts.jsonl"}},
        "verifiers": {"chains": VERIFIER},
        "assessment": ASSESSMENT,
        **more,
    }
    settings["limits"] = {
        "min_free_disk_bytes": 0,
        "min_free_memory_bytes": 0,
        **more.get("limits", {}),
    }
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class RunningService:
    """The processes of a service."""

    config: Path
    port: int
    role: str
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    name: str | None = None
    options: Sequence[str] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-c", COMMAND, "serve", "--config", str(self.config)]
        command += ["--port", str(self.port), "--role", self.role]
        command += ["--worker-name", self.name] if self.name else []
        command += self.options
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=variables, start_new_session=True
            )

    @property
    def log(self) -> Path:
        return self.config.parent / "service.log"

    def wait_until_up(self, limit_s: float | None = None) -> None:
        deadline = time.monotonic() + (limit_s or START_LIMIT_S)
        while time.monotonic() < deadline:
            try:
                if Client(self.url).ask("GET", "/livez", timeout_s=2).status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self, *, only_itself: bool = False) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            for pid in [] if only_itself else self.pids():
                os.kill(pid, signal.SIGKILL)

    def pids(self, word: str = "") -> list[int]:
        """Processes that belong to this service and have ``word`` in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
            is_ours = str(self.config) in line or str(self.config.parent / "rlrisk-service") in line
            if is_ours and word in line and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found


@contextmanager
def running_service(
    config: Path,
    *,
    role: str = "all",
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunningService]:
    """Run a service; at the end it must stop by itself and leave no process behind."""
    service = RunningService(config, free_port(), role, environment or {}, options=options)
    service.start()
    try:
        service.wait_until_up()
        yield service
    finally:
        service.stop()


def wait_for(condition: Callable[[], Any], limit_s: float = 120.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
