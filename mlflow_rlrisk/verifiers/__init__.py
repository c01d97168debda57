"""Verifiers: the reward function of the RL run, called in worker processes.

A verification is plain data on both sides: a `VerificationRequest` (one prompt with the
completions of its group) goes in, one `Outcome` a completion comes out. A verifier that raises,
hangs, dies or returns something that is no reward gives an outcome with a reason, never a zero.

The built-in ones are ``exact``, ``numeric``, ``regex`` and ``math``
(`mlflow_rlrisk.verifiers.builtin`); ``code`` judges programs (`mlflow_rlrisk.verifiers.code`); a
Python function is named ``path/to/file.py:function`` or ``package.module:function``
(`mlflow_rlrisk.verifiers.functions`). A package offers more under the entry-point group
``mlflow_rlrisk.verifiers``: a factory that takes the text after the first ``:`` of the spec (or
``""``) and returns an object with the methods of `Verifier`.

Modules that run inside a worker import neither NumPy nor anything heavier, so that a worker costs
what the interpreter and the user's own imports cost; that is why names of the parent's side are
loaded on first use here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from mlflow_rlrisk.verifiers.gold import PreflightResult, preflight
    from mlflow_rlrisk.verifiers.loading import LoadedVerifier
    from mlflow_rlrisk.verifiers.pool import VerifierPool
    from mlflow_rlrisk.verifiers.process import load_verifier

_HOME = {
    "LoadedVerifier": "loading",
    "PreflightResult": "gold",
    "VerifierPool": "pool",
    "load_verifier": "process",
    "preflight": "gold",
}

__all__ = [  # noqa: RUF022  (in reading order)
    "Verifier",
    "VerificationRequest",
    "Outcome",
    "load_verifier",
    "LoadedVerifier",
    "VerifierPool",
    "preflight",
    "PreflightResult",
]

PROGRAM_NOTE = "program: "
"""How the note of a judged program begins; its grade follows."""
ATTACK_NOTE = "; attack: "
"""Follows in the note where a program attacked the judge or its sandbox."""

OutcomeStatus = Literal["scored", "failed", "not_applicable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRequest:
    """One prompt and completions of it.

    Attributes:
        prompt: The text, or the turns of a chat as ``{"role", "content"}``.
        completions: Texts, shape ``[G]``.
        truth: The reference answer, ``None`` where there is none.
        columns: The source row of the prompt.
        token_ids: Generated token ids per completion, only for verifiers that want them.
    """

    prompt: str | list[dict[str, str]]
    completions: Sequence[str]
    truth: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    token_ids: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a verifier says of one completion.

    Attributes:
        status: ``scored`` (a reward), ``failed`` (a reason), ``not_applicable`` (a reason).
        reward: Finite, or ``None`` where there is none.
        reason: Why there is no reward; beside a reward a note on it.
        answer: The canonical answer it found; ``None`` where it found or looks for none.
    """

    status: OutcomeStatus
    reward: float | None = None
    reason: str | None = None
    answer: str | None = None


class Verifier(Protocol):
    """What an entry-point factory returns; lives in one worker process, in its main thread."""

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        """Why a prompt with this truth cannot be judged, ``None`` where it can."""
        ...

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        """Judge the completions of one prompt: one outcome each, in their order."""
        ...


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mlflow_rlrisk.verifiers' has no attribute {name!r}")
    return getattr(import_module(f"mlflow_rlrisk.verifiers.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
