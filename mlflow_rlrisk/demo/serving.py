"""The demo as a service: a gated MLflow with the ladder, and the scoring service beside it.

Everything is set up as an operator would: by the commands of the README, in one folder. A second
run goes on with the keys, tokens and versions of the first.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlflow_rlrisk.console import command_beside, say
from mlflow_rlrisk.demo.ladder import Rung
from mlflow_rlrisk.demo.make_data import RL
from mlflow_rlrisk.demo.tracking import (
    CONFIG,
    MODEL_NAME,
    VERIFIER,
    quiet_mlflow,
    register_rungs,
)
from mlflow_rlrisk.errors import ConfigError

START_LIMIT_S = 180.0
STOP_LIMIT_S = 45.0
PROMPT_SET, VERIFIER_NAME = "rl", "chains"


class Place(NamedTuple):
    """Where everything of the demo's service is."""

    folder: Path
    mlflow_port: int
    port: int

    @property
    def mlflow_url(self) -> str:
        """Where MLflow answers."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        """The bearer token that the printed commands use."""
        return self.folder / "token"


def serve_ladder(
    rungs: Sequence[Rung], place: Place, announce: Callable[[dict[str, Any]], None]
) -> int:
    """Run MLflow with the gate and the service until Ctrl-C; returns the exit code.

    Args:
        rungs: What is registered.
        place: Folder and ports.
        announce: Told, once both answer, where and with which token.

    Raises:
        ConfigError: A port is taken, or one of the two does not start.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    environment = _prepare(place)
    mlflow_log, service_log = place.folder / "mlflow.log", place.folder / "service.log"
    for ending in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave the servers
        signal.signal(ending, signal.default_int_handler)
    with _running(_mlflow_command(place), environment, mlflow_log, f"{place.mlflow_url}/health"):
        say(f"MLflow with the promotion gate: {place.mlflow_url}")
        models = _register(rungs, place)
        with _running(_service_command(place), environment, service_log, f"{place.url}/livez"):
            say(_what_to_do(place))
            announce(
                {
                    "mlflow": place.mlflow_url,
                    "service": place.url,
                    "token_file": str(place.token_file.absolute()),
                    "models": models,
                }
            )
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                say("\nStopping.")
    return 0


def _prepare(place: Place) -> dict[str, str]:
    """Key, gate policy, settings and token; returns the environment of both servers."""
    folder = place.folder.resolve()
    key, ring, policy = (folder / name for name in ("key.pem", "key_ring.json", "gate.yaml"))
    environment = {
        **os.environ,
        "RLRISK_POLICY": str(policy),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_REGISTRY_STORE_URI": _registry_store(place),  # the dashboard finds the log there
    }
    if not key.exists():
        _rlrisk("keys", "init", "--key", str(key), "--ring", str(ring), "--name", "demo")
    if not policy.exists():
        policy.write_text(_rlrisk("policy", "init", "--ring", str(ring)), encoding="utf-8")
    (folder / "service.yaml").write_text(yaml.safe_dump(_settings(place)), encoding="utf-8")
    if not place.token_file.exists():
        scopes = [part for name in ("assess", "read") for part in ("--scope", name)]
        made = _rlrisk(
            *("tokens", "create", "demo", "--config", str(folder / "service.yaml"), "--json"),
            *scopes,
        )
        place.token_file.touch(mode=0o600)
        place.token_file.write_text(json.loads(made)["token"], encoding="utf-8")
    return environment


def _settings(place: Place) -> dict[str, Any]:
    asked = CONFIG.model_dump(mode="json", exclude_unset=True)
    return {
        "tracking_uri": place.mlflow_url,
        "experiment": "rlrisk-service",
        "prompt_sets": {PROMPT_SET: {"path": str(RL)}},
        "verifiers": {VERIFIER_NAME: VERIFIER},
        "assessment": asked,
    }


def _registry_store(place: Place) -> str:
    """Address of the registry's database with the gate in front of it."""
    return f"rlrisk+{_backend_store(place)}"


def _backend_store(place: Place) -> str:
    return f"sqlite:///{place.folder.resolve() / 'mlflow.db'}"


def _mlflow_command(place: Place) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server", "--port", str(place.mlflow_port)),
        *("--backend-store-uri", _backend_store(place)),
        *("--registry-store-uri", _registry_store(place)),
        *("--artifacts-destination", str(place.folder.resolve() / "artifacts"), "--workers", "1"),
    ]


def _service_command(place: Place) -> list[str]:
    folder = place.folder.resolve()
    return [
        *(*_RLRISK, "serve", "--config", str(folder / "service.yaml"), "--port", str(place.port)),
        *("--signing-key", str(folder / "key.pem")),
    ]


def _register(rungs: Sequence[Rung], place: Place) -> list[str]:
    import mlflow

    quiet_mlflow()
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    mlflow.set_tracking_uri(place.mlflow_url)
    mlflow.set_registry_uri(place.mlflow_url)
    mlflow.set_experiment("rlrisk-demo")
    versions = register_rungs(rungs)
    for each in versions:
        say(f"    {each.uri}  {each.rung.depth}")
    return [each.uri for each in versions]


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], log: Path, answers_at: str
) -> Iterator[None]:
    """Run a server from when it answers until the end of the block."""
    if _answers(answers_at):
        raise ConfigError("port", answers_at, "something answers there already; choose another")
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not _answers(answers_at):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError("serve", answers_at, f"it did not start; {log} says why")
            time.sleep(0.5)
        yield
    finally:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Tell the server's whole session, of which nothing may be left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


_RLRISK = (sys.executable, "-c", "from mlflow_rlrisk.cli import run; run()")


def _rlrisk(*arguments: str) -> str:
    """What a command of ours prints.

    Raises:
        ConfigError: It failed.
    """
    done = subprocess.run([*_RLRISK, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError("serve", " ".join(arguments[:2]), done.stderr.strip()[-500:])
    return done.stdout


def score_command(url: str, token_file: Path, version: int) -> str:
    """The ``curl`` that scores a version of the ladder; the README shows the same."""
    body = {
        "model": f"models:/{MODEL_NAME}/{version}",
        "prompt_set": PROMPT_SET,
        "verifier": VERIFIER_NAME,
    }
    return (
        f'curl -X POST {url}/v1/assessments -H "Authorization: Bearer '
        f'$(cat {shlex.quote(str(token_file))})" \\\n'
        f"    -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


def _what_to_do(place: Place) -> str:
    token = shlex.quote(str(place.token_file))
    return (
        f"Scoring service with dashboard: {place.url} (any user, password: the token in {token})\n"
        "\nScore a version:\n"
        f"{score_command(place.url, place.token_file, 1)}\n"
        "\nSee what came out, then ask the registry for the alias that the gate protects:\n"
        f'curl {place.url}/v1/models/{MODEL_NAME} -H "Authorization: Bearer $(cat {token})"\n'
        f"MLFLOW_TRACKING_URI={place.mlflow_url} {command_beside('rlrisk')} gate promote"
        f" models:/{MODEL_NAME}/1 --alias rl-ready\n"
        "\nCtrl-C stops both."
    )
