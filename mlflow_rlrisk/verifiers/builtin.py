"""The built-in verifiers: ``exact``, ``numeric``, ``regex`` and ``math``.

Each is a factory that takes the options behind the first ``:`` of the spec. Rewards are 0 and 1;
`Outcome.answer` is the canonical answer, so that answer diversity is counted over what was
answered and not over how it was worded.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest, Verifier
from mlflow_rlrisk.verifiers.extraction import Number, final_number, whole_number
from mlflow_rlrisk.verifiers.mathematics import math


def exact(options: str = "") -> Verifier:
    """The stripped completion equals the stripped truth; ``exact:casefold`` ignores case.

    Raises:
        VerifierError: Another option.
    """
    if options not in ("", "casefold"):
        raise VerifierError(f"exact:{options}: unknown option; known: casefold")
    return _Exact(casefold=options == "casefold")


def numeric(options: str = "") -> Verifier:
    """The final number of the completion equals the truth (`extraction.final_number`).

    A truth written as an integer is compared exactly, any other one within a relative 1e-6.

    Raises:
        VerifierError: Any option; there is none.
    """
    if options:
        raise VerifierError(f"numeric:{options}: numeric has no options")
    return _Numeric()


def regex(options: str = "") -> Verifier:
    """A pattern decides (Python's ``re``).

    * ``regex:PATTERN`` without a group: correct where `re.search` finds it in the completion.
    * ``regex:PATTERN`` with a group: the group of the last match is the answer (the group named
      ``answer``, else the first); correct where it equals the truth, both stripped.
    * ``regex`` alone: the truth is the pattern, and `re.fullmatch` of the stripped completion
      decides.

    Raises:
        VerifierError: The pattern does not compile.
    """
    if not options:
        return _RegexFromTruth()
    pattern = _compiled(options)
    return _RegexWithGroup(pattern) if pattern.groups else _RegexSearch(pattern)


@dataclass(frozen=True, slots=True)
class _Exact:
    casefold: bool

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        return _text_problem(truth)

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        truth = self._canonical(truth_text(request.truth))
        answers = [self._canonical(completion) for completion in request.completions]
        return [_scored(answer == truth, answer or None) for answer in answers]

    def _canonical(self, text: str) -> str:
        return text.strip().casefold() if self.casefold else text.strip()


@dataclass(frozen=True, slots=True)
class _Numeric:
    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        return None if truth_number(truth) else f"truth {_short(truth)} is not a number"

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        truth = truth_number(request.truth)
        if truth is None:
            raise VerifierError(f"truth {_short(request.truth)} is not a number")
        numbers = [final_number(completion) for completion in request.completions]
        return [
            _scored(False, None) if number is None else _scored(number.equals(truth), str(number))
            for number in numbers
        ]


@dataclass(frozen=True, slots=True)
class _RegexSearch:
    pattern: re.Pattern[str]

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        matches = [self.pattern.search(completion) for completion in request.completions]
        return [_scored(match is not None, match[0] if match else None) for match in matches]


@dataclass(frozen=True, slots=True)
class _RegexWithGroup:
    pattern: re.Pattern[str]

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        return _text_problem(truth)

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        truth = truth_text(request.truth).strip()
        answers = [self._answer(completion) for completion in request.completions]
        return [_scored(answer == truth, answer) for answer in answers]

    def _answer(self, completion: str) -> str | None:
        group = "answer" if "answer" in self.pattern.groupindex else 1
        answers = [match[group] for match in self.pattern.finditer(completion)]
        return answers[-1].strip() if answers and answers[-1] is not None else None


@dataclass(frozen=True, slots=True)
class _RegexFromTruth:
    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        if not isinstance(truth, str):
            return f"truth {_short(truth)} is no pattern"
        try:
            re.compile(truth)
        except re.error as error:
            return f"truth {_short(truth)} is no pattern: {error}"
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        pattern = _compiled(request.truth)
        answers = [completion.strip() for completion in request.completions]
        return [
            _scored(pattern.fullmatch(answer) is not None, answer or None) for answer in answers
        ]


def truth_text(truth: Any) -> str:
    """A truth as text: strings as they are, numbers as written, ``3.0`` as ``3``.

    Raises:
        VerifierError: Neither text nor number.
    """
    problem = _text_problem(truth)
    if problem is not None:
        raise VerifierError(problem)
    if isinstance(truth, float) and truth.is_integer():
        return str(int(truth))  # an integer column with a gap comes out of a frame as floats
    return str(truth)


def truth_number(truth: Any) -> Number | None:
    """A truth as number, ``None`` where it is none."""
    if isinstance(truth, bool) or not isinstance(truth, int | float | str):
        return None
    if isinstance(truth, int):
        return Number(Fraction(truth), is_integer=True)
    return whole_number(truth_text(truth))


def _text_problem(truth: Any) -> str | None:
    if truth is None:
        return "there is no truth to compare with"
    if isinstance(truth, bool) or not isinstance(truth, str | int | float):
        return f"truth {_short(truth)} is {type(truth).__name__}, text or a number is needed"
    return None


def _scored(is_correct: bool, answer: str | None) -> Outcome:
    return Outcome(status="scored", reward=1.0 if is_correct else 0.0, answer=answer)


FACTORIES: Mapping[str, Callable[[str], Verifier]] = {
    "exact": exact,
    "numeric": numeric,
    "regex": regex,
    "math": math,
}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise VerifierError(f"regex:{pattern}: not a pattern: {error}") from error


def _short(truth: Any) -> str:
    text = json.dumps(truth, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
