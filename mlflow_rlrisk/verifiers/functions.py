"""A Python function as verifier, in the signature it has for the RL run.

Two signatures are understood:

* TRL's: ``f(prompts, completions, **columns)``, sync or async, for the whole group at once.
  Every column of the prompt set arrives as a list; completions are texts, or
  ``[{"role": "assistant", "content": text}]`` where the prompt is a chat. It returns one reward a
  completion, ``None`` where it does not apply.
* Plain: ``f(completion, truth)``, sync or async, called once a completion with texts. The truth
  may be named ``truth``, ``answer``, ``ground_truth``, ``solution``, ``label``, ``target`` or
  ``reference``; further parameters are ``prompt`` and the names of columns.

A parameter named like a truth that no column has gets the truth of the prompt. ``completion_ids``
gets the sampled tokens, ``trainer_state`` that of step 0 (the checkpoint is judged where RL
starts), ``log_extra`` and ``log_metric`` swallow what they are given. A function
``extract_answer(completion) -> str | None`` beside it in its module is asked for the canonical
answer of every completion.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest

TRUTH_NAMES = ("truth", "answer", "ground_truth", "solution", "label", "target", "reference")
"""Parameters that get the truth of the prompt where no column has their name."""

FOREIGN_DIALECTS: Mapping[str, frozenset[str]] = {
    "verl": frozenset({"solution_str", "ground_truth"}),
    "OpenRLHF": frozenset({"queries", "prompts", "labels"}),
    "open-instruct": frozenset({"prediction", "label"}),
    "reasoning-gym": frozenset({"answer", "entry"}),
    "evaluate": frozenset({"predictions", "references"}),
}
"""Parameters by which another framework's reward function is known."""

_TRL_RESERVED = frozenset(
    {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
)


class TrainerStateAtStart:
    """What TRL's ``trainer_state`` says before the first step; it knows nothing else."""

    global_step = 0
    epoch = 0.0


@dataclass(frozen=True, slots=True)
class FunctionVerifier:
    """Adapts a function to the `Verifier` protocol.

    Attributes:
        function: The user's function.
        dialect: How it is called.
        parameters: Its parameters by name.
        accepts_any: It has ``**kwargs``.
        extract_answer: Gives the canonical answer, or ``None`` where there is none.
        runner: Runs coroutines; one event loop for the life of the worker.
    """

    function: Callable[..., Any]
    dialect: Literal["trl", "plain"]
    parameters: Mapping[str, inspect.Parameter]
    accepts_any: bool
    extract_answer: Callable[[str], object] | None
    runner: asyncio.Runner

    @property
    def wants_token_ids(self) -> bool:
        """True when the function names ``completion_ids``."""
        return "completion_ids" in self.parameters

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        """Why the parameters cannot be filled from this prompt."""
        given = {"prompt", "completion"} if self.dialect == "plain" else _TRL_RESERVED
        for name, parameter in self.parameters.items():
            if parameter.default is not inspect.Parameter.empty or name in given | columns.keys():
                continue
            if name not in TRUTH_NAMES:
                return f"parameter {name!r} is no column; columns: {', '.join(columns)}"
            if truth is None:
                return f"parameter {name!r} is no column and the prompt has no truth"
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        """Call the function and read what it returns; what it raises passes through."""
        problem = self.problem_with(request.truth, request.columns)
        if problem is not None:
            raise VerifierError(problem)
        call = self._call_trl if self.dialect == "trl" else self._call_plain
        rewards = call(request)
        if isinstance(rewards, str):
            return [Outcome(status="failed", reason=rewards)] * len(request.completions)
        return [
            self._outcome(reward, completion)
            for reward, completion in zip(rewards, request.completions, strict=True)
        ]

    def _call_trl(self, request: VerificationRequest) -> list[Any] | str:
        """One value a completion, or why there are none."""
        size = len(request.completions)
        is_chat = not isinstance(request.prompt, str)
        wrapped: Sequence[Any] = request.completions
        if is_chat:
            wrapped = [[{"role": "assistant", "content": text}] for text in request.completions]
        available: dict[str, Any] = {
            name: [value] * size
            for name, value in request.columns.items()
            if name not in ("prompt", "completion", "completion_ids")
        }
        for name in TRUTH_NAMES:
            if name in self.parameters:
                available.setdefault(name, [request.truth] * size)
        available["trainer_state"] = TrainerStateAtStart()
        available["log_extra"] = available["log_metric"] = _ignore
        if request.token_ids is not None:
            available["completion_ids"] = [list(ids) for ids in request.token_ids]
        available["prompts"] = [request.prompt] * size
        available["completions"] = list(wrapped)
        values = _as_plain(self._run(self._accepted(available)))
        if not isinstance(values, list | tuple):
            return f"returned {_describe(values)}, a list of {size} rewards is needed"
        if len(values) != size:
            return f"returned {len(values)} rewards for {size} completions"
        return list(values)

    def _call_plain(self, request: VerificationRequest) -> list[Any]:
        available = {**request.columns, "prompt": request.prompt}
        available.update((n, request.truth) for n in TRUTH_NAMES if n in self.parameters)
        arguments = self._accepted(available)
        return [
            _as_plain(self._run({**arguments, "completion": completion}))
            for completion in request.completions
        ]

    def _accepted(self, available: Mapping[str, Any]) -> dict[str, Any]:
        if self.accepts_any:
            return dict(available)
        return {name: value for name, value in available.items() if name in self.parameters}

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        result = self.function(**arguments)
        return self.runner.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _outcome(self, value: Any, completion: str) -> Outcome:
        value = _as_plain(value)
        if value is None:
            return Outcome(status="not_applicable", reason="the verifier returned None")
        if not isinstance(value, bool | int | float):
            return Outcome(status="failed", reason=f"returned {_describe(value)}, no number")
        reward = float(value) if abs(value) < float("inf") else math.nan
        if not math.isfinite(reward):
            return Outcome(status="failed", reason=f"returned {value!r}, no finite number")
        answer = self.extract_answer(completion) if self.extract_answer is not None else None
        if answer is not None and not isinstance(answer, str):
            return Outcome(
                status="failed", reason=f"extract_answer returned {_describe(answer)}, no text"
            )
        return Outcome(status="scored", reward=reward, answer=answer)


def adapt(function: object, name: str, extract_answer: object = None) -> FunctionVerifier:
    """Recognise the signature of ``function``.

    Raises:
        VerifierError: Not callable, or of a signature that is not understood; the parameters
            seen are named.
    """
    if not callable(function) or inspect.isclass(function):
        raise VerifierError(f"{name} is {_describe(function)}; a function is needed")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise VerifierError(f"{name} has no signature that can be read: {error}") from error
    named = {n: p for n, p in signature.parameters.items() if p.kind not in _VARIADIC}
    return FunctionVerifier(
        function=function,
        dialect=_dialect(name, named),
        parameters=named,
        accepts_any=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
        extract_answer=extract_answer if callable(extract_answer) else None,
        runner=asyncio.Runner(),
    )


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _dialect(name: str, parameters: Mapping[str, inspect.Parameter]) -> Literal["trl", "plain"]:
    seen = ", ".join(parameters) or "none"
    need = "needed is f(prompts, completions, **columns) as in TRL, or f(completion, truth)"
    for parameter in parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise VerifierError(f"{name}: parameter {parameter.name!r} is positional-only; {need}")
    if "environments" in parameters and (
        parameters["environments"].default is inspect.Parameter.empty
    ):
        raise VerifierError(f"{name} needs the environments of a TRL run; there are none here")
    if "completions" in parameters:
        return "trl"
    for dialect, known_by in FOREIGN_DIALECTS.items():
        if known_by <= parameters.keys():
            raise VerifierError(
                f"{name} looks like a reward function of {dialect} (parameters: {seen}); {need}"
            )
    if "completion" in parameters:
        return "plain"
    raise VerifierError(f"{name}: signature not understood (parameters: {seen}); {need}")


def _as_plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as Python values."""
    if isinstance(value, list | tuple | str | bool | int | float) or value is None:
        return value
    for method in ("tolist", "item"):
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    return value


def _describe(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{type(value).__name__} {text}"


async def _awaited(result: Any) -> Any:
    return await result


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Stands for TRL's logging callbacks."""
