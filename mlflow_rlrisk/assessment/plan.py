"""What an assessment has understood, put together before anything is sampled."""

from collections.abc import Sequence

from mlflow_rlrisk.assessment.budget import Round
from mlflow_rlrisk.assessment.gathering import Batch
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.observer import Plan
from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers import Sampler
from mlflow_rlrisk.verifiers import PreflightResult, VerifierPool


def plan_of(
    inputs: AssessmentInputs,
    order: Sequence[Prompt],
    rounds: Sequence[Round],
    checkpoint: Checkpoint | None,
    sampler: Sampler,
    pool: VerifierPool,
    shown: PreflightResult,
    pending: list[Batch],
) -> Plan:
    """Say what was understood.

    Args:
        inputs: What the assessment is made of.
        order: Its prompts.
        rounds: Its rounds; one for a fixed budget.
        checkpoint: The checkpoint, where there are files of it.
        sampler: Loaded.
        pool: Open.
        shown: What the preflight showed.
        pending: What is not stored yet.
    """
    sampling, described = inputs.config.sampling, inputs.provenance.sampler
    lacking = [prompt for batch in pending for prompt in batch.prompts]
    rollouts = sum(
        len(batch.prompts) * len(batch.samples or range(sampling.num_samples)) for batch in pending
    )
    warnings = "".join(f"; warning: {warning}" for warning in shown.warnings)
    return Plan(
        model=inputs.provenance.model_reference,
        checkpoint=checkpoint.digest
        if checkpoint
        else str(described.get("model_identity", "none")),
        prompts=inputs.prompts.schema,
        verifier=pool.verifier.described,
        preflight=shown.detail + warnings,
        template=sampler.template(inputs.prompts.prompts),
        backend=", ".join(
            str(described[name])
            for name in ("backend", "device_name", "dtype", "architecture")
            if described.get(name)
        ),
        num_prompts=len(order),
        num_stored=len(order) - len(lacking),
        num_samples=sampling.num_samples,
        max_tokens=rollouts * sampling.max_new_tokens,
        estimated_s=sampler.estimate_s(lacking) if lacking else None,
        budget=_rounds_sentence(rounds) if inputs.config.budget == "auto" else "",
    )


def _rounds_sentence(rounds: Sequence[Round]) -> str:
    sizes = ", ".join(f"{each.num_prompts} x {each.num_samples}" for each in rounds)
    return f"auto: stops when the level is decided, after {sizes} (prompts x rollouts)"
