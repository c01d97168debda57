"""What was asked for, checked against what the operator configured, every default written out."""

import hashlib
import json
from typing import Any

from mlflow_rlrisk import AssessmentConfig, ConfigError, SamplingConfig
from service.problems import FieldFault, Problem
from service.schemas import AssessmentRequest
from service.settings import DEFAULT_POLICY, ServiceSettings

_RUNS = ("rl_config", "lookahead")
"""Fields of a request that name an RL run."""


def resolved(settings: ServiceSettings, asked: AssessmentRequest) -> dict[str, Any]:
    """The request with every default written out, so that a later change of them changes nothing.

    Raises:
        Problem: ``invalid-field``; a name is not configured, a value is beyond the limits, or the
            values do not fit.
    """
    _check_names(settings, asked)
    _check_updates(settings, asked)
    limits = settings.limits
    sampling, group_size = _drawn(settings, asked)
    for pointer, value, most in (
        ("/sampling/num_samples", sampling.num_samples, limits.max_num_samples),
        ("/sampling/max_new_tokens", sampling.max_new_tokens, limits.max_new_tokens),
        ("/group_size", group_size, limits.max_group_size),
    ):
        if value > most:
            raise _fault(pointer, "too_large", f"at most {most}")
    if sampling.num_samples < group_size:
        need = f"at least group_size={group_size} samples are needed to see a group"
        raise _fault("/sampling/num_samples", "too_small", need)
    wanted = {
        "model": asked.model,
        "prompt_set": asked.prompt_set,
        "verifier": asked.verifier,
        "policy": asked.policy,
        "sampling": sampling.model_dump(mode="json"),
        "group_size": group_size,
    }
    # Only where they are asked for: what a trigger started is known by its request, word for word.
    return wanted | {name: run for name in _RUNS if (run := getattr(asked, name)) is not None}


def _drawn(settings: ServiceSettings, asked: AssessmentRequest) -> tuple[SamplingConfig, int]:
    """How rollouts are drawn, and the size of groups.

    What the body says counts most, then the RL run that it names, then the operator's defaults.
    """
    base = settings.base_config()
    if asked.rl_config is None:
        try:
            return asked.sampling.onto(base.sampling), asked.group_size or base.group_size
        except ConfigError as error:
            raise _fault(f"/sampling/{error.field}", "unusable", error.need) from error
    given = asked.sampling.model_dump(exclude_none=True)
    if asked.group_size is not None:
        given["group_size"] = asked.group_size
    try:
        run = settings.rl_config(asked.rl_config)
        found = run.assessment_config(**(_defaults(base, set(run.sampling)) | given))
    except ConfigError as error:
        if error.field in given:
            raise _fault(f"/sampling/{error.field}", "unusable", error.need) from error
        raise _fault("/rl_config", "unusable", _of_a_run(error)) from error
    return found.sampling, found.group_size


def _defaults(base: AssessmentConfig, known: set[str]) -> dict[str, Any]:
    """What the operator set and an RL run leaves open."""
    own = {name: getattr(base.sampling, name) for name in base.sampling.model_fields_set}
    own |= {"group_size": base.group_size} if "group_size" in base.model_fields_set else {}
    return {name: value for name, value in own.items() if name not in known}


def body_digest(asked: AssessmentRequest) -> str:
    """What tells the bodies of one idempotency key apart."""
    given = asked.model_dump()
    for name in _RUNS:
        if given[name] is None:
            del given[name]  # keys live longer than a release that did not know it
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _check_names(settings: ServiceSettings, asked: AssessmentRequest) -> None:
    known = {
        "prompt_set": settings.prompt_sets.keys(),
        "verifier": settings.verifiers.keys(),
        "policy": settings.policies.keys() | {DEFAULT_POLICY},
        "rl_config": settings.rl_configs.keys(),
        "lookahead": settings.lookaheads.keys() | settings.rl_configs.keys(),
    }
    faults = [
        FieldFault(pointer=f"/{name}", code="unknown_name", message=f"known: {sorted(names)}")
        for name, names in known.items()
        if (given := getattr(asked, name)) is not None and given not in names
    ]
    if faults:
        raise Problem("invalid-field", errors=faults)


def _check_updates(settings: ServiceSettings, asked: AssessmentRequest) -> None:
    """An RL run may be known by how it samples alone."""
    try:
        settings.lookahead(asked.lookahead)
    except ConfigError as error:
        raise _fault("/lookahead", "unusable", _of_a_run(error)) from error


def _of_a_run(error: ConfigError) -> str:
    """What is needed, without the operator's file that the message names."""
    return f"{error.field} of this RL run is not known, or cannot be used"


def _fault(pointer: str, code: str, message: str) -> Problem:
    return Problem(
        "invalid-field", errors=[FieldFault(pointer=pointer, code=code, message=message)]
    )
