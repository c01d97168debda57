"""Which framework a reward function was written for, seen from its signature.

The names of the parameters tell the frameworks apart, because each passes its arguments by name
(OpenRLHF and reasoning-gym also by place). A spec may name the dialect instead
(``verl:rewards.py:f``); the function must then be one that this framework could call.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal, get_args

from mlflow_rlrisk.errors import VerifierError

Dialect = Literal[
    "trl",
    "verl",
    "openrlhf",
    "verifiers",
    "verifiers-v1",
    "ms-swift",
    "reasoning-gym",
    "open-instruct",
    "evaluate",
    "plain",
]
DIALECTS: tuple[str, ...] = get_args(Dialect)

CALL_FORMS: Mapping[str, str] = {
    "trl": "f(prompts, completions, **columns)",
    "verl": "compute_score(data_source, solution_str, ground_truth, extra_info)",
    "openrlhf": "reward_func(queries, prompts, labels)",
    "verifiers": "f(completion, answer, ...), also prompt, info, state, task, parser",
    "verifiers-v1": "async f(self, trace) of a Task",
    "ms-swift": "__call__(completions, **columns) of an ORM",
    "reasoning-gym": "score_answer(answer, entry)",
    "open-instruct": "__call__(tokenized_prediction, prediction, label, query)",
    "evaluate": "compute(predictions, references)",
    "plain": "f(completion, truth)",
}
"""How each dialect is called, for messages."""

_KNOWN_BY: Mapping[str, tuple[frozenset[str], ...]] = {
    "verl": (
        frozenset({"solution_str", "ground_truth"}),
        frozenset({"solution_strs", "ground_truths"}),
    ),
    "openrlhf": (frozenset({"queries", "prompts", "labels"}),),
    "open-instruct": (frozenset({"prediction", "label"}),),
    "reasoning-gym": (frozenset({"answer", "entry"}),),
    "evaluate": (frozenset({"predictions", "references"}),),
    "verifiers-v1": (frozenset({"trace"}),),
    "ms-swift": (frozenset({"infer_requests"}),),
}
"""Parameters that only this dialect has; the first that fits wins."""

_MUST_HAVE: Mapping[str, tuple[str, ...]] = {
    "trl": ("completions",),
    "verl": ("solution_str", "solution_strs"),
    "verifiers": ("completion", "completions", "state", "states"),
    "verifiers-v1": ("trace",),
    "ms-swift": ("completions", "infer_requests"),
    "open-instruct": ("prediction",),
    "evaluate": ("predictions",),
    "plain": ("completion",),
}
"""One of these a function of the dialect must take, or the answer would never reach it."""
_BY_PLACE: Mapping[str, int] = {"openrlhf": 3, "reasoning-gym": 2}
"""Dialects whose arguments are passed by place, and how many."""

VERIFIERS_GROUP = frozenset({"answers", "states", "infos", "tasks"})
"""Plurals of a Rubric's group function; TRL's lists are named like the columns."""
_VERIFIERS_SINGLE = frozenset({"parser", "state", "info", "task"})


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a callable.

    Attributes:
        named: Parameters that can be passed by name.
        by_place: Number of arguments that may be passed by place.
        accepts_any: It has ``**kwargs``.
    """

    named: Mapping[str, inspect.Parameter]
    by_place: int
    accepts_any: bool

    @property
    def seen(self) -> str:
        """The parameters, for messages."""
        names = [*self.named, *(["**kwargs"] if self.accepts_any else [])]
        return ", ".join(names) or "none"


def read_signature(function: Callable[..., Any], name: str) -> Signature:
    """The signature of ``function``.

    Raises:
        VerifierError: It cannot be read, or has a parameter that cannot be passed by name.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise VerifierError(f"{name} has no signature that can be read: {error}") from error
    kinds = [parameter.kind for parameter in parameters.values()]
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {n: p for n, p in parameters.items() if p.kind not in variadic}
    by_place = sum(p.kind is not p.KEYWORD_ONLY for p in named.values())
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        by_place = max(_BY_PLACE.values())
    signature = Signature(named, by_place, inspect.Parameter.VAR_KEYWORD in kinds)
    for parameter in named.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise VerifierError(
                f"{name}: parameter {parameter.name!r} is positional-only; {_need()}"
            )
    return signature


def recognise(signature: Signature, function: Callable[..., Any], name: str) -> Dialect:
    """The dialect that the parameters tell.

    Raises:
        VerifierError: None of them; the parameters seen are named.
    """
    names = signature.named.keys()
    for dialect, sets in _KNOWN_BY.items():
        if any(known <= names for known in sets):
            return dialect  # type: ignore[return-value]
    if "completions" in names:
        if names & VERIFIERS_GROUP and not names & {"trainer_state", "log_extra"}:
            return "verifiers"
        return "ms-swift" if _is_swift_reward(function) else "trl"
    if "completion" in names:
        is_rubric = names & _VERIFIERS_SINGLE or reads_turns(function)
        return "verifiers" if is_rubric else "plain"
    raise VerifierError(
        f"{name}: signature not understood (parameters: {signature.seen}); {_need()}"
    )


def check_named(dialect: str, signature: Signature, name: str) -> None:
    """Refuse a function that the framework it is said to be for could not call.

    Raises:
        VerifierError: The parameters seen are named.
    """
    if dialect in _BY_PLACE:
        fits = signature.by_place >= _BY_PLACE[dialect]
    else:
        takes = _MUST_HAVE[dialect]
        fits = signature.accepts_any or any(each in signature.named for each in takes)
    if not fits:
        raise VerifierError(
            f"{name} is no reward function of {dialect}: parameters seen: {signature.seen}; "
            f"needed is {CALL_FORMS[dialect]}"
        )


def reads_turns(function: Callable[..., Any]) -> bool:
    """True when the function, or one of its module that it names, reads ``["content"]``.

    A Rubric function gets messages or text, as its environment decides; what it reads says
    which of the two it was written for.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return False
    names = getattr(inspect.unwrap(function), "__globals__", {})
    called = [names.get(each) for each in code.co_names]
    codes = [code, *(c for each in called if (c := getattr(each, "__code__", None)) is not None)]
    return any("content" in constant for each in codes for constant in _constants(each))


def _constants(code: CodeType) -> list[tuple[Any, ...]]:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    found = [tuple(each for each in code.co_consts if isinstance(each, str)), code.co_names]
    return found + [constant for each in inner for constant in _constants(each)]


def _is_swift_reward(function: Callable[..., Any]) -> bool:
    """True for a callable object that descends from ms-swift's base classes."""
    return any(base.__name__ in ("ORM", "AsyncORM") for base in type(function).__mro__)


def _need() -> str:
    return "needed is one of: " + "; ".join(f"{CALL_FORMS[each]} ({each})" for each in DIALECTS)
