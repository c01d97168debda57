"""The digest that the service's signer expects of a configured verifier, and who computes it."""

from contextlib import suppress
from pathlib import Path

import pytest

from mlflow_rlrisk.verifiers import load_verifier
from service.sampling import process as sampling_process
from service.sampling import sandboxes
from service.sampling.gpu_claim import Claim
from service.sampling.verifier_digest import verifier_digest
from service.settings import ServiceSettings


def test_a_changed_file_or_helper_beside_it_is_another_verifier_without_a_restart(
    tmp_path: Path,
) -> None:
    settings = ServiceSettings(tracking_uri="x", prompt_sets={}, verifiers={})
    (tmp_path / "helper.py").write_text("WORDS = ['yes']\n")
    reward = tmp_path / "rewards.py"
    reward.write_text(
        "from helper import WORDS\n\ndef reward(completion, truth):\n    return 1.0\n"
    )
    spec = f"{reward}:reward"

    before = verifier_digest(spec, settings)
    (tmp_path / "helper.py").write_text("WORDS = ['no']\n")
    after = verifier_digest(spec, settings)

    assert before != after == load_verifier(spec).digest
    assert verifier_digest("numeric", settings) == load_verifier("numeric").digest


@pytest.mark.parametrize("name", ["service/__init__", "service/sandbox_check", "json"])
def test_what_lies_in_the_working_directory_is_not_run_instead_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    foreign = tmp_path / f"{name}.py"
    foreign.parent.mkdir(exist_ok=True)
    for each in (
        foreign,
        foreign.with_name("__init__.py"),
        foreign.with_name("verifier_digest.py"),
    ):
        each.write_text("raise SystemExit('a file of somebody else was run')\n")
    (tmp_path / "task").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = ServiceSettings(tracking_uri="x", prompt_sets={}, verifiers={})

    assert verifier_digest("numeric", settings) == load_verifier("numeric").digest
    assert sandboxes._fault_here("numeric", settings) is None
    with suppress(sampling_process.ChildLostError):  # there is no checkpoint
        sampling_process.run_child(
            tmp_path / "task",
            {
                "model_path": "",
                "prompts": "",
                "verifier": "numeric",
                "config": {"backend": "transformers"},
            },
            settings,
            claim=Claim((), ()),
            on_line=lambda _: True,
        )
    assert "somebody else" not in (tmp_path / "task" / sampling_process.LOG).read_text()
