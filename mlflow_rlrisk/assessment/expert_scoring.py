"""A checkpoint's `ExpertProfile`: one teacher-forced pass at temperature 1, kept beside rollouts.

What is kept is named by everything it depends on, so that any folder of an assessment may answer
for the same checkpoint and the same examples, whatever it sampled.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.content import json_digest
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.experts.examples import ExpertExample, ExpertSet
from mlflow_rlrisk.experts.profile import DISRUPTIVE, MASTERED, ExpertProfile, overfit_gap
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer, TokenScores
from mlflow_rlrisk.rollouts.evidence import keep_evidence
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.samplers.model_loading import load_model, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.stop_tokens import stop_ids, union

FOLDER = "expert"
SCHEMA_VERSION = 2
"""1 scored outer whitespace of responses that the chat template leaves out."""
_ARRAYS = ("examples", "tokens", "nll", "phi", "mastered", "disruptive")

logger = logging.getLogger(__name__)


def expert_profile(
    checkpoint: Checkpoint | None,
    experts: ExpertSet,
    config: AssessmentConfig,
    kept: Sequence[str | Path | None] = (),
) -> ExpertProfile:
    """Score the responses, unless one of the folders holds their scores already.

    Args:
        checkpoint: The checkpoint.
        experts: The examples.
        config: Chat template, device and dtype.
        kept: Folders of assessments, or folders of such folders.

    Raises:
        ConfigError: There is no checkpoint, only an endpoint or rollouts.
        CheckpointError: The checkpoint cannot be loaded, or its tokenizer loses parts of a text.
        SamplerError: An example is too long for the model, or has a token it can never give.
    """
    if checkpoint is None:
        need = "only a checkpoint with its files can be scored on expert data"
        raise ConfigError("expert_data", experts.sentence, need)
    found = kept_profile(checkpoint, experts, config, kept)
    if found is not None:
        return found
    return _score(checkpoint, experts, config, _identity(checkpoint, experts, config))


def kept_profile(
    checkpoint: Checkpoint,
    experts: ExpertSet,
    config: AssessmentConfig,
    kept: Sequence[str | Path | None],
) -> ExpertProfile | None:
    """What one of the folders holds of these responses; arguments as of `expert_profile`."""
    identity = _identity(checkpoint, experts, config)
    read = (_read(path, identity) for path in _places(kept, _file_name(identity)))
    return next((found for found in read if found is not None), None)


def keep_profile(
    folder: Path,
    profile: ExpertProfile,
    config: AssessmentConfig,
    train: ExpertProfile | None = None,
) -> None:
    """Keep sums and figures: for the next `expert_profile`, and for who judges the folder again."""
    for each in (profile, train):
        if each is not None:
            store_profile(folder, each)
    for name, evidence in _evidence(profile, config, train).items():
        keep_evidence(folder, name, evidence)


def store_profile(folder: Path, profile: ExpertProfile) -> None:
    """Keep the sums alone, where nothing was sampled."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    path = folder / FOLDER / _file_name(profile.identity)
    write_text_atomically(path, json.dumps(_plain(profile)) + "\n")


def with_profile(
    context: AssessmentContext | None,
    profile: ExpertProfile,
    config: AssessmentConfig,
    train: ExpertProfile | None = None,
) -> AssessmentContext:
    """The context with the figures of the held-out profile, and of the training examples'."""
    found: dict[str, Any] = dict(_evidence(profile, config, train))
    return replace(context or AssessmentContext(), **found)


def _evidence(
    profile: ExpertProfile, config: AssessmentConfig, train: ExpertProfile | None
) -> dict[str, Evidence]:
    settings: dict[str, Any] = {
        "num_resamples": config.num_resamples,
        "seed": config.sampling.seed,
        "confidence": config.confidence,
    }
    found = profile.evidence(**settings)
    if train is not None:
        found["train_loss"] = train.evidence(**settings)["heldout_loss"]
        found["overfit_gap"] = overfit_gap(profile, train, **settings)
    return found


def _identity(
    checkpoint: Checkpoint, experts: ExpertSet, config: AssessmentConfig
) -> dict[str, Any]:
    variables = config.sampling.chat_template_kwargs
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": checkpoint.digest,
        "tokenizer": checkpoint.tokenizer_digest,
        "template": checkpoint.template_digest,
        "chat_template": config.sampling.chat_template,
        **({"chat_template_kwargs": variables} if variables else {}),
        "dtype": config.dtype,
        "expert": experts.digest,
    }


def _file_name(identity: dict[str, Any]) -> str:
    return f"{json_digest(identity)[:16]}.json"


def _places(kept: Sequence[str | Path | None], name: str) -> list[Path]:
    found: list[Path] = []
    for folder in (Path(each) for each in kept if each is not None):
        found += [folder / FOLDER / name, *sorted(folder.glob(f"*/{FOLDER}/{name}"))]
    return [path for path in found if path.is_file()]


def _plain(profile: ExpertProfile) -> dict[str, Any]:
    raw = asdict(profile)
    return {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in raw.items()}


def _read(path: Path, identity: dict[str, Any]) -> ExpertProfile | None:
    """What was kept; damaged or foreign files are scored anew, which repairs them."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["identity"] != identity or set(raw) != {f.name for f in fields(ExpertProfile)}:
            raise ValueError("of another identity")
        arrays = {name: np.array(raw[name], dtype=float) for name in _ARRAYS}
        if len({a.shape for a in arrays.values()}) != 1 or arrays["tokens"].ndim != 1:
            raise ValueError("columns of different lengths")
        if not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("a value is not finite")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s is not used: %s", path, error)
        return None
    return ExpertProfile(**(raw | arrays))


def _score(
    checkpoint: Checkpoint,
    experts: ExpertSet,
    config: AssessmentConfig,
    identity: dict[str, Any],
) -> ExpertProfile:
    model = load_model(checkpoint, config)
    tokenizer = load_tokenizer(checkpoint, model.get_input_embeddings().weight.shape[0])
    stops = stop_ids(model.config, model.generation_config, tokenizer)
    encoder = PromptEncoder(
        checkpoint,
        tokenizer,
        sampling=config.sampling,
        stop_ids=union(stops),
    )
    variables = config.sampling.chat_template_kwargs
    pairs = [_encoded(each, encoder, tokenizer, variables) for each in experts.examples]
    _refuse_too_long(model, experts.examples, pairs)
    scores = TeacherForcedScorer(model).score(pairs, temperature=1.0)
    del model
    _free_memory()
    rows: dict[str, list[float]] = {}
    for example, found in zip(experts.examples, scores, strict=True):
        row = rows.setdefault(example.prompt.id, [0.0] * len(_ARRAYS))
        rows[example.prompt.id] = [a + b for a, b in zip(row, _sums(example, found), strict=True)]
    table = np.array([rows[key] for key in sorted(rows)])
    return ExpertProfile(
        identity=identity,
        source=experts.sentence,
        **{name: table[:, column] for column, name in enumerate(_ARRAYS)},
    )


def _encoded(
    example: ExpertExample, encoder: PromptEncoder, tokenizer: Any, variables: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Tokens of prompt and response, as SFT gets them: many chat templates trim the turns."""
    prompt, response = example.prompt, example.response
    found = encoder.encode_example(prompt, response)
    core = response.strip()
    if core == response or not encoder.is_templated(prompt):
        return found
    turns = prompt.turns
    begun, ended = (
        str(tokenizer.apply_chat_template(each, tokenize=False, **options, **variables))
        for each, options in (
            (turns, {"add_generation_prompt": True}),
            ([*turns, {"role": "assistant", "content": response}], {}),
        )
    )
    if not ended.startswith(begun) or core not in ended[len(begun) :]:
        return found
    before, _, after = ended[len(begun) :].partition(core)
    head, tail = response.split(core, 1)
    kept = f"{head if before.endswith(head) else ''}{core}{tail if after.startswith(tail) else ''}"
    return found if kept == response else encoder.encode_example(prompt, kept)


def _sums(example: ExpertExample, scores: TokenScores) -> tuple[float, ...]:
    logprobs = scores.logprobs.astype(np.float64)
    if not np.isfinite(logprobs).all():
        raise SamplerError(
            f"expert data, {example.place}: the response has a token that the model never gives"
        )
    p = np.exp(np.minimum(logprobs, 0.0))
    return (
        1.0,
        float(p.size),
        float(-logprobs.sum()),
        float((p * (1.0 - p)).sum()),
        float((p > MASTERED).sum()),
        float((p < DISRUPTIVE).sum()),
    )


def _refuse_too_long(
    model: Any, examples: Sequence[ExpertExample], pairs: Sequence[tuple[list[int], list[int]]]
) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for example, (prompt, response) in zip(examples, pairs, strict=True):
        if limit is not None and len(prompt) + len(response) > limit:
            raise SamplerError(
                f"expert data, {example.place}: {len(prompt) + len(response)} tokens and the model "
                f"has {limit} positions; leave the example out"
            )


def _free_memory() -> None:
    """An engine that starts afterwards in this process finds the GPU empty."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
