"""The front door: assess a checkpoint, or judge stored rollouts again.

Importing it costs nothing, so that the package can offer both functions by name; the stages are
wired in ``assessment/wiring.py``, which is loaded at the first call.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_rlrisk.assessment.observer import Observer
    from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig
    from mlflow_rlrisk.evidence import AssessmentContext
    from mlflow_rlrisk.report_record import RiskReport

LOOKAHEAD = "look ahead"
"""The stage of an assessment that tries the first updates."""


def assess(
    model: str | Path,
    prompts: object,
    *,
    verifier: str | Callable[..., Any],
    config: "AssessmentConfig | None" = None,
    policy: "PolicyConfig | None" = None,
    mapping: Mapping[str, str] | None = None,
    context: "AssessmentContext | None" = None,
    expert_data: object = None,
    expert_train_data: object = None,
    lookahead: "LookaheadConfig | None" = None,
    out_dir: str | Path | None = None,
    run_preflight: bool = True,
    observer: "Observer | None" = None,
    command: str = "",
) -> "RiskReport":
    """Sample a checkpoint as the RL run would, grade it and say how risky it is to start there.

    Args:
        model: ``models:/name/version``, ``models:/name@alias``, ``models:/m-<id>``,
            ``runs:/<run_id>/path`` or a local folder; with the ``replay`` backend stored rollouts.
        prompts: The RL prompt set: what `load_prompts` takes, or a `PromptSet`.
        verifier: What `load_verifier` takes; best the reward function of the RL run itself.
        config: How to sample and what to compute.
        policy: Where the lines between the levels are drawn.
        mapping: Columns of ``prompt`` and ``truth`` where they are not recognised.
        context: Evidence beside the rollouts.
        expert_data: Held-out expert examples, what `load_expert` takes: the loss and the token
            profile of their responses enter the report.
        expert_train_data: Examples that SFT was trained on, in the same forms: the gap between
            both losses enters the report.
        lookahead: The RL run, whose first updates are tried on the rollouts: needs ``out_dir``, and
            16 bytes of memory a parameter.
        out_dir: Folder for rollouts and report; stored rollouts of the same inputs are reused.
        run_preflight: Show the verifier its own gold answers before anything is sampled.
        observer: Receives the progress.
        command: The command that repeats it, for the report.

    Raises:
        RLRiskError: Something cannot be used or failed; each says what is needed.
    """
    from mlflow_rlrisk.assessment.wiring import run_assessment

    if lookahead is not None:
        _refuse_lookahead(model, config, out_dir)
    assessment = run_assessment(
        model,
        prompts,
        verifier=verifier,
        config=config,
        policy=policy,
        mapping=mapping,
        context=context,
        expert_data=expert_data,
        expert_train_data=expert_train_data,
        lookahead=lookahead,
        out_dir=out_dir,
        run_preflight=run_preflight,
        observer=observer,
        command=command,
    )
    if lookahead is None:
        return assessment.report
    from mlflow_rlrisk.lookahead.stored_rollouts import with_lookahead

    if observer is not None:
        observer.stage(LOOKAHEAD)
    return with_lookahead(assessment, lookahead)[0].report


def _refuse_lookahead(
    model: str | Path, config: "AssessmentConfig | None", out_dir: str | Path | None
) -> None:
    """Before hours of sampling, what would be refused after them."""
    from mlflow_rlrisk.config import AssessmentConfig
    from mlflow_rlrisk.errors import ConfigError
    from mlflow_rlrisk.mismatch_evidence import require_scorable

    if out_dir is None:
        raise ConfigError("out_dir", None, "a folder is needed to try the first updates of a run")
    require_scorable(str(model), config or AssessmentConfig())


def rescore(
    folder: str | Path,
    *,
    verifier: str | Callable[..., Any] | None = None,
    group_size: int | None = None,
    success_threshold: float | None = None,
    policy: "PolicyConfig | None" = None,
    context: "AssessmentContext | None" = None,
    run_preflight: bool = True,
    command: str = "",
) -> "RiskReport":
    """Judge stored rollouts again, under another policy, group size or verifier; needs no model.

    The stored grades and the stored report are left as they are.

    Args:
        folder: Folder of an assessment.
        verifier: Grades the stored rollouts anew; ``None`` takes the stored grades.
        group_size: As assessed where ``None``; one above the number of rollouts leaves the
            group metrics undefined.
        success_threshold: As assessed where ``None``.
        policy: Where the lines are drawn.
        context: Evidence beside the rollouts.
        run_preflight: Show a new verifier its gold answers first.
        command: The command that repeats it, for the report.

    Raises:
        RolloutStoreError: Rollouts or grades are missing or damaged.
        RLRiskError: The verifier cannot be used.
    """
    from mlflow_rlrisk.assessment.wiring import rescore_stored

    return rescore_stored(
        folder,
        verifier=verifier,
        group_size=group_size,
        success_threshold=success_threshold,
        policy=policy,
        context=context,
        run_preflight=run_preflight,
        command=command,
    )
