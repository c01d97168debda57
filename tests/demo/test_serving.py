"""The demo's servers: what is said where one does not start, and what can be pasted."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.demo import serving
from mlflow_rlrisk.errors import ConfigError

NOBODY = "http://127.0.0.1:1/livez"


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [sys.executable, "-c", "raise SystemExit('the database is of another version')"]

    with (
        pytest.raises(ConfigError, match=f"it did not start; {log} says why"),
        serving._running(command, dict(os.environ), log, NOBODY),
    ):
        raise AssertionError("it runs")

    assert "another version" in log.read_text()


def test_a_closed_terminal_takes_the_servers_with_it(tmp_path: Path) -> None:
    # The same place as `serve_ladder` prepares, with a server that only writes who it is.
    script = f"""
import os, signal, sys, time
from pathlib import Path
from mlflow_rlrisk.demo import serving
place = serving.Place(Path({str(tmp_path)!r}), 1, 2)
child = Path({str(tmp_path)!r}) / "child"
serving._prepare = lambda place: dict(os.environ)
serving._answers = lambda url: child.exists() and child.read_text() != ""
serving._register = lambda rungs, place: (child.with_name("ready").touch(), time.sleep(60))
code = f"import os, time; open({{str(child)!r}}, 'w').write(str(os.getpid())); time.sleep(60)"
serving._mlflow_command = lambda place: [sys.executable, "-c", code]
serving.serve_ladder([], place, print)
"""
    shown = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    server = int((tmp_path / "child").read_text())

    shown.send_signal(signal.SIGHUP)
    shown.wait(60)

    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_a_program_is_told_where_both_are_once_both_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, told = [], []

    @contextmanager
    def running(command: list[str], *_: object) -> Iterator[None]:
        answering.append(command)
        yield

    def wait(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving, "_prepare", lambda _: {})
    monkeypatch.setattr(serving, "_running", running)
    monkeypatch.setattr(serving, "_register", lambda *_: ["models:/chains-sft/1"])
    monkeypatch.setattr(serving.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serving.time, "sleep", wait)

    code = serving.serve_ladder(
        [],
        serving.Place(Path("out"), 5001, 8788),
        lambda found: told.append((found, len(answering))),
    )

    addresses = {"mlflow": "http://127.0.0.1:5001", "service": "http://127.0.0.1:8788"}
    token = {"token_file": str(tmp_path / "out" / "token"), "models": ["models:/chains-sft/1"]}
    assert (code, told) == (0, [({**addresses, **token}, 2)])


def test_the_printed_commands_survive_a_folder_with_a_space() -> None:
    text = serving.score_command("http://here", Path("my demo/token"), 1)
    (inner,) = (part for part in shlex.split(text) if "Bearer" in part)

    assert inner == "Authorization: Bearer $(cat 'my demo/token')"


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--rl"], "--rl goes on from"), (["--port", "5000"], "are both 5000")],
)
def test_options_that_do_not_go_with_serving_are_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["demo", "--serve", *options])

    assert result.exit_code == 2
    assert message in result.output
