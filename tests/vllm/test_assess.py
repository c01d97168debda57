"""The command with ``--backend vllm``: a report that agrees with the transformers backend's."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_assessments import start_rlrisk, sums, write_graders
from tests.vllm.oracle import write_model

pytestmark = pytest.mark.timeout(600)

METRICS = ("rlrisk/pass_at_1", "rlrisk/token_entropy")


def test_its_report_agrees_with_that_of_the_transformers_backend(tmp_path: Path) -> None:
    write_model(tmp_path / "model", template="{{ messages[0]['content'] }}=")
    write_graders(tmp_path)
    rows = [json.dumps(row) for row in sums(24)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows), encoding="utf-8")

    plain = _report(tmp_path, "transformers")
    report = _report(
        tmp_path,
        "vllm",
        *("--backend-option", f"kv_cache_memory_bytes={2**26}"),
        *("--backend-option", "max_num_seqs=64"),
    )

    for name in METRICS:
        ours, theirs = report["metrics"][name], plain["metrics"][name]
        assert ours["ci_low"] <= theirs["ci_high"]
        assert theirs["ci_low"] <= ours["ci_high"]
        assert abs(ours["value"] - theirs["value"]) < 0.05
    provenance = report["provenance"]
    assert provenance["sampler"]["backend"] == "vllm"
    assert "entropy differs by" in provenance["sampler"]["self_check"]
    assert provenance["digests"]["sampler"] != plain["provenance"]["digests"]["sampler"]


def _report(folder: Path, backend: str, *options: str) -> dict[str, Any]:
    arguments = [
        *("assess", "model", "--prompts", "prompts.jsonl", "--chat-template", "always"),
        *("--verifier", "graders.py:digit", "--no-preflight", "--backend", backend, *options),
        *("--num-samples", "16", "--max-new-tokens", "12", "--num-resamples", "400"),
        *("--out", f"out-{backend}", "--json"),
    ]
    with start_rlrisk(*arguments, cwd=folder) as process:
        out, err = process.communicate(timeout=290)
    assert process.returncode in (0, 10, 11), err
    json.loads(out)  # nothing of vLLM's is written between
    report: dict[str, Any] = json.loads(
        (folder / f"out-{backend}" / "report.json").read_text(encoding="utf-8")
    )
    return report
