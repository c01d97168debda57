"""Drift between two real checkpoints, against logprobs recomputed in float64."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.drift.measurement import measure_drift
from mlflow_rlrisk.drift.weights import part_of, weight_drift
from mlflow_rlrisk.errors import CheckpointError, ComparabilityError
from mlflow_rlrisk.lineage.drift import DriftReport
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks.drift_page import drift_steps
from tests.tiny_assessments import GRADERS
from tests.tiny_models import close_prompts, write_llama, write_neox

PROMPTS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(6) for b in range(4)]
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=8, max_new_tokens=6, temperature=0.8),
    group_size=4,
    num_resamples=400,
)


def nudged(source: Path, target: Path, size: float) -> Path:
    """A copy whose feed-forward weights are scaled; everything else is equal to the bit."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for name in weights:
        if "mlp" in name:
            weights[name] = weights[name] * (1.0 + size)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "generation_config.json").write_text('{"temperature": 0.3, "a": NaN, "b": 1e999}')
    return target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Assessment], list[Path]]:
    root = tmp_path_factory.mktemp("drift")
    first = write_llama(root / "before")
    folders = [first, nudged(first, root / "after", 0.5)]
    return assessed(root, folders), folders


def assessed(root: Path, folders: list[Path]) -> list[Assessment]:
    grader = root / "graders.py"
    grader.write_text(GRADERS)
    return [
        run_assessment(
            folder,
            PROMPTS,
            verifier=f"{grader}:digit",
            config=CONFIG,
            out_dir=root / f"out-{folder.name}",
            run_preflight=False,
        )
        for folder in folders
    ]


@pytest.fixture(scope="module")
def report(pair: tuple[list[Assessment], list[Path]]) -> DriftReport:
    assessments, folders = pair
    checkpoints = (open_checkpoint(folders[0]), open_checkpoint(folders[1]))
    return measure_drift(*assessments, checkpoints, rollouts_per_prompt=3)


def logprobs(folder: Path, prompt: str, token_ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = AutoTokenizer.from_pretrained(folder)(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids + token_ids])).logits[0, len(ids) - 1 : -1]
    logs = torch.log_softmax(logits / CONFIG.sampling.temperature, dim=-1)
    return logs[torch.arange(len(token_ids)), torch.tensor(token_ids)].numpy()


def test_divergences_equal_a_recomputation_in_float64(
    pair: tuple[list[Assessment], list[Path]], report: DriftReport
) -> None:
    assessments, folders = pair
    assert report.reverse is not None
    assert report.forward is not None
    for own, found in ((0, report.forward), (1, report.reverse)):
        folder = assessments[own].folder
        assert folder is not None
        table = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
        texts = {row["id"]: row["content"] for row in table}
        from mlflow_rlrisk.assessment.inputs import AssessmentInputs

        prompts = AssessmentInputs.load(folder).prompts.prompts
        sums, k3, tokens, per_sequence = 0.0, 0.0, 0, []
        for group in RolloutStore(folder).groups(prompts):
            rows = []
            for rollout in group.rollouts[:3]:
                ids = rollout.token_ids.tolist()
                p, q = (
                    logprobs(folders[place], texts[group.prompt.id], ids)
                    for place in (own, 1 - own)
                )
                sums, tokens = sums + float((p - q).sum()), tokens + len(ids)
                k3 += float((np.exp(q - p) - 1 - (q - p)).sum())
                rows.append((p - q).sum())
            per_sequence.append(np.mean(rows))

        assert found.per_token.value == pytest.approx(sums / tokens, abs=1e-5)
        assert found.per_token_k3.value == pytest.approx(k3 / tokens, abs=1e-5)
        assert found.per_sequence.value == pytest.approx(np.mean(per_sequence), abs=1e-5)
        assert found.num_sequences == 3 * len(PROMPTS)
        assert found.per_token_k3.ci_low > 0.0


@pytest.mark.parametrize("reshaping", [{"min_p": 0.1}, {"repetition_penalty": 1.1}])
def test_rollouts_that_are_not_drawn_from_the_softmax_have_no_divergence(
    pair: tuple[list[Assessment], list[Path]], reshaping: dict[str, float]
) -> None:
    assessments, folders = pair
    drawn = []
    for each in assessments:
        sampling = each.report.config.sampling.model_copy(update=reshaping)
        config = each.report.config.model_copy(update={"sampling": sampling})
        drawn.append(replace(each, report=replace(each.report, config=config)))

    found = measure_drift(*drawn, (open_checkpoint(folders[0]), open_checkpoint(folders[1])))

    assert (found.forward, found.reverse) == (None, None)
    ((name, value),) = reshaping.items()
    assert any(f"no divergence: rollouts drawn with {name}={value}" in n for n in found.notes)


def test_prompts_that_the_tokenizer_closes_are_scored_as_they_were_sampled_from(
    pair: tuple[list[Assessment], list[Path]], report: DriftReport, tmp_path: Path
) -> None:
    _, folders = pair
    closed = [close_prompts(shutil.copytree(each, tmp_path / each.name)) for each in folders]
    checkpoints = (open_checkpoint(closed[0]), open_checkpoint(closed[1]))

    found = measure_drift(*assessed(tmp_path, closed), checkpoints, rollouts_per_prompt=3)

    for own, other in ((found.forward, report.forward), (found.reverse, report.reverse)):
        assert own is not None
        assert other is not None
        assert own.per_token.value == pytest.approx(other.per_token.value, abs=1e-9)


def test_the_reward_moved_no_further_than_the_divergence_allows(report: DriftReport) -> None:
    assert report.reward_bound is not None
    assert report.is_bound_kept
    assert report.reward_change.ci_low <= report.reward_change.value <= report.reward_change.ci_high


def test_weights_are_compared_part_by_part(report: DriftReport) -> None:
    weights = report.weights

    assert weights is not None
    assert weights.by_part["feed-forward"] == pytest.approx(0.5, rel=1e-6)
    assert {part for part, value in weights.by_part.items() if value == 0.0} == {
        "attention",
        "embeddings",
        "norms",
    } | ({"head"} if "head" in weights.by_part else set())
    assert 0.0 < weights.total < 0.5
    assert weights.num_unchanged < weights.num_tensors
    assert report.generation_config["temperature"][1] == 0.3
    assert [report.generation_config[name][1] for name in "ab"] == ["NaN", "1e999"]
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.is_tokenizer_equal


def test_constants_and_files_that_are_not_loaded_are_no_weights_that_moved(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    first = write_neox(tmp_path / "before")
    second = nudged(first, tmp_path / "after", 0.5)
    expected = weight_drift(open_checkpoint(first), open_checkpoint(second))
    for folder in (first, second):
        weights = load_file(folder / "model.safetensors")
        for layer in ("gpt_neox.layers.0.attention", "gpt_neox.layers.1.attention"):
            # As EleutherAI's Pythia has them: 1e18 of squares, of which nothing ever changes.
            weights[f"{layer}.masked_bias"] = torch.tensor(-1e9)
            weights[f"{layer}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
            weights[f"{layer}.rotary_emb.inv_freq"] = torch.ones(4)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"embed_out.weight": torch.zeros(2)}, second / "old.safetensors")

    found = weight_drift(open_checkpoint(first), open_checkpoint(second))

    assert expected.total > 0.1
    assert found == expected


def test_weights_that_are_not_finite_are_named_and_not_measured(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = write_llama(tmp_path / "before")
    second = Path(shutil.copytree(first, tmp_path / "after"))
    weights = load_file(second / "model.safetensors")
    weights["model.norm.weight"][0] = np.nan
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds numbers"):
        weight_drift(open_checkpoint(first), open_checkpoint(second))


def test_a_divergence_that_is_infinite_is_said_and_the_rest_is_told(
    pair: tuple[list[Assessment], list[Path]], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    (before, _), (first, _) = pair
    wide = Path(shutil.copytree(first, tmp_path / "wide"))
    model: Any = AutoModelForCausalLM.from_pretrained(first)
    num_words = model.lm_head.weight.shape[0]
    model.resize_token_embeddings(num_words + 40, mean_resizing=False)
    with torch.no_grad():  # words beyond the tokenizer, as likely as all others
        model.lm_head.weight[num_words:] = model.lm_head.weight[:40]
    model.save_pretrained(wide)
    (after,) = assessed(tmp_path, [wide])
    checkpoints = (open_checkpoint(first), open_checkpoint(wide))

    found = measure_drift(before, after, checkpoints)

    assert found.reverse is None
    (note,) = [each for each in found.notes if "infinite" in each]
    assert f"it has {num_words} words" in note
    assert found.forward is not None
    assert found.forward.per_token.ci_low > 0.0
    assert found.reward_bound is not None
    # The words that were added are in neither total: it must not read as that of all weights.
    assert found.weights is not None
    assert found.weights.total == 0.0
    assert set(found.weights.only_after) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert any("no change of the weights: 2 (first: lm_head" in each for each in found.notes)
    assert drift_steps(found)[0].label == "weights of both"


def test_a_checkpoint_does_not_drift_from_itself(
    pair: tuple[list[Assessment], list[Path]],
) -> None:
    assessments, folders = pair
    checkpoint = open_checkpoint(folders[0])

    twin = Assessment(
        report=assessments[0].report,
        statistics=assessments[0].statistics,
        folder=assessments[0].folder,
    )
    with pytest.raises(ComparabilityError, match="twice"):
        measure_drift(assessments[0], twin, (checkpoint, checkpoint))
    assert weight_drift(checkpoint, checkpoint).total == 0.0


def test_rollouts_that_were_not_kept_are_refused(
    pair: tuple[list[Assessment], list[Path]],
) -> None:
    (before, after), folders = pair
    gone = Assessment(report=after.report, statistics=after.statistics, folder=None)
    checkpoints = (open_checkpoint(folders[0]), open_checkpoint(folders[1]))

    with pytest.raises(ComparabilityError, match="not kept"):
        measure_drift(before, gone, checkpoints)


@pytest.mark.parametrize(
    ("rows", "grader", "need"),
    [
        (PROMPTS[:1], "digit", "1 prompt: at least 2 prompts are needed for an interval"),
        (PROMPTS, "never", "none of its rollouts has a reward to compare"),
    ],
)
def test_what_has_no_interval_or_no_reward_is_refused_before_any_rollout_is_scored(
    pair: tuple[list[Assessment], list[Path]],
    tmp_path: Path,
    rows: list[dict[str, str]],
    grader: str,
    need: str,
) -> None:
    # Of one prompt both divergences had intervals of no width.
    _, folders = pair
    (tmp_path / "g.py").write_text(GRADERS + "\ndef never(completion, truth):\n    return None\n")
    config = CONFIG.model_copy(update={"max_failed_share": 1.0})
    both = [
        run_assessment(
            folder,
            rows,
            verifier=f"{tmp_path}/g.py:{grader}",
            config=config,
            out_dir=tmp_path / folder.name,
            run_preflight=False,
        )
        for folder in folders
    ]
    checkpoints = (open_checkpoint(folders[0]), open_checkpoint(folders[1]))
    stages: list[str] = []

    with pytest.raises(ComparabilityError, match=need):
        measure_drift(both[0], both[1], checkpoints, on_stage=stages.append)

    assert stages == []


def test_the_command_reuses_stored_rollouts_and_prints_one_object(
    pair: tuple[list[Assessment], list[Path]], tmp_path: Path
) -> None:
    _, folders = pair
    data = tmp_path / "rl.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    (tmp_path / "g.py").write_text(GRADERS)
    command = [
        *[sys.executable, "-c", "from mlflow_rlrisk.cli import run; run()", "drift"],
        *[str(folders[0]), str(folders[1]), "--prompts", str(data), "--verifier", "g.py:digit"],
        *["--num-samples", "4", "--group-size", "2", "--max-new-tokens", "4", "--no-preflight"],
        *["--num-resamples", "200", "--json"],
    ]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "rlrisk-out" / "drift.json").read_text())
    (own,) = (tmp_path / "rlrisk-out").glob("drift.*.json")  # another pair's has another name
    assert found == json.loads(own.read_text())
    assert found["reverse"]["per_token"]["value"] > 0.0
    assert "rlrisk/token_entropy" in found["changes"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transformer.h.0.ln_1.weight", "norms"),
        ("lm_head.weight", "head"),
        ("gpt_neox.embed_in.weight", "embeddings"),
        ("model.layers.3.mlp.up_proj.weight", "feed-forward"),
        ("something.else", "other"),
    ],
)
def test_parts_of_the_network_are_told_by_name(name: str, part: str) -> None:
    assert part_of(name) == part
