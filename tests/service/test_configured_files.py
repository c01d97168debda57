"""Files that ``service.yaml`` names are looked for at the start, by the roles that read them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.sampling.process import walls_of
from service.settings import load_settings
from tests.service.running_service import COMMAND, VERIFIER, free_port, write_settings

MISSPELT = {"prompt_sets": {"rl": {"path": "rl_promts.jsonl"}}}


def started(config: Path, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """``rlrisk serve``, which does not get far: its key is not for this role, or not there."""
    command = [sys.executable, "-c", COMMAND, "serve", "--config", str(config), *options]
    return subprocess.run(
        [*command, "--signing-key", str(config.parent / "no.pem"), "--port", str(free_port())],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("role", ["all", "worker", "signer"])
def test_prompts_that_are_not_there_are_refused_at_the_start(tmp_path: Path, role: str) -> None:
    # They were told by the first assessment, as its failure.
    config = write_settings(tmp_path, "http://127.0.0.1:9", **MISSPELT)

    refused = started(config, "--role", role)

    assert refused.returncode == 2
    assert refused.stderr.strip() == (
        f"rlrisk: prompt_sets.rl.path='{tmp_path}/rl_promts.jsonl': "
        f"{tmp_path}/rl_promts.jsonl: no such file"
    )


@pytest.mark.parametrize(
    ("spec", "need"),
    [
        ("rewards.py:reward", "there is no file {}/rewards.py"),
        ("verl:rewards.py:compute_score", "there is no file {}/rewards.py"),
        ("exactly", "names no verifier; known names: exact, numeric"),
    ],
)
def test_a_verifier_that_is_not_there_is_refused_at_the_start(
    tmp_path: Path, spec: str, need: str
) -> None:
    config = write_settings(tmp_path, "http://127.0.0.1:9", verifiers={"reward": spec})

    refused = started(config)

    assert refused.returncode == 2
    assert "rlrisk: verifiers.reward=" in refused.stderr
    assert need.format(tmp_path) in refused.stderr


def test_the_api_alone_and_a_restarted_role_do_without_the_files(tmp_path: Path) -> None:
    # They may be on the worker's machine alone; and one file that goes must not stop all the rest.
    config = write_settings(tmp_path, "http://127.0.0.1:9", **MISSPELT)

    alone = started(config, "--role", "api")
    again = started(config, "--role", "worker", RLRISK_SUPERVISED_BY=str(os.getpid()))

    for each in (alone, again):
        assert each.returncode == 2
        assert each.stderr.startswith("rlrisk: signing_key=")


def test_relative_paths_are_beside_the_file_whatever_stands_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("rewards.py", "rl.jsonl"):
        (elsewhere / name).write_text("", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    given = {
        "plain": ("rewards.py:reward", f"{tmp_path}/rewards.py:reward"),
        "dialect": ("verl:rewards.py:f#acc", f"verl:{tmp_path}/rewards.py:f#acc"),
        "module": (VERIFIER, VERIFIER),
        "name": ("code:tier=B", "code:tier=B"),
    }
    (tmp_path / "code").mkdir()  # a folder of that name beside the file is not the judge
    config = write_settings(
        tmp_path,
        "http://127.0.0.1:9",
        prompt_sets={"rl": {"path": "rl.jsonl"}},
        verifiers={name: spec for name, (spec, _) in given.items()},
    )

    settings = load_settings(config)

    assert settings.prompt_sets["rl"].path == f"{tmp_path}/rl.jsonl"
    assert settings.verifiers == {name: meant for name, (_, meant) in given.items()}


def test_the_sampling_process_may_read_a_reward_file_behind_a_dialect(tmp_path: Path) -> None:
    settings = load_settings(write_settings(tmp_path, "http://127.0.0.1:9"))
    (tmp_path / "rewards.py").write_text("", encoding="utf-8")
    spec = f"verl:{tmp_path}/rewards.py:compute_score"
    task = {
        "model_path": str(tmp_path / "model"),
        "prompts": str(tmp_path / "prompts.jsonl"),
        "verifier": spec,
        "config": {"backend": "auto"},
    }

    walls = walls_of(task, settings, writable=())

    assert walls["readable"] == [f"{tmp_path}/prompts.jsonl", f"{tmp_path}/rewards.py"]
