"""Expert data against a plain float64 forward pass, and what is stored, paired and said of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import t as student

from mlflow_rlrisk.assess import rescore
from mlflow_rlrisk.assessment import expert_scoring
from mlflow_rlrisk.assessment.expert_scoring import expert_profile
from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.commands.compare import compare
from mlflow_rlrisk.commands.drift import drift
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, ConfigError, SamplerError
from mlflow_rlrisk.experts.examples import load_expert
from tests.tiny_assessments import GRADERS
from tests.tiny_models import write_llama

PROMPTS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(3)]
EXPERT = [
    {"prompt": f"{a}+{b}=", "completion": f" {a + b}" + "0" * (a * b)}
    for a in range(5)
    for b in range(4)
]
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=4, max_new_tokens=6),
    group_size=4,
    num_resamples=200,
    verifier_workers=1,
    device="cpu",
)
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def naive_logprobs(folder: Path, prompt: str, response: str) -> np.ndarray:
    """Log-probabilities of the response and its stop token, one example a pass, in float64."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    start = tokenizer(prompt)["input_ids"]
    answer = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*start, *answer]])).logits[0]
    logs = torch.log_softmax(logits, dim=-1)
    places = torch.arange(len(start) - 1, len(start) + len(answer) - 1)
    return np.asarray(logs[places, torch.tensor(answer)].numpy())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expert")
    (folder / "graders.py").write_text(GRADERS)
    (folder / "expert.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXPERT))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    for seed, name in enumerate(("base", "sft", "rl")):
        write_llama(folder / name, seed=seed)
    return folder


def _assess(root: Path, model: str, out: Path, **settings: Any) -> Assessment:
    return run_assessment(
        root / model,
        PROMPTS,
        verifier=f"{root / 'graders.py'}:digit",
        config=CONFIG,
        out_dir=out,
        run_preflight=False,
        **settings,
    )


@pytest.fixture(scope="module")
def assessed(root: Path) -> Assessment:
    return _assess(root, "sft", root / "out", expert_data=root / "expert.jsonl")


def test_loss_and_token_profile_are_those_of_a_float64_forward_pass(
    root: Path, assessed: Assessment
) -> None:
    rows = [naive_logprobs(root / "sft", each["prompt"], each["completion"]) for each in EXPERT]
    logs = np.concatenate(rows)
    p = np.exp(logs)

    found = assessed.report.metrics

    expected = {
        "heldout_nll": -logs.mean(),
        "expert_phi": (p * (1 - p)).mean(),
        "expert_mastered_share": (p > 0.95).mean(),
        "expert_disruptive_share": (p < 0.05).mean(),
    }
    for name, value in expected.items():
        assert found[f"rlrisk/{name}"].value == pytest.approx(value, abs=2e-5), name
    own = found["rlrisk/completion_tokens"].value
    ratio = found["rlrisk/expert_length_ratio"]
    assert ratio.value == pytest.approx(own * len(EXPERT) / logs.size, rel=1e-9)
    assert ratio.ci_low < ratio.value < ratio.ci_high
    assert found["rlrisk/heldout_nll"].num_prompts == len(EXPERT)


def test_the_interval_of_the_loss_resamples_examples_and_not_tokens(
    root: Path, assessed: Assessment
) -> None:
    rows = [naive_logprobs(root / "sft", each["prompt"], each["completion"]) for each in EXPERT]
    sums, sizes = np.array([-r.sum() for r in rows]), np.array([r.size for r in rows])
    mean = sums.sum() / sizes.sum()
    # The delta method for a ratio of sums over independent examples.
    error = np.sqrt(((sums - mean * sizes) ** 2).sum()) / sizes.sum()

    loss = assessed.report.metrics["rlrisk/heldout_nll"]

    few = len(EXPERT) - 1
    by_student = student.ppf(0.975, few) * np.sqrt(len(EXPERT) / few)
    width = (loss.ci_high - loss.ci_low) / (2 * by_student * error)
    assert 0.75 < width < 1.3


def test_a_rerun_scores_nothing_again_and_a_rescore_keeps_the_figures(
    root: Path, assessed: Assessment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(expert_scoring, "_score", refuse)

    again = _assess(root, "sft", root / "out", expert_data=EXPERT)

    assert again.report.metrics == assessed.report.metrics
    assert rescore(root / "out").metrics["rlrisk/heldout_nll"] == pytest.approx(
        assessed.report.metrics["rlrisk/heldout_nll"]
    )


def test_other_examples_and_another_checkpoint_are_scored_anew(root: Path) -> None:
    experts, config = load_expert(EXPERT), CONFIG
    first = expert_profile(open_checkpoint(root / "sft"), experts, config, [root / "out"])
    other = expert_profile(open_checkpoint(root / "rl"), experts, config, [root / "out"])
    fewer = expert_profile(
        open_checkpoint(root / "sft"), load_expert(EXPERT[:-1]), config, [root / "out"]
    )

    assert other.loss != pytest.approx(first.loss, abs=1e-4)
    assert fewer.tokens.sum() < first.tokens.sum()


def test_damaged_scores_are_not_believed(root: Path, assessed: Assessment, tmp_path: Path) -> None:
    assert assessed.expert is not None
    folder = Path(shutil.copytree(root / "out", tmp_path / "out"))
    (path,) = (folder / "expert").glob("*.json")
    raw = json.loads(path.read_text())
    raw["nll"] = raw["nll"][:-1]
    path.write_text(json.dumps(raw))

    found = expert_profile(open_checkpoint(root / "sft"), load_expert(EXPERT), CONFIG, [folder])

    assert found.loss == pytest.approx(assessed.expert.loss, abs=1e-9)


def test_chats_are_scored_behind_their_template_and_end_with_its_stop_token(
    tmp_path: Path,
) -> None:
    model = write_llama(tmp_path / "chat", template=CHAT)
    turns = [("what is 1+1?", "it is 2"), ("and 2+2?", "4.")]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in turns
    ]

    found = expert_profile(open_checkpoint(model), load_expert(rows), CONFIG)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    network: Any = AutoModelForCausalLM.from_pretrained(model).double().eval()
    expected = 0.0
    for question, answer in turns:
        start = tokenizer(f"<user>{question}\n<assistant>", add_special_tokens=False)["input_ids"]
        rest = tokenizer(f"{answer}<eos>", add_special_tokens=False)["input_ids"]
        assert rest[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            logs = torch.log_softmax(network(torch.tensor([[*start, *rest]])).logits[0], dim=-1)
        expected -= sum(
            float(logs[len(start) - 1 + place, token]) for place, token in enumerate(rest)
        )
    assert found.nll.sum() == pytest.approx(expected, abs=1e-3)
    assert found.tokens.sum() == sum(len(answer) + 1 for _, answer in turns)


@pytest.mark.parametrize("trim", ["", "|trim"])
@pytest.mark.parametrize("system", ["", "be brief"])
def test_outer_whitespace_is_scored_where_the_chat_template_keeps_it(
    tmp_path: Path, trim: str, system: str
) -> None:
    # Llama 3's template trims every turn, Qwen 2.5's none: SFT teaches what the template writes.
    model = write_llama(
        tmp_path / "chat", template=CHAT.replace("m['content']", f"m['content']{trim}")
    )
    answers = ["it is 2", "4.", "no 3"]
    outer = [f"{head}{answer}\n" for head, answer in zip(["", " ", "\n\n"], answers, strict=True)]

    def profile(responses: list[str]) -> Any:
        start = [{"role": "system", "content": system}] if system else []
        rows = [
            {
                "messages": [
                    *start,
                    {"role": "user", "content": f"{place}?"},
                    {"role": "assistant", "content": response},
                ]
            }
            for place, response in enumerate(responses)
        ]
        return expert_profile(open_checkpoint(model), load_expert(rows), CONFIG)

    found, plain = profile(outer), profile(answers)

    taught = answers if trim else outer
    assert sorted(found.tokens) == sorted(len(each) + 1 for each in taught)
    assert (found.nll.tolist() == plain.nll.tolist()) == bool(trim)


def test_what_cannot_be_scored_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(root / "sft")
    long = [*EXPERT, {"prompt": "1", "completion": "1" * 5000}]
    strange = [*EXPERT, {"prompt": "1", "completion": "\N{SNOWMAN}"}]

    with pytest.raises(SamplerError, match=r"row 21: 500\d tokens"):
        expert_profile(checkpoint, load_expert(long), CONFIG)
    with pytest.raises(CheckpointError, match="does not know parts"):
        expert_profile(checkpoint, load_expert(strange), CONFIG)
    with pytest.raises(ConfigError, match="expert_data"):
        expert_profile(None, load_expert(EXPERT), CONFIG)


def _options(root: Path, out: Path) -> list[str]:
    settings = {
        "--prompts": root / "prompts.jsonl",
        "--verifier": f"{root / 'graders.py'}:digit",
        "--expert-data": root / "expert.jsonl",
        "--num-samples": 4,
        "--group-size": 4,
        "--max-new-tokens": 6,
        "--num-resamples": 200,
        "--device": "cpu",
        "--verifier-workers": 1,
        "--out": out,
    }
    flat = [str(part) for pair in settings.items() for part in pair]
    return [*flat, "--no-preflight", "--json"]


def test_compare_pairs_the_losses_and_the_rise_enters_the_index(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    models = [str(root / name) for name in ("sft", "rl")]
    args = [*models, "--base", str(root / "base"), *_options(root, out)]

    result = CliRunner().invoke(compare, args, standalone_mode=False)

    assert result.exception is None, result.output
    lineage = json.loads((out / "lineage.json").read_text())
    losses = {each["name"]: each for each in lineage["heldout"]}
    expected = {}
    for name in ("base", "sft", "rl"):
        rows = [naive_logprobs(root / name, e["prompt"], e["completion"]) for e in EXPERT]
        expected[str(root / name)] = -np.concatenate(rows).mean()
    least = min(expected, key=lambda name: expected[name])
    for name, loss in expected.items():
        assert losses[name]["loss"]["value"] == pytest.approx(loss, abs=2e-5)
        above = losses[name]["above_least"]
        assert above["value"] == pytest.approx(loss - expected[least], abs=4e-5)
        assert losses[name]["is_above"] == (above["ci_low"] > 0.0)
    assert losses[least]["above_least"]["ci_high"] == 0.0
    assert "Loss on held-out expert data" in (out / "lineage.html").read_text()
    for folder in out.glob("*-*"):
        report = json.loads((folder / "report.json").read_text())
        (part,) = (part for part in report["components"] if part["name"] == "gen_loss")
        name = report["provenance"]["model_reference"]
        rise = expected[name] / expected[least] - 1.0
        assert part["x"] == pytest.approx(rise, abs=1e-4)


def test_drift_says_the_paired_change_and_what_was_forgotten(root: Path, tmp_path: Path) -> None:
    means = {
        name: -np.concatenate(
            [naive_logprobs(root / name, e["prompt"], e["completion"]) for e in EXPERT]
        ).mean()
        for name in ("base", "sft", "rl")
    }
    base, rl, sft = sorted(means, key=lambda name: -means[name])  # SFT must have gained
    args = [str(root / sft), str(root / rl), "--base", str(root / base)]

    result = CliRunner().invoke(
        drift, [*args, *_options(root, tmp_path / "out")], standalone_mode=False
    )

    assert result.exception is None, result.output
    report = json.loads((tmp_path / "out" / "drift.json").read_text())
    change = report["heldout_nll"]
    assert change["value"] == pytest.approx(means[rl] - means[sft], abs=4e-5)
    assert change["ci_low"] <= change["value"] <= change["ci_high"]
    gained = means[base] - means[sft]
    if report["forget_ratio"] is None:
        assert any("do not resolve" in note for note in report["notes"])
    else:
        assert report["forget_ratio"] == pytest.approx((means[rl] - means[sft]) / gained, rel=1e-3)
        low, high = report["forget_ratio_ci"]
        assert low <= report["forget_ratio"] <= high


def test_a_base_without_expert_data_is_refused(root: Path, tmp_path: Path) -> None:
    options = _options(root, tmp_path / "out")
    at = options.index("--expert-data")
    args = [str(root / "sft"), str(root / "rl"), "--base", str(root / "base")]

    result = CliRunner().invoke(drift, [*args, *options[:at], *options[at + 2 :]])

    assert result.exit_code == 2
    assert "--expert-data" in result.output


def test_a_token_that_would_reach_over_the_border_is_not_used(tmp_path: Path) -> None:
    # ":" before "- 1" is one unknown word to this tokenizer; a rollout starts behind the prompt.
    import mlflow_rlrisk

    base = Path(mlflow_rlrisk.__file__).parent / "demo" / "base"
    rows = [{"prompt": f"from {n} to 2 :", "solution": f"- {n - 2} = 2"} for n in (5, 6)]

    found = expert_profile(open_checkpoint(base), load_expert(rows), CONFIG)

    expected = [naive_logprobs(base, row["prompt"], row["solution"]) for row in rows]
    assert found.tokens.sum() == sum(map(len, expected))
    assert found.nll.sum() == pytest.approx(-sum(each.sum() for each in expected), abs=1e-3)
