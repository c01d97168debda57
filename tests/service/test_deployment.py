"""Dockerfile and compose file: no engine is here, so that what they name is held to the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from mlflow_rlrisk.commands.assessment import assess
from mlflow_rlrisk.commands.demo import demo
from mlflow_rlrisk.commands.serve import serve
from mlflow_rlrisk.commands.tokens import tokens
from mlflow_rlrisk.demo.make_data import RL
from mlflow_rlrisk.demo.serving import Place, _settings, score_command
from mlflow_rlrisk.demo.tracking import MODEL_NAME, VERIFIER
from service.settings import ServiceSettings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{\w+(:\?[^}]*)?\}", "secret", text)
    loaded: dict[str, Any] = yaml.safe_load(filled)
    return loaded


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """Stages of the Dockerfile by name, each with the text of those that it is made from."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for part in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        match = re.match(r"FROM (\S+) AS (\S+)", part)
        assert match is not None
        found[match[2]] = found.get(match[1], "") + part
    return found


def test_every_image_runs_as_nobody_in_particular_and_says_whether_it_is_well(
    compose: dict[str, Any], stages: dict[str, str]
) -> None:
    built = {each["build"]["target"] for each in compose["services"].values() if "build" in each}

    assert built == {"service", "service-cuda", "mlflow"}
    for name in (*built, "cli"):
        assert re.findall(r"^USER (\S+)", stages[name], flags=re.MULTILINE)[-1] == "10001"
        assert "HEALTHCHECK" in stages[name]
    assert list(stages)[-1] == "service"  # what `docker build .` makes


def test_what_the_dockerfile_shows_can_be_typed_and_writes_where_it_may(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    shown = re.findall(r"^#   (docker run .*)$", text, flags=re.MULTILINE)
    config = tmp_path / "service.yaml"
    kept = re.findall(r"^#   (database|data_dir): (\S+)$", text, flags=re.MULTILINE)
    config.write_text(yaml.safe_dump({"tracking_uri": "x", "prompt_sets": {}, "verifiers": {}}))
    with config.open("a") as stream:
        stream.writelines(f"{name}: {value}\n" for name, value in kept)
    settings = load_settings(config)

    commands = []
    for line in shown:
        options, _, command = line.partition(" mlflow-rlrisk")
        if '"$PWD:' in options:  # a folder of the caller's, not of the image's user
            assert '--user "$(id -u):$(id -g)"' in options
        name, *arguments = shlex.split(command.removeprefix("-service")) or ["serve"]
        commands.append(name)
        parts = [os.devnull if part.startswith("/") else part for part in arguments]
        if name == "tokens":
            tokens.commands[parts[0]].make_context(parts[0], parts[1:])
        elif name == "assess":
            assess.make_context("assess", parts)
    assert commands == ["assess", "tokens", "serve"]
    # Beside the settings file nothing can be written; the volume is the image's user's.
    assert settings.database == "sqlite:////data/rlrisk-service.db"
    assert settings.data_dir == "/data"


def test_only_the_signer_and_the_setup_see_the_key(compose: dict[str, Any]) -> None:
    holders = {
        name
        for name, each in compose["services"].items()
        if any(volume.startswith("keys:") for volume in each.get("volumes", ()))
    }
    assert holders == {"setup", "signer"}

    for name, each in compose["services"].items():
        if name not in ("postgres", "mlflow"):
            assert "environment" not in each or not re.search("PASSWORD", str(each["environment"]))
        if name != "postgres":
            assert each["cap_drop"] == ["ALL"]


def test_the_commands_of_the_compose_file_are_commands_of_ours(compose: dict[str, Any]) -> None:
    roles = {}
    for name in ("signer", "api", "worker", "worker-cuda"):
        command = compose["services"][name]["command"]
        assert command[0] == "serve"
        # The option types check that files exist, which they do in the container only.
        arguments = [os.devnull if part.startswith("/") else part for part in command[1:]]
        context = serve.make_context("serve", arguments)
        roles[name] = context.params["role"]
        assert isinstance(context.command, click.Command)

    assert roles == {"signer": "signer", "api": "api", "worker": "worker", "worker-cuda": "worker"}


def test_a_setup_that_breaks_off_is_made_good_by_the_next(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    (script,) = compose["services"]["setup"]["command"]
    for folder in ("keys", "ring"):
        (tmp_path / folder).mkdir()
        script = script.replace(f"/{folder}/", f"{tmp_path}/{folder}/")
    tool = tmp_path / "bin" / "rlrisk"
    tool.parent.mkdir()
    real = f'exec {sys.executable} -m mlflow_rlrisk "$@"\n'
    tool.write_text(f'#!/bin/sh\ntest "$1" = keys || exit 1\n{real}')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    command = [*compose["services"]["setup"]["entrypoint"], script]

    assert subprocess.run(command, env=environment, check=False).returncode == 1
    tool.write_text(f'#!/bin/sh\ntest "$1" != tokens || exit 0\n{real}')
    assert subprocess.run(command, env=environment, check=False).returncode == 0

    policy = yaml.safe_load((tmp_path / "ring" / "gate.yaml").read_text())
    assert policy["key_ring"] == f"{tmp_path}/ring/key_ring.json"


def test_the_settings_in_the_compose_file_are_usable(compose: dict[str, Any]) -> None:
    settings = ServiceSettings(**yaml.safe_load(compose["configs"]["service"]["content"]))

    (signer_volume,) = {
        volume.split(":")[1]
        for each in compose["services"].values()
        for volume in each.get("volumes", ())
        if volume.startswith("signer:")
    }
    assert settings.signer_socket is not None
    assert Path(settings.signer_socket).parent == Path(signer_volume)
    packaged = settings.prompt_sets["rl"].path.split("/site-packages/")[1]
    assert (ROOT / packaged).is_file()


def test_the_readme_shows_the_curl_that_the_demo_prints() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    place = Place(Path("demo-out") / "service", 5000, 8787)
    defaults = {parameter.name: parameter.default for parameter in demo.params}
    printed = score_command(place.url, place.token_file, 1)

    assert f"$ {printed}\n" in readme
    assert (defaults["out"], defaults["port"], defaults["mlflow_port"]) == ("demo-out", 8787, 5000)
    body = json.loads(printed.split("-d ", 1)[1].strip("'"))
    settings = ServiceSettings(**_settings(place))
    assert body["model"].startswith(f"models:/{MODEL_NAME}/")
    assert settings.prompt_sets[body["prompt_set"]].path == str(RL)
    assert settings.verifiers[body["verifier"]] == VERIFIER
