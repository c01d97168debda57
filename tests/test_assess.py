"""One small real checkpoint, assessed once: is the report what the stored rollouts say?"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import beta

from mlflow_rlrisk import assess, rescore
from mlflow_rlrisk.policy import load_policy
from mlflow_rlrisk.report import RiskReport
from tests.tiny_assessments import QUICK_OPTIONS, quick, rlrisk, sums, timeless, write_graders
from tests.tiny_models import write_llama

PROMPTS = sums(14)
N, G = 8, 4


@dataclass(frozen=True)
class Assessed:
    checkpoint: Path
    graders: Path
    folder: Path
    report: RiskReport

    @property
    def digit(self) -> str:
        return f"{self.graders}:digit"

    def value(self, name: str) -> float:
        return self.report.metrics[f"rlrisk/{name}"].value


@pytest.fixture(scope="module")
def assessed(tmp_path_factory: pytest.TempPathFactory) -> Assessed:
    home = tmp_path_factory.mktemp("assessed")
    checkpoint, graders = write_llama(home / "checkpoint"), write_graders(home)
    report = assess(
        checkpoint, PROMPTS, verifier=f"{graders}:digit", config=quick(), out_dir=home / "out"
    )
    return Assessed(checkpoint, graders, home / "out", report)


@pytest.fixture(scope="module")
def groups(assessed: Assessed) -> list[list[dict[str, Any]]]:
    """The stored rollouts with their rewards, prompt by prompt, read without our code."""
    rollouts = pq.read_table(assessed.folder / "rollouts").to_pylist()
    rewards = {
        (row["prompt_id"], row["sample_index"]): row["reward"]
        for shard in (assessed.folder / "grades").glob("*.parquet")
        for row in pq.read_table(shard).to_pylist()
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rollouts:
        row["reward"] = rewards[row["prompt_id"], row["sample_index"]]
        found.setdefault(row["prompt_id"], []).append(row)
    return list(found.values())


@pytest.fixture(scope="module")
def num_correct(groups: list[list[dict[str, Any]]]) -> list[int]:
    """Graded again by hand: the completion has a digit."""
    return [
        sum(any(c in "0123456789" for c in row["completion"]) for row in group) for group in groups
    ]


def mean(values: Iterator[float] | list[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def test_every_prompt_has_its_rollouts_and_the_grades_of_its_text(
    groups: list[list[dict[str, Any]]], num_correct: list[int]
) -> None:
    assert sorted(group[0]["prompt"] for group in groups) == sorted(r["prompt"] for r in PROMPTS)
    assert [sorted(row["sample_index"] for row in group) for group in groups] == [
        list(range(N))
    ] * len(PROMPTS)
    assert [sum(row["reward"] for row in group) for group in groups] == num_correct
    assert 0 < sum(num_correct) < N * len(PROMPTS)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_pass_at_k_is_that_of_the_stored_rollouts(
    assessed: Assessed, num_correct: list[int], k: int
) -> None:
    expected = mean([1 - math.comb(N - c, k) / math.comb(N, k) for c in num_correct])

    assert assessed.value(f"pass_at_{k}") == pytest.approx(expected, abs=1e-9)


def test_group_signal_counts_the_mixed_groups_that_can_be_drawn(
    assessed: Assessed, num_correct: list[int]
) -> None:
    draws = math.comb(N, G)
    all_right = mean([math.comb(c, G) / draws for c in num_correct])
    all_wrong = mean([math.comb(N - c, G) / draws for c in num_correct])

    assert assessed.value("frac_all_correct") == pytest.approx(all_right, abs=1e-9)
    assert assessed.value("frac_all_wrong") == pytest.approx(all_wrong, abs=1e-9)
    signal = 1 - all_right - all_wrong
    assert assessed.value("group_signal_fraction") == pytest.approx(signal, abs=1e-9)
    assert assessed.value("frac_reward_zero_std") == pytest.approx(1 - signal, abs=1e-9)


def test_starved_share_is_the_posterior_below_the_critical_success_rate(
    assessed: Assessed, num_correct: list[int]
) -> None:
    product = 1 - math.sqrt(0.75)  # p(1 - p) where p**4 + (1 - p)**4 = 1/2
    critical = (1 - math.sqrt(1 - 4 * product)) / 2
    expected = mean([float(beta.cdf(critical, 0.5 + c, 0.5 + N - c)) for c in num_correct])

    assert assessed.value("starved_share") == pytest.approx(expected, abs=1e-9)


def test_entropies_and_lengths_are_those_of_the_stored_tokens(
    assessed: Assessed, groups: list[list[dict[str, Any]]]
) -> None:
    rows = [row for group in groups for row in group]
    num_tokens = sum(len(row["token_ids"]) for row in rows)
    per_prompt = [mean([mean(row["entropies"]) for row in group]) for group in groups]
    total = math.fsum(value for row in rows for value in row["entropies"])
    nll = -math.fsum(value for row in rows for value in row["logprobs"])
    truncated = [row for row in rows if row["finish_reason"] == "length"]

    assert assessed.value("token_entropy") == pytest.approx(mean(per_prompt), abs=1e-9)
    assert assessed.value("token_entropy_token_mean") == pytest.approx(total / num_tokens, abs=1e-9)
    assert assessed.value("sampled_nll") == pytest.approx(nll / num_tokens, abs=1e-9)
    assert assessed.value("completion_tokens") == pytest.approx(num_tokens / len(rows), abs=1e-9)
    assert assessed.value("truncated_share") == pytest.approx(len(truncated) / len(rows), abs=1e-9)
    assert all(len(row["token_ids"]) == 8 for row in truncated)
    assert 0 < len(truncated) < len(rows)


@pytest.mark.usefixtures("store")
def test_the_command_the_evaluator_and_rescore_say_what_python_says(
    assessed: Assessed, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")
    arguments = ["--prompts", str(prompts), "--verifier", assessed.digit, *QUICK_OPTIONS, "--json"]
    code, out, err = rlrisk("assess", str(assessed.checkpoint), *arguments, cwd=tmp_path)
    by_command = json.loads(out)
    config = {
        "model_uri": str(assessed.checkpoint),
        "verifier": assessed.digit,
        "progress": False,
        **quick().model_dump(mode="json"),
    }
    evaluated = mlflow.models.evaluate(
        model=None,
        data=pd.DataFrame(PROMPTS),
        model_type="rlrisk",
        evaluators="rlrisk",
        evaluator_config=config,
    )

    again = rescore(assessed.folder)

    expected = timeless(assessed.report)
    assert code == 11, err
    assert by_command["metrics"] == expected["metrics"]
    assert by_command["undefined"] == expected["undefined"]
    assert again.metrics == assessed.report.metrics
    assert again.reasons == assessed.report.reasons
    for name, metric in assessed.report.metrics.items():
        assert evaluated.metrics[name] == metric.value
        assert evaluated.metrics[f"{name}_ci_low"] == metric.ci_low
    assert not set(evaluated.metrics) & set(assessed.report.undefined)


def test_the_report_beside_the_rollouts_is_the_one_returned(assessed: Assessed) -> None:
    text = (assessed.folder / "report.json").read_text(encoding="utf-8")

    assert RiskReport.from_json(text) == assessed.report


def test_the_order_of_the_prompts_changes_no_metric(assessed: Assessed) -> None:
    other = assess(assessed.checkpoint, PROMPTS[::-1], verifier=assessed.digit, config=quick())

    assert other.metrics == assessed.report.metrics
    assert other.provenance.digests == assessed.report.provenance.digests


@pytest.mark.parametrize("batch_size", [1, 64])
def test_the_batch_size_changes_no_rollout(
    assessed: Assessed, groups: list[list[dict[str, Any]]], batch_size: int, tmp_path: Path
) -> None:
    config = quick(batch_size=batch_size)
    assess(
        assessed.checkpoint, PROMPTS, verifier=assessed.digit, config=config, out_dir=tmp_path / "o"
    )
    expected = {
        (row["prompt_id"], row["sample_index"]): row["token_ids"] for g in groups for row in g
    }

    found = {
        (row["prompt_id"], row["sample_index"]): row["token_ids"]
        for row in pq.read_table(tmp_path / "o" / "rollouts").to_pylist()
    }

    # A draw that lies on the border between two tokens may fall on either side of it.
    differing = [key for key in expected if found[key] != expected[key]]
    assert found.keys() == expected.keys()
    assert len(differing) <= 1


def test_settings_that_only_judge_leave_the_rollouts_in_use(
    assessed: Assessed, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: lab\nmin_prompts: 5\nmax_truncated_share: 1.0\n", encoding="utf-8")

    lenient = rescore(assessed.folder, policy=load_policy(policy))
    wider = rescore(assessed.folder, group_size=8)
    stricter = rescore(assessed.folder, success_threshold=1.5)
    regraded = rescore(assessed.folder, verifier=f"{assessed.graders}:one")

    assert lenient.metrics == assessed.report.metrics
    assert lenient.risk_level != "unknown"
    assert wider.metrics["rlrisk/pass_at_1"] == assessed.report.metrics["rlrisk/pass_at_1"]
    assert wider.metrics["rlrisk/group_signal_fraction"].value > assessed.value(
        "group_signal_fraction"
    )
    assert stricter.metrics["rlrisk/pass_at_1"].value == 0.0
    assert regraded.metrics["rlrisk/pass_at_1"].value == 1.0
    assert regraded.provenance.digests["verifier"] != assessed.report.provenance.digests["verifier"]


@pytest.mark.parametrize("form", ["folder", "dump.jsonl", "dump.parquet"])
def test_replayed_rollouts_give_the_metrics_of_the_assessment(
    assessed: Assessed, form: str, tmp_path: Path
) -> None:
    source = assessed.folder
    table = pq.read_table(assessed.folder / "rollouts")
    if form != "folder":
        source = tmp_path / form
    if form == "dump.jsonl":
        source.write_text("\n".join(map(json.dumps, table.to_pylist())), encoding="utf-8")
    elif form == "dump.parquet":
        pq.write_table(table, source)

    replayed = assess(source, PROMPTS, verifier=assessed.digit, config=quick(backend="replay"))

    assert replayed.metrics == assessed.report.metrics
    assert replayed.undefined == assessed.report.undefined


def test_a_replayed_folder_says_how_its_rollouts_were_sampled(assessed: Assessed) -> None:
    stated = quick(backend="replay", num_samples=4, temperature=0.5, max_new_tokens=99)

    replayed = assess(assessed.folder, PROMPTS, verifier=assessed.digit, config=stated)

    assert replayed.config.sampling == assessed.report.config.sampling
    assert replayed.metrics == assessed.report.metrics


@pytest.mark.parametrize(
    ("missing", "undefined"),
    [("entropies", "token_entropy"), ("logprobs", "sampled_nll")],
)
def test_what_a_dump_did_not_record_is_undefined(
    assessed: Assessed, missing: str, undefined: str, tmp_path: Path
) -> None:
    table = pq.read_table(assessed.folder / "rollouts").drop_columns([missing])
    pq.write_table(table, tmp_path / "dump.parquet")

    replayed = assess(
        tmp_path / "dump.parquet",
        PROMPTS,
        verifier=assessed.digit,
        config=quick(backend="replay"),
    )

    assert f"rlrisk/{undefined}" not in replayed.metrics
    assert "not recorded for 14 of 14 prompts" in replayed.undefined[f"rlrisk/{undefined}"]
    assert replayed.metrics["rlrisk/pass_at_1"] == assessed.report.metrics["rlrisk/pass_at_1"]
