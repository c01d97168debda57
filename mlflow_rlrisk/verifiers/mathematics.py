"""The built-in verifier ``math``: symbolic equality, by math-verify.

math-verify ends what takes too long by an alarm signal, which works in a main thread only; a
verifier runs in the main thread of its worker. A truth that it cannot read is refused, because
its own default takes such a truth as met.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import MissingDependencyError, VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest, Verifier
from mlflow_rlrisk.verifiers.extraction import whole_number

TIMEOUT_S = 5
"""math-verify's own default, for reading a text and for one comparison."""


def math(options: str = "") -> Verifier:
    """The last expression of the completion equals the truth (math-verify; boxes come first).

    Raises:
        VerifierError: Any option; there is none.
        MissingDependencyError: math-verify is not installed.
    """
    if options:
        raise VerifierError(f"math:{options}: math has no options")
    if importlib.util.find_spec("math_verify") is None:
        raise MissingDependencyError("the verifier math", "math")
    _parsed("1")  # sympy takes seconds to import: not on the clock of the first grade
    return _Math()


@dataclass(frozen=True, slots=True)
class _Math:
    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        if truth is None:
            return "there is no truth to compare with"
        if isinstance(truth, bool) or not isinstance(truth, str | int | float):
            return f"truth of type {type(truth).__name__}, text or a number is needed"
        if whole_number(str(truth)) is not None or _truth(truth):
            return None
        return f"truth {truth!r} cannot be read by math-verify"

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        truth = _truth(request.truth)
        if not truth:
            raise VerifierError(f"truth {request.truth!r} cannot be read by math-verify")
        return [_judged(truth, completion) for completion in request.completions]


def _truth(truth: Any) -> list[Any]:
    text = str(int(truth)) if isinstance(truth, float) and truth.is_integer() else str(truth)
    return _parsed(text if "\\boxed" in text or "$" in text else f"\\boxed{{{text}}}")


def _judged(truth: list[Any], completion: str) -> Outcome:
    try:
        found = _parsed(completion)
        is_equal = bool(found) and _equal(truth, found)
    except _TookTooLongError as error:
        return Outcome(status="failed", reason=str(error))
    return Outcome(status="scored", reward=float(is_equal), answer=str(found[0]) if found else None)


class _TookTooLongError(VerifierError):
    """math-verify's alarm rang. Its own exception is no `Exception` and would end the worker."""


def _parsed(text: str) -> list[Any]:
    """What math-verify reads in a text: expressions and the text they stand in, or nothing."""
    from math_verify import parse
    from math_verify.errors import TimeoutException

    try:
        found: list[Any] = parse(text, parsing_timeout=TIMEOUT_S, raise_on_error=True)
    except TimeoutException as error:
        raise _TookTooLongError(f"math-verify did not read it within {TIMEOUT_S} s") from error
    except Exception:  # noqa: BLE001  (sympy raises anything on text that is no mathematics)
        return []
    return found


def _equal(truth: list[Any], found: list[Any]) -> bool:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    try:
        return bool(verify(truth, found, timeout_seconds=TIMEOUT_S, raise_on_error=True))
    except TimeoutException as error:
        raise _TookTooLongError(f"math-verify did not compare it within {TIMEOUT_S} s") from error
    except Exception:  # noqa: BLE001  (values of different kinds; the other readings may be equal)
        return bool(verify(truth, found, timeout_seconds=TIMEOUT_S))
