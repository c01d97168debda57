"""Hostile programs are stopped and honest ones graded right, wherever the judge runs."""

import json
import subprocess
from typing import Any

import pytest

from tests.verifiers.code.corpus_reader import hostile, programs
from tests.verifiers.code.settings import ROOT, command_of, need_namespaces

PLACES = [
    ("A", "root", False),
    ("A", "nobody", False),
    ("B", "root", False),
    ("B", "nobody", False),
    ("B", "root", True),
    ("B", "nobody", True),
]


def run_corpus(tier: str, user: str, in_container: bool) -> dict[str, Any]:
    if tier == "A":
        need_namespaces()
    command, environment = command_of(user, in_container=in_container)
    done = subprocess.run(
        [*command, "-m", "tests.verifiers.code.run_corpus", tier],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["uid"] == 0) == (user == "root")
    return told


def test_the_corpus_has_as_many_programs_as_it_claims() -> None:
    assert len(list(hostile())) >= 60
    assert len(programs("benign")) >= 15


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "user", "in_container"), PLACES)
def test_every_hostile_program_is_stopped_and_every_benign_one_passes(
    tier: str, user: str, in_container: bool
) -> None:
    told = run_corpus(tier, user, in_container)

    forged = [s for s, graded in told["hostile"].items() if graded["grade"] == "pass"]
    unjudged = [s for s, graded in told["hostile"].items() if graded["grade"] == "inconclusive"]
    misjudged = {s: g["detail"] for s, g in told["benign"].items() if g["grade"] != "pass"}
    assert forged == []
    assert unjudged == []  # a program that picks its own absence is not stopped
    assert misjudged == {}
    assert told["reached"] == []
    assert told["changed"] == []
    assert told["mode"] == 0o644
    assert {graded["tier"] for graded in told["hostile"].values()} == {tier}


def test_tier_a_is_refused_in_a_container_and_auto_takes_b() -> None:
    command, environment = command_of("nobody", in_container=True)
    script = (
        "from mlflow_rlrisk.verifiers.code import CodeJudge, SandboxUnavailableError\n"
        "with CodeJudge('auto') as judge: print(judge.tier)\n"
        "try:\n"
        "    CodeJudge('A').__enter__()\n"
        "except SandboxUnavailableError as error: print(error)\n"
    )

    done = subprocess.run(
        [*command, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=True
    )

    taken, refused = done.stdout.decode().strip().splitlines()
    assert taken == "B"
    assert "tier A" in refused
