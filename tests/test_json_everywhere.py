"""Every command has ``--json``: then standard output is JSON alone, as a program reads it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mlflow_rlrisk.cli import cli, run
from mlflow_rlrisk.demo import rl, rl_story
from mlflow_rlrisk.demo import run as demo_run
from mlflow_rlrisk.demo.ladder import Rung
from mlflow_rlrisk.demo.story import Assessed
from mlflow_rlrisk.demo.tracking import Version
from mlflow_rlrisk.gate.promotion_policy import PromotionPolicy, parse_policy
from mlflow_rlrisk.report_record import RiskReport
from tests.prompt_statistics import ladder_rung, report_of


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, *path, name)
        else:
            yield " ".join([*path, name]), found


def test_every_command_has_json() -> None:
    found = dict(commands(cli))

    assert {"assess", "gate check", "policy init", "serve", "demo"} <= found.keys()
    without = [n for n, each in found.items() if not any("--json" in p.opts for p in each.params)]
    assert without == []


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; returns exit code and the one object on its standard output."""

    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        return int(ended.value.code or 0), json.loads(lines[0])

    return call


def test_the_policy_in_json_is_the_policy(answer: Any, capsys: Any, tmp_path: Path) -> None:
    odd = tmp_path / "cl\xe9 \U0001f511\x7f\x9b.json"  # what YAML and a terminal do not take
    (tmp_path / "grpo.yaml").write_text("num_generations: 4\nmin_p: 0.00001\n", encoding="utf-8")
    given = ["--protect", "a", "--ring", str(odd), "--rl-config", str(tmp_path / "grpo.yaml")]

    code, _ = answer("policy", "init", *given, "--json")
    for more in ([], ["--json"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run(["policy", "init", *given, *more])
        text = capsys.readouterr().out
        parsed = parse_policy(text)
        assert (parsed.key_ring, parsed.rules[0].aliases) == (str(odd), ["a"])
        assert parsed.rules[0].required_settings["min_p"] == 0.00001
        assert parsed.model_fields_set == set(PromotionPolicy.model_fields)
        assert "\x9b" not in text
    assert code == 0
    assert answer("policy", "schema", "--json")[1]["title"] == "PromotionPolicy"


def test_json_holds_what_is_no_character_and_what_a_terminal_would_obey() -> None:
    # A file's name is bytes (those that are no UTF-8 come as halves of characters); whoever asks
    # for an alias chooses what the log of the gate shows.
    told = {"name": "caf\udce9 \x9b2J\x7f \x85 \U0001f511 \xe9"}
    command = f"from mlflow_rlrisk.commands.output import print_json; print_json({told!r})"

    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)

    text = done.stdout.decode("utf-8")
    assert json.loads(text) == told
    assert not any("\x7f" <= letter <= "\x9f" for letter in text)
    assert "\U0001f511 \xe9" in text


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> list[Assessed]:
    """The demo over two rungs whose figures are given, instead of trained and assessed."""
    made = []
    for epochs, shape in ((1, (6.0, 8.0, 0.4)), (64, (0.2, 0.15, 0.02))):
        version = Version(Rung(epochs, Path("."), 0.1), f"models:/chains/{epochs}")
        made.append(Assessed(version, report_of(ladder_rung(*shape), model=version.uri)))
    reports = {each.version.uri: each.report for each in made}
    for name, given in {
        "_announce": lambda *_, **__: None,
        "_train": lambda _: [each.version.rung for each in made],
        "open_store": lambda _: "sqlite:///demo.db",
        "register_rungs": lambda _: [each.version for each in made],
        "assess_version": lambda version, _: reports[version.uri],
    }.items():
        monkeypatch.setattr(demo_run, name, given)
    return made


def test_the_demo_tells_its_ladder_and_both_choices(
    answer: Any, ladder: list[Assessed], tmp_path: Path
) -> None:
    shallow, deep = ladder

    code, told = answer("demo", "--out", str(tmp_path), "--json")

    assert code == 0
    safe, drilled = (each.version.uri for each in ladder)
    assert [row["model"] for row in told["versions"]] == [safe, drilled]
    assert (told["best_pass_at_1"], told["lowest_risk"]) == (drilled, safe)
    for row, each in zip(told["versions"], (shallow, deep), strict=True):
        assert row["risk_level"] == str(each.report.risk_level)
        assert row["reasons"] == list(each.report.reasons)
        measured = each.report.metrics["rlrisk/pass_at_1"]
        assert row["metrics"]["rlrisk/pass_at_1"]["value"] == measured.value
    assert told["rl"] is None


def test_the_demo_tells_what_rl_made_of_both_ends(
    answer: Any, ladder: list[Assessed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [0.1, 0.2, 0.3]
    trained = rl.RlRun(Path("."), reward=steps, frac_reward_zero_std=steps, entropy=steps)

    def heldout(*_: object) -> RiskReport:
        print("a library that prints")
        return ladder[0].report

    monkeypatch.setattr(rl, "train_grpo", lambda *_: trained)
    monkeypatch.setattr(rl_story, "_heldout", heldout)
    monkeypatch.setattr(demo_run, "_require", lambda **_: None)

    _, told = answer("demo", "--rl", "--out", str(tmp_path), "--json")

    assert [row["epochs"] for row in told["rl"]["runs"]] == [1, 64]
    assert told["rl"]["runs"][0]["frac_reward_zero_std"] == steps
    before = told["rl"]["runs"][0]["before"]["rlrisk/pass_at_16"]["value"]
    assert before == ladder[0].report.metrics["rlrisk/pass_at_16"].value
    assert len(told["rl"]["verdicts"]) == 2


def test_without_json_the_demo_prints_for_people(
    ladder: list[Assessed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(["demo", "--out", str(tmp_path)])

    out = capsys.readouterr().out
    assert "pass@1 alone picks   models:/chains/64" in out
    assert '"versions"' not in out


def test_a_demo_that_cannot_start_says_so_in_json(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "thesis.tex").write_text("years of work")

    code, told = answer("demo", "--out", str(tmp_path), "--json")

    assert (code, told["error"]["code"]) == (2, "invalid_config")
