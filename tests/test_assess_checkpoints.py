"""Checkpoints that would be sampled into nonsense are refused by the main job, with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk import assess
from mlflow_rlrisk.errors import CheckpointError, ModelReferenceError
from tests.tiny_assessments import quick, sums, write_graders
from tests.tiny_models import write_llama


class Setup:
    def __init__(self, home: Path) -> None:
        self.checkpoint, self.graders = write_llama(home / "checkpoint"), write_graders(home)

    def assess(self, model: str | Path, prompts: object = None) -> None:
        """It must not get as far as a report."""
        rows = sums(3) if prompts is None else prompts
        report = assess(model, rows, verifier=f"{self.graders}:digit", config=quick())
        pytest.fail(f"assessed: {report.risk_level}, {report.metrics}")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("checkpoints"))


def rewrite(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        raw = json.loads((folder / name).read_text(encoding="utf-8"))
        change(raw)
        (folder / name).write_text(json.dumps(raw), encoding="utf-8")

    return spoil


def spoil_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def shrink_vocabulary(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite("config.json", lambda raw: raw.update(vocab_size=1))(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "not finite"),
        (remove_tokenizer, "no tokenizer in"),
        (shrink_vocabulary, "vocabulary has 1 token"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "config"),
        (rewrite("config.json", lambda raw: raw.update(auto_map={"AutoModel": "x.Y"})), "code"),
        (rewrite("config.json", lambda raw: raw.update(num_hidden_layers=3)), "missing"),
    ],
)
def test_a_checkpoint_that_would_sample_nonsense_is_refused(
    setup: Setup, spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(setup.checkpoint, spoiled)
    spoil(spoiled)

    with pytest.raises(CheckpointError, match=message):
        setup.assess(model=spoiled)


def make_qwen2(folder: Path) -> None:
    """transformers 5 gives this model type a pre-tokenizer of its own, whatever is stored."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "eos_token_id")
    config = Qwen2Config(**{name: stored[name] for name in names + heads})
    Qwen2ForCausalLM(config).save_pretrained(folder)


def test_a_tokenizer_that_was_replaced_on_loading_is_refused(setup: Setup, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(setup.checkpoint, spoiled)
    make_qwen2(spoiled)

    with pytest.raises(CheckpointError, match=r"Qwen2Tokenizer, which encodes prompt .* otherwise"):
        setup.assess(model=spoiled, prompts=[{"prompt": "two and 3 is", "answer": "5"}])


@pytest.mark.parametrize("model", ["nowhere", "models:/", "runs:/x", "https://a.b/c", ""])
def test_a_reference_that_names_no_checkpoint_is_refused(setup: Setup, model: str) -> None:
    with pytest.raises(ModelReferenceError):
        setup.assess(model=model)
