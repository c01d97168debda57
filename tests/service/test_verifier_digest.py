"""The digest that the service's signer expects of a configured verifier."""

from pathlib import Path

from mlflow_rlrisk.verifiers import load_verifier
from service.settings import ServiceSettings
from service.verifier_digest import verifier_digest


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
