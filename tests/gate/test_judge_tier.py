"""What is signed names the isolation that graded, and is about weights that were looked at."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk import assess
from mlflow_rlrisk.attestation import ATTESTATION_TAG, verify_attestation
from mlflow_rlrisk.attestation.keys import to_moment
from mlflow_rlrisk.commands.signing import Signer
from mlflow_rlrisk.errors import AttestationError, VerifierError
from mlflow_rlrisk.gate.promotion_policy import max_age_of
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.risk.judgement import RiskLevel
from mlflow_rlrisk.sinks.attest import attest
from mlflow_rlrisk.verifiers import VerifierPool
from mlflow_rlrisk.verifiers.code.sandbox_tiers import UNSAFE_VARIABLE, UNSAFE_WORD
from mlflow_rlrisk.verifiers.code.verifier import CodeVerifier
from mlflow_rlrisk.verifiers.loading import LoadedVerifier
from mlflow_rlrisk.verifiers.process import WorkerProcess
from tests.gate.conftest import Gated, refused
from tests.gate.world import PLACE
from tests.tiny_assessments import quick
from tests.tiny_models import write_llama

ROW = {
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("coder"))


def assessed(gated: Gated, checkpoint: Path, verifier: str, folder: Path) -> tuple[Any, RiskReport]:
    """A registered version of the checkpoint, and what an assessment of it found."""
    gated.plain.create_registered_model("prod-a")
    gated.plain.create_model_version("prod-a", checkpoint.as_uri(), gated.run_id)
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps(ROW | {"answer": "3"}) + "\n", encoding="utf-8")
    report = assess(
        "models:/prod-a/1",
        prompts=prompts,
        verifier=verifier,
        config=quick(verifier_timeout_s=60.0),
        run_preflight=False,
    )
    return gated.plain.get_model_version("prod-a", "1"), report


@pytest.mark.parametrize(("verifier", "tier"), [("code:tier=B", "B"), ("numeric", "none")])
def test_a_policy_holds_a_version_to_the_tier_that_graded_it_and_to_how_it_was_sampled(
    gated: Gated, checkpoint: Path, tmp_path: Path, verifier: str, tier: str
) -> None:
    version, report = assessed(gated, checkpoint, verifier, tmp_path)
    assert report.provenance.judge_tier == (None if tier == "none" else tier)
    assert RiskReport.from_json(report.to_json()) == report
    # A random model passes no policy; only the tier is asked about here.
    report = replace(report, risk_level=RiskLevel.LOW)
    envelope = attest(report, report_uri="r", key=gated.world.key, registry="mlflow")
    gated.tag(version, ATTESTATION_TAG, envelope)
    bar, place = (
        gated.store.gatekeeper.source.current(),
        replace(PLACE, model="prod-a", version="1"),
    )
    signed = verify_attestation(envelope, bar.ring, place, datetime.now(UTC)).statement
    lasts = to_moment(signed.expires_at) - to_moment(signed.issued_at)
    assert lasts == max_age_of(bar.policy.rules[0]) == timedelta(days=30)  # by default
    rule = {"name": "tiers", "aliases": ["champion"]}

    gated.world.write_policy([rule | {"allowed_judge_tiers": ["A", "C"]}])
    with refused(f"its judge tier is {tier}"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    group_size = report.config.group_size
    gated.world.write_policy([rule | {"required_settings": {"group_size": group_size + 1}}])
    with refused(f"with group_size {group_size}, {group_size + 1} is needed"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    drawn = report.config.sampling
    needed = {"group_size": group_size, "temperature": drawn.temperature, "top_k": drawn.top_k}
    gated.world.write_policy([rule | {"allowed_judge_tiers": [tier], "required_settings": needed}])
    gated.store.set_registered_model_alias("prod-a", "champion", "1")


@pytest.mark.parametrize("checked", [None, "1.2e-3 nats at most over 64 tokens"])
def test_answers_of_an_endpoint_are_signed_only_where_its_weights_were_compared(
    gated: Gated, checkpoint: Path, tmp_path: Path, checked: str | None
) -> None:
    _, report = assessed(gated, checkpoint, "numeric", tmp_path)
    sampler = report.provenance.sampler | {"weights_check": checked}
    report = replace(report, provenance=replace(report.provenance, sampler=sampler))
    told = {"report_uri": "r", "key": gated.world.key, "registry": "mlflow"}

    if checked is not None:
        assert attest(report, **told)
        return
    with pytest.raises(AttestationError, match=r"declared, not checked.*check_weights=true"):
        attest(report, **told)
    key = gated.world.key
    assert Signer(key, "mlflow", is_asked_for=False).attest(report, gated.run_id, "r") is None
    with pytest.raises(AttestationError, match="declared, not checked"):
        Signer(key, "mlflow").attest(report, gated.run_id, "r")


def test_code_that_runs_without_walls_is_not_the_same_as_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(UNSAFE_VARIABLE, UNSAFE_WORD)

    verifier = CodeVerifier(tier="none")

    verifier.close()
    assert verifier.judge_tier == "unsafe"


def test_workers_of_two_tiers_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = WorkerProcess.start
    tiers = iter("AB")

    def in_another_tier(worker: WorkerProcess) -> LoadedVerifier:
        return replace(start(worker), judge_tier=next(tiers))

    monkeypatch.setattr(WorkerProcess, "start", in_another_tier)

    with (
        pytest.raises(VerifierError, match=r"in tier [AB] and in tier [AB]"),
        VerifierPool("numeric", num_workers=2),
    ):
        pass


def test_a_worker_that_comes_back_in_another_tier_grades_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = Prompt(id="p", content="1+1=", truth="2")
    start = WorkerProcess.start
    with VerifierPool("numeric") as pool:
        pool._workers[0].kill()
        monkeypatch.setattr(
            WorkerProcess, "start", lambda worker: replace(start(worker), judge_tier="B")
        )
        with pytest.raises(VerifierError, match="in tier None and in tier B"):
            pool.grade_completions(prompt, ["2"])
