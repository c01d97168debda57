"""Hostile checkpoints run nothing, reach nobody and end in a sentence, here and in the shell."""

import json
import pickle
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import GraniteMoeHybridConfig

from mlflow_rlrisk import assess
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.checkpoint.configuration_screen import refuse_code
from mlflow_rlrisk.cli import run
from mlflow_rlrisk.errors import CheckpointError
from tests.hostile_checkpoints import CANARY, CONTAINED, REFUSED
from tests.tiny_assessments import quick, sums, write_graders
from tests.tiny_models import CHAT_TEMPLATE, write_llama


class _Watch:
    """Connections, lookups and foreign commands while it is on; an audit hook stays for good."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in ("socket.connect", "socket.sendto"):
            if not isinstance(arguments[1], (str, bytes)):  # local sockets are names
                self.seen.append(f"{event} {arguments[1]}")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "os.system", "os.exec"):
            self.seen.append(f"{event} {arguments}")

    @contextmanager
    def nothing_leaves(self) -> Iterator[None]:
        self.seen.clear()
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
        assert self.seen == []


@pytest.fixture(scope="module")
def watch() -> _Watch:
    return _Watch()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sound")
    write_graders(home)
    (home / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(2)))
    return write_llama(home / "model", template=CHAT_TEMPLATE)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def _knock() -> None:
    with suppress(OSError), socket.socket() as trap:
        trap.settimeout(0.01)
        trap.connect(("192.0.2.1", 9))


def test_canary_and_watch_would_tell(folder: Path, watch: _Watch) -> None:
    assert len(REFUSED) + len(CONTAINED) >= 25
    REFUSED["weights as a pickle"](folder)

    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301  the trap itself
    with pytest.raises(AssertionError, match="192"), watch.nothing_leaves():
        _knock()

    assert (folder.parent / CANARY).exists()


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_checkpoint_is_refused_before_transformers_sees_it(
    name: str, folder: Path, watch: _Watch
) -> None:
    REFUSED[name](folder)

    with watch.nothing_leaves(), pytest.raises(CheckpointError):
        open_checkpoint(folder)

    assert not (folder.parent / CANARY).exists()


@pytest.mark.parametrize("name", CONTAINED)
def test_a_trap_that_is_let_in_springs_nothing(
    name: str, folder: Path, sound: Path, watch: _Watch
) -> None:
    CONTAINED[name](folder)

    with watch.nothing_leaves(), suppress(CheckpointError):
        assess(folder, sums(2), verifier=f"{sound.parent}/graders.py:digit", config=quick())

    assert not (folder.parent / CANARY).exists()


@pytest.mark.parametrize("name", ["weights as a pickle", "a template that breaks out"])
def test_the_command_refuses_it_in_one_line(
    name: str, folder: Path, sound: Path, watch: _Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    REFUSED[name](folder)
    prompts, verifier = sound.parent / "prompts.jsonl", f"{sound.parent}/graders.py:digit"

    with watch.nothing_leaves(), pytest.raises(SystemExit) as ended:
        run(["assess", str(folder), "--prompts", str(prompts), "--verifier", verifier])

    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.splitlines()[-1].startswith("rlrisk: ")
    assert "Traceback" not in told


def test_an_infinity_as_transformers_writes_it_is_no_private_key(folder: Path) -> None:
    # So stands Mamba's time_step_limit in Granite 4 hybrids, Bamba and Nemotron-H.
    GraniteMoeHybridConfig(vocab_size=8).save_pretrained(folder / "hybrid")
    written = json.loads((folder / "hybrid" / "config.json").read_text())

    refuse_code(written, "config.json")

    assert written["time_step_limit"][1] == {"__float__": "Infinity"}
    with pytest.raises(CheckpointError, match="private key '__float__'"):
        refuse_code({"time_step_limit": {"__float__": "evil/kernel"}}, "config.json")


def test_a_sound_template_with_every_extension_is_let_through(folder: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{{ strftime_now('%Y') }}{% endgeneration %}{% endfor %}"
        "{% if not tools and messages | length > 9 %}{{ raise_exception('long') }}{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)

    assert open_checkpoint(folder).template_digest is not None
