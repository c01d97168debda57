"""What was asked for, checked against what the operator configured, every default written out."""

import hashlib
import json
from typing import Any

from mlflow_rlrisk import ConfigError
from service.problems import FieldFault, Problem
from service.schemas import AssessmentRequest
from service.settings import DEFAULT_POLICY, ServiceSettings


def resolved(settings: ServiceSettings, asked: AssessmentRequest) -> dict[str, Any]:
    """The request with every default written out, so that a later change of them changes nothing.

    Raises:
        Problem: ``invalid-field``; a name is not configured, a value is beyond the limits, or the
            values do not fit.
    """
    _check_names(settings, asked)
    base, limits = settings.base_config(), settings.limits
    try:
        sampling = asked.sampling.onto(base.sampling)
    except ConfigError as error:
        raise _fault(f"/sampling/{error.field}", "unusable", error.need) from error
    group_size = asked.group_size or base.group_size
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
    # Only where it is asked for: what a trigger started is known by its request, word for word.
    return wanted if asked.lookahead is None else wanted | {"lookahead": asked.lookahead}


def body_digest(asked: AssessmentRequest) -> str:
    """What tells the bodies of one idempotency key apart."""
    given = asked.model_dump()
    if asked.lookahead is None:
        del given["lookahead"]  # keys live longer than a release that did not know it
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _check_names(settings: ServiceSettings, asked: AssessmentRequest) -> None:
    known = {
        "prompt_set": settings.prompt_sets.keys(),
        "verifier": settings.verifiers.keys(),
        "policy": settings.policies.keys() | {DEFAULT_POLICY},
        "lookahead": settings.lookaheads.keys(),
    }
    faults = [
        FieldFault(pointer=f"/{name}", code="unknown_name", message=f"known: {sorted(names)}")
        for name, names in known.items()
        if (given := getattr(asked, name)) is not None and given not in names
    ]
    if faults:
        raise Problem("invalid-field", errors=faults)


def _fault(pointer: str, code: str, message: str) -> Problem:
    return Problem(
        "invalid-field", errors=[FieldFault(pointer=pointer, code=code, message=message)]
    )
