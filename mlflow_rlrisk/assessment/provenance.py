"""Where an assessment comes from, and the folder that its rollouts therefore belong in."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.content import json_digest
from mlflow_rlrisk.errors import ConfigError, RolloutStoreError
from mlflow_rlrisk.prompts import PromptSet, num_templated
from mlflow_rlrisk.report import Provenance
from mlflow_rlrisk.report_record import TEMPLATED
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers import Sampler
from mlflow_rlrisk.verifiers import VerifierPool

_LIBRARIES = ("mlflow", "numpy", "scipy", "torch", "transformers")


def provenance_of(
    model: str,
    checkpoint: Checkpoint | None,
    prompts: PromptSet,
    pool: VerifierPool,
    sampler: Sampler,
    config: AssessmentConfig,
    policy: PolicyConfig,
) -> Provenance:
    """Digests, versions and references of an assessment that is about to begin.

    Args:
        model: The reference as the user gave it.
        checkpoint: What it led to; ``None`` where rollouts are replayed, or the model is known by
            its name only.
        prompts: The prompt set.
        pool: Open, for what the verifier is.
        sampler: For what it says of itself.
        config: Settings of the assessment.
        policy: Lines that will be applied.
    """
    described = sampler.describe()
    identity = {
        "sampling": config.sampling.digest(),
        "backend": described["backend"],
        "dtype": described.get("dtype"),
        **described.get("identity", {}),
    }
    digests = {
        "prompts": prompts.digest,
        "verifier": pool.verifier.digest,
        "sampler": json_digest(identity),
        "policy": policy.digest(),
    }
    if checkpoint is None:
        stored = described.get("stored", {})
        # The rollouts are what the source says; the prompts are those that were asked for.
        digests |= {name: str(value) for name, value in stored.items() if name != "prompts"}
        return _with_versions(model, digests, prompts, pool, described)
    digests |= {"checkpoint": checkpoint.digest, "tokenizer": checkpoint.tokenizer_digest}
    if checkpoint.template_digest is not None:
        digests["template"] = checkpoint.template_digest
    described = {**described, TEMPLATED: num_templated(prompts, config.sampling.chat_template)}
    return replace(
        _with_versions(model, digests, prompts, pool, described),
        registered_name=checkpoint.registered_name,
        version=checkpoint.version,
        model_id=checkpoint.model_id,
        run_id=checkpoint.run_id,
    )


def _with_versions(
    model: str,
    digests: dict[str, str],
    prompts: PromptSet,
    pool: VerifierPool,
    described: Mapping[str, Any],
) -> Provenance:
    plain = (str, int, float, bool, type(None))
    return Provenance(
        model_reference=model,
        digests=digests,
        prompts=prompts.schema,
        verifier=pool.verifier.described,
        judge_tier=pool.verifier.judge_tier,
        sampler={
            name: value if isinstance(value, plain) else json.dumps(value, sort_keys=True)
            for name, value in described.items()
        },
        code_version=_version("mlflow-rlrisk") or "source",
        libraries=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that matter, of those that are installed."""
    return {name: found for name in _LIBRARIES if (found := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def assessment_folder(
    out_dir: str | Path | None, out_root: str | Path | None, model: str, provenance: Provenance
) -> Path | None:
    """``out_dir``, or a folder below ``out_root`` named by what its rollouts depend on.

    Raises:
        ConfigError: ``out_dir`` is blank.
    """
    if out_dir is not None:
        return _named(out_dir)
    if out_root is None:
        return None
    name = f"{_slug(model)}-{json_digest(store_identity(provenance))[:12]}"
    return Path(out_root).expanduser() / name


def folders_of(
    out_dir: str | Path | None, out_root: str | Path | None, model: str
) -> Sequence[Path]:
    """Folders that `assessment_folder` may have named for the model, whatever it depends on."""
    if out_dir is not None:
        return [_named(out_dir)]
    if out_root is None:
        return []
    return sorted(Path(out_root).expanduser().glob(f"{_slug(model)}-*"))


def _named(out_dir: str | Path) -> Path:
    if not str(out_dir).strip():  # it would be the folder one happens to be in
        raise ConfigError("out_dir", out_dir, "the path of a folder is needed")
    return Path(out_dir).expanduser()


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", model.removeprefix("models:/")).strip("-.")[-40:]


def refuse_other(store: RolloutStore, inputs: AssessmentInputs) -> None:
    """Refuse to be the store of these inputs where it is that of others; writes nothing.

    Raises:
        RolloutStoreError: It is; names what differs, and of the sampling the settings.
    """
    try:
        store.refuse_other(store_identity(inputs.provenance))
    except RolloutStoreError as error:
        raise RolloutStoreError(f"{error}{_changed_sampling(store.folder, inputs)}") from error


def _changed_sampling(folder: Path, inputs: AssessmentInputs) -> str:
    try:
        stored = AssessmentInputs.load(folder).config.sampling
    except RolloutStoreError:  # a digest is all that is known
        return ""
    wanted = inputs.config.sampling
    names = SamplingConfig.model_fields
    pairs = [(name, repr(getattr(stored, name)), repr(getattr(wanted, name))) for name in names]
    changes = [f"{name}={old} there and {new} here" for name, old, new in pairs if old != new]
    return f"; {', '.join(changes)}" if changes else ""


def store_identity(provenance: Provenance) -> dict[str, str]:
    """What rollouts depend on; verifier and policy only judge them."""
    names = ("checkpoint", "tokenizer", "template", "rollouts", "endpoint", "prompts", "sampler")
    return {name: provenance.digests[name] for name in names if name in provenance.digests}
