"""Sampler beside trainer: known perturbations in closed form, and real checkpoints."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mlflow_rlrisk.assess import assess, rescore
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.rescored import open_rollouts, rescore_mismatch
from mlflow_rlrisk.commands.assessment import assess as assess_command
from mlflow_rlrisk.commands.mismatch import mismatch
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import ComparabilityError, ConfigError, RolloutStoreError, StatisticsError
from mlflow_rlrisk.mismatch_evidence import require_same_weights, require_scorable
from mlflow_rlrisk.records import RolloutGroup
from mlflow_rlrisk.rollouts.evidence import EVIDENCE
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.train_inference_mismatch import MismatchReport
from tests.tiny_models import close_prompts, write_llama

PROMPTS = [{"prompt": text, "answer": "1"} for text in ("12+3=", "what is 12?", "a", "a = b", "1")]


def _assessed(folder: Path, model: Path, **settings: Any) -> Path:
    sampling = SamplingConfig(num_samples=4, max_new_tokens=12, **settings.pop("sampling", {}))
    config = AssessmentConfig(
        group_size=2,
        sampling=sampling,
        num_resamples=200,
        device="cpu",
        verifier_workers=1,
        **settings,
    )
    assess(model, PROMPTS, verifier="numeric", config=config, out_dir=folder, run_preflight=False)
    return folder


def _rewrite(folder: Path, change: Any) -> None:
    """Replace the stored rollouts by changed ones."""
    store = RolloutStore(folder)
    groups = list(store.groups(AssessmentInputs.load(folder).prompts.prompts))
    for path in (folder / "rollouts").glob("*.parquet"):
        path.unlink()
    RolloutStore(folder).append(
        [
            RolloutGroup(
                prompt=group.prompt, rollouts=tuple(change(each) for each in group.rollouts)
            )
            for group in groups
        ]
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def assessed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return _assessed(tmp_path_factory.mktemp("out") / "out", model)


@pytest.fixture
def folder(tmp_path: Path, assessed: Path) -> Path:
    return Path(shutil.copytree(assessed, tmp_path / "out"))


def _measure(folder: Path, **settings: Any) -> MismatchReport:
    return rescore_mismatch(folder, None, **{"device": "cpu", "num_resamples": 200, **settings})


def test_a_sampler_that_is_the_trainer_has_no_mismatch(folder: Path) -> None:
    report = _measure(folder)

    assert report.num_prompts == 5
    assert report.num_rollouts == 20
    assert report.estimates["k3_kl"].value < 1e-9
    assert report.values["max_abs"] < 2e-5
    assert report.entropy_max_abs is not None
    assert report.entropy_max_abs < 2e-5


def test_the_temperature_of_the_rollouts_is_that_of_the_comparison(
    tmp_path: Path, model: Path
) -> None:
    folder = _assessed(tmp_path / "out", model, sampling={"temperature": 0.7})

    assert _measure(folder).values["max_abs"] < 2e-5


def test_a_constant_shift_of_every_logprob_gives_the_closed_forms(folder: Path) -> None:
    shift = 0.25  # the sampler claims to be more certain by this
    _rewrite(folder, lambda each: replace(each, logprobs=np.minimum(each.logprobs - shift, 0.0)))

    report = _measure(folder)

    ratio = math.exp(shift)
    expected = {
        "kl": -shift,
        "k3_kl": ratio - shift - 1.0,
        "chi2_token": ratio**2 - 1.0,
        "chi2_seq_geometric": ratio**2 - 1.0,
        "log_ppl_diff": -shift,
        "log_ppl_abs_diff": shift,
        "ppl_ratio": 1.0 / ratio,
        "is_mean": ratio,
    }
    for name, value in expected.items():
        found = report.estimates[name]
        assert found.value == pytest.approx(value, abs=1e-4), name
        assert found.ci_low == pytest.approx(value, abs=1e-4), name
        assert found.ci_high == pytest.approx(value, abs=1e-4), name
    beyond = report.estimates["frac_beyond"]  # none of few prompts: no certainty
    assert (beyond.value, beyond.ci_low) == (0.0, 0.0)
    assert beyond.ci_high == pytest.approx(1.0 - 0.025 ** (1 / len(PROMPTS)))
    assert report.values["mean_abs"] == pytest.approx(shift, abs=1e-4)
    assert report.values["ess"] == pytest.approx(1.0, abs=1e-4)
    assert report.by_trainer_name()["rollout_corr/ppl_ratio"] == pytest.approx(1 / ratio, abs=1e-4)


def test_one_wrong_token_is_found_with_its_rollout(folder: Path) -> None:
    def spoil(rollout: Any) -> Any:
        if rollout.sample_index != 2 or rollout.prompt_id != chosen:
            return rollout
        logprobs = rollout.logprobs.copy()
        logprobs[1] -= 3.0
        return replace(rollout, logprobs=logprobs)

    stored = open_rollouts(folder, None).groups
    chosen = next(g.prompt.id for g in stored if len(g.rollouts[2].token_ids) > 1)
    _rewrite(folder, spoil)

    report = _measure(folder)

    token, sequence = report.tokens[0], report.sequences[0]
    assert (token.prompt_id, token.sample_index, token.position) == (chosen, 2, 1)
    assert token.trainer_logprob - token.sampler_logprob == pytest.approx(3.0, abs=1e-4)
    assert (sequence.prompt_id, sequence.sample_index) == (chosen, 2)
    assert sequence.log_ppl_diff * sequence.num_tokens == pytest.approx(-3.0, abs=1e-3)
    assert report.estimates["k3_kl"].ci_high > report.estimates["k3_kl"].value


def test_rollouts_of_a_bfloat16_engine_are_apart_from_a_float32_trainer(
    tmp_path: Path, model: Path
) -> None:
    folder = _assessed(tmp_path / "out", model, dtype="bfloat16")

    same = _measure(folder, dtype="bfloat16")
    other = _measure(folder, dtype="float32")

    assert 1e-6 < other.estimates["k3_kl"].value < 0.05
    assert other.values["max_abs"] > 1e-3
    assert other.trainer["dtype"] == "float32"
    assert other.sampler["dtype"] == "bfloat16"
    # Even in one dtype a cache and padding add in another order than one pass does.
    assert same.estimates["k3_kl"].value < other.estimates["k3_kl"].value


def test_the_command_keeps_the_figure_and_rescoring_counts_it(folder: Path) -> None:
    _rewrite(folder, lambda each: replace(each, logprobs=np.minimum(each.logprobs - 0.5, 0.0)))
    before = rescore(folder, run_preflight=False)

    done = CliRunner().invoke(mismatch, [str(folder), "--device", "cpu", "--json"])

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    k3 = math.exp(0.5) - 1.5
    assert found["rlrisk/mismatch_k3_kl"]["value"] == pytest.approx(k3, abs=1e-4)
    assert found["metrics"]["rollout_corr/k3_kl"] == pytest.approx(k3, abs=1e-4)
    assert found["sequences"]
    assert json.loads((folder / "mismatch.json").read_text()) == found
    after = rescore(folder, run_preflight=False)
    assert "mismatch" in before.not_assessed
    assert "rlrisk/mismatch_k3_kl" in before.undefined
    assert after.metrics["rlrisk/mismatch_k3_kl"].value == pytest.approx(k3, abs=1e-4)
    (component,) = [each for each in after.components if each.name == "mismatch"]
    assert component.q == pytest.approx(1.0)


def test_a_person_reads_a_table(folder: Path) -> None:
    done = CliRunner().invoke(mismatch, [str(folder), "--device", "cpu", "--outliers", "2"])

    assert done.exit_code == 0, done.output
    assert "rollout_corr/k3_kl" in done.stdout
    assert done.stdout.count("position") == 2


def test_a_dump_is_compared_with_the_model_that_is_named(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    rows = [
        {
            "prompt": group.prompt.text,
            "completion": rollout.completion,
            "finish_reason": str(rollout.finish_reason),
            "token_ids": rollout.token_ids.tolist(),
            "logprobs": rollout.logprobs.tolist(),
        }
        for group in open_rollouts(folder, None).groups
        for rollout in group.rollouts
        if rollout.logprobs is not None
    ]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    report = rescore_mismatch(dump, str(model), device="cpu", num_resamples=50)

    assert report.values["max_abs"] < 2e-5
    assert (report.num_prompts, report.num_rollouts) == (len(PROMPTS), len(rows))
    assert report.num_tokens == sum(len(row["token_ids"]) for row in rows)
    assert any("from which checkpoint" in note for note in report.notes)
    with pytest.raises(ConfigError, match="model"):
        rescore_mismatch(dump, None)
    one = [row for row in rows if row["prompt"] == rows[0]["prompt"]]
    dump.write_text("".join(json.dumps(row) + "\n" for row in one), encoding="utf-8")
    with pytest.raises(StatisticsError, match="1 prompt: at least 2"):
        rescore_mismatch(dump, str(model), device="cpu")


def test_intervals_of_a_dump_are_as_wide_as_those_of_the_assessment(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    noise = np.random.default_rng(0)

    def shifted(rollout: Any) -> Any:
        by = 0.3 * noise.random(len(rollout.token_ids))
        return replace(rollout, logprobs=np.minimum(rollout.logprobs - by, 0.0))

    _rewrite(folder, shifted)
    rows = [
        {
            "prompt": group.prompt.text,
            "completion": rollout.completion,
            "finish_reason": str(rollout.finish_reason),
            "token_ids": rollout.token_ids.tolist(),
            "logprobs": np.asarray(rollout.logprobs).tolist(),
        }
        for group in sorted(open_rollouts(folder, None).groups, key=lambda each: each.prompt.id)
        for rollout in group.rollouts
    ]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings: dict[str, Any] = {"device": "cpu", "num_resamples": 4000}

    kept = rescore_mismatch(folder, None, **settings).estimates["kl"]
    dumped = rescore_mismatch(dump, str(model), **settings).estimates["kl"]

    assert dumped.value == pytest.approx(kept.value, abs=1e-9)
    width = kept.ci_high - kept.ci_low
    assert dumped.ci_high - dumped.ci_low == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize(
    "setting", [{"num_resamples": 0}, {"confidence": 1.0}, {"confidence": math.nan}]
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(
    folder: Path, setting: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        _measure(folder.parent / "no such folder", **setting)


def test_what_would_not_be_the_mismatch_is_refused(
    tmp_path: Path, model: Path, folder: Path
) -> None:
    truncated = _assessed(tmp_path / "top", model, sampling={"top_p": 0.9})
    penalised = _assessed(tmp_path / "pen", model, sampling={"repetition_penalty": 1.2})
    other = write_llama(tmp_path / "other", seed=1)

    with pytest.raises(ComparabilityError, match="another checkpoint"):
        rescore_mismatch(folder, str(other), device="cpu")
    with pytest.raises(ComparabilityError, match="truncated"):
        rescore_mismatch(truncated, None, device="cpu")
    with pytest.raises(ComparabilityError, match=r"repetition_penalty=1\.2"):
        rescore_mismatch(penalised, None, device="cpu")
    with pytest.raises(ConfigError, match="temperature"):
        rescore_mismatch(folder, None, device="cpu", temperature=0.5)
    _rewrite(folder, lambda each: replace(each, logprobs=None))
    with pytest.raises(StatisticsError, match="not recorded"):
        rescore_mismatch(folder, None, device="cpu")


def test_another_quantization_is_refused_unless_asked_for_and_then_labelled(folder: Path) -> None:
    inputs = AssessmentInputs.load(folder)
    described = {**inputs.provenance.sampler, "identity": json.dumps({"quantization": "fp8"})}
    replace(inputs, provenance=replace(inputs.provenance, sampler=described)).save(folder)

    with pytest.raises(ComparabilityError, match="fp8"):
        _measure(folder)

    report = _measure(folder, across_quantization=True)
    assert any(note.startswith("across quantization") for note in report.notes)


@pytest.mark.parametrize(
    ("name", "require"),
    [("quantization", require_same_weights), ("lora_adapter", require_scorable)],
)
def test_settings_of_a_sampler_in_a_cluster_are_seen_before_anything_is_sampled(
    name: str, require: Callable[[str, AssessmentConfig], None], model: Path
) -> None:
    options = {"inner": "vllm", f"inner.{name}": "fp8"}
    config = AssessmentConfig(backend="ray", backend_options=options)

    with pytest.raises(ComparabilityError, match=r"fp8|adapter"):
        require(str(model), config)


def test_a_template_with_a_date_is_told(tmp_path: Path) -> None:
    clock = "{{ strftime_now('%f') }} {{ messages[0]['content'] }}="
    model = write_llama(tmp_path / "model", template=clock)
    folder = _assessed(tmp_path / "out", model, sampling={"chat_template": "always"})

    report = _measure(folder)

    assert report.values["max_abs"] > 0.1  # the clock went on
    assert any("inserts the date" in note for note in report.notes)


@pytest.mark.parametrize("stored", [False, True])
def test_quantized_weights_are_refused_before_anything_is_sampled(
    stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_llama(tmp_path / "model")
    options = ["--backend", "vllm", "--backend-option", "quantization=fp8"]
    if stored:
        options = []
        config = json.loads((model / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8"}
        (model / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    command = [str(model), "--prompts", "p.jsonl", "--verifier", "numeric", "--mismatch", *options]

    with pytest.raises(ComparabilityError, match="quantized by fp8 were sampled"):
        CliRunner().invoke(assess_command, command, standalone_mode=False, catch_exceptions=False)


def test_a_tokenizer_that_closes_prompts_is_no_mismatch(tmp_path: Path) -> None:
    folder = _assessed(tmp_path / "out", close_prompts(write_llama(tmp_path / "model")))

    report = _measure(folder)

    # The closing token would end the answer at once, so nothing is sampled behind it.
    assert report.values["max_abs"] < 2e-5
    assert report.estimates["k3_kl"].value < 1e-9


def test_evidence_that_cannot_be_read_is_no_absent_evidence(folder: Path) -> None:
    (folder / EVIDENCE).write_text("{}}")

    with pytest.raises(RolloutStoreError, match="damaged"):
        rescore(folder, run_preflight=False)


def test_one_command_assesses_compares_and_counts_the_mismatch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    options = ["--prompts", "p.jsonl", "--verifier", "numeric", "--no-preflight", "--out", "out"]
    sizes = ["--num-samples", "4", "--group-size", "2", "--max-new-tokens", "8", "--json"]
    command = [str(model), *options, *sizes, "--num-resamples", "200", "--verifier-workers", "1"]

    result = CliRunner().invoke(assess_command, [*command, "--mismatch"], standalone_mode=False)

    assert result.exception is None, result.output
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    found = json.loads((tmp_path / "out" / "mismatch.json").read_text())
    name = "rlrisk/mismatch_k3_kl"
    assert stored["metrics"][name]["value"] == found[name]["value"]
    assert "mismatch" in [part["name"] for part in stored["components"]]
    assert stored["provenance"]["command"]
    assert "rollout_corr/k3_kl" in result.stderr
    assert found["metrics"]["sampling/sampling_logp_difference/max"] < 1e-4
