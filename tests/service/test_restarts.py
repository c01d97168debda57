"""A process that crashes over and over is started ever more seldom; a healthy one at once."""

import itertools
import logging
import re
import signal
import threading
from pathlib import Path

import pytest

from service import serve
from service.restarts import Pauses
from service.settings import load_settings
from tests.service.running_service import write_settings


def test_a_pause_doubles_up_to_the_longest_and_is_short_again_after_a_healthy_while() -> None:
    pauses = Pauses(first_s=1.0, longest_s=30.0, healthy_s=60.0)
    now, told = 0.0, []
    for _ in range(8):
        pauses.started("worker", now)
        now += 3.0  # it lives for so long
        told.append(pauses.after("worker", now))
        now += told[-1]

    assert told == [1, 2, 4, 8, 16, 30, 30, 30]
    pauses.started("api", now)
    assert pauses.after("api", now) == 1  # each has its own
    pauses.started("worker", now)
    assert pauses.after("worker", now + 60) == 1
    pauses.started("worker", now + 61)
    assert pauses.after("worker", now + 62) == 2


def test_the_supervisor_waits_longer_each_time_and_keeps_the_others_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve, "RESTART_S", 0.2)
    monkeypatch.setattr(serve, "LONGEST_RESTART_S", 0.8)
    monkeypatch.setattr(serve, "TICK_S", 0.02)
    crash = 'import sys, time; time.sleep(60 if "lives" in sys.argv else 0); sys.exit(7)'
    monkeypatch.setattr(serve, "COMMAND", crash)
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    supervisor = serve._Supervisor({"worker": ["dies"], "api": ["lives"]}, settings)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(4.0, supervisor._stop)

    timer.start()
    with caplog.at_level(logging.ERROR, logger="service.serve"):
        supervisor.run()

    for each, handler in before.items():
        signal.signal(each, handler)
    lines = [r for r in caplog.records if r.name == "service.serve"]
    pauses = [float(re.search(r"again in ([\d.]+) s", r.getMessage())[1]) for r in lines]  # type: ignore[index]
    assert pauses[:4] == [0.2, 0.4, 0.8, 0.8][: len(pauses)]
    assert len(pauses) >= 3
    assert all("the worker ended with 7" in r.getMessage() for r in lines)
    gaps = [b.created - a.created for a, b in itertools.pairwise(lines)]
    assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=False))
