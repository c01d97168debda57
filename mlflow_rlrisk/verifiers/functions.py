"""A Python function as verifier, in the signature it has for the RL run.

The dialect is seen from the parameters (`dialects`) or named by the user; `calls` says what each
is given. Two of them are known by every trainer's users:

* TRL's ``f(prompts, completions, **columns)``, sync or async, for the whole group at once.
  Every column of the prompt set arrives as a list; completions are texts, or
  ``[{"role": "assistant", "content": text}]`` where the prompt is a chat. It returns one reward a
  completion, ``None`` where it does not apply.
* Plain: ``f(completion, truth)``, sync or async, called once a completion with texts.

A parameter named like a truth that no column has gets the truth of the prompt. A function
``extract_answer(completion) -> str | None`` beside it in its module is asked for the canonical
answer of every completion.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import Outcome, VerificationRequest
from mlflow_rlrisk.verifiers.calls import CALLS
from mlflow_rlrisk.verifiers.dialects import (
    Signature,
    check_named,
    read_signature,
    reads_turns,
    recognise,
)
from mlflow_rlrisk.verifiers.rewards import to_outcome
from mlflow_rlrisk.verifiers.subjects import make_callable


@dataclass(frozen=True, slots=True)
class FunctionVerifier:
    """Adapts a function to the `Verifier` protocol.

    Attributes:
        function: The user's function.
        dialect: How it is called.
        signature: Its parameters.
        extract_answer: Gives the canonical answer, or ``None`` where there is none.
        runner: Runs coroutines; one event loop for the life of the worker.
        part: Which part of a reward in several parts counts.
        reads_turns: A Rubric function that wants messages.
        parser: The object ``parser`` of its module.
        name: What its framework calls it.
    """

    function: Callable[..., Any]
    dialect: str
    signature: Signature
    extract_answer: Callable[[str], object] | None
    runner: asyncio.Runner
    part: str | None = None
    reads_turns: bool = False
    parser: object | None = None
    name: str | None = None

    @property
    def wants_token_ids(self) -> bool:
        """True when sampled tokens are among what the function is given."""
        names = ("completion_ids", "response_token_ids", "tokenized_prediction")
        is_swift = self.dialect == "ms-swift" and self.signature.accepts_any
        return is_swift or any(name in self.signature.named for name in names)

    @property
    def grades_texts(self) -> bool:
        """False when the function cannot be called without sampled tokens."""
        return "completion_ids" not in self.signature.named

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        """Why the parameters cannot be filled from this prompt."""
        call = CALLS[self.dialect]
        if self.dialect in ("openrlhf", "reasoning-gym"):
            return None if truth is not None else "the prompt has no truth"
        known = call.given | columns.keys() if call.gives_columns else call.given
        for name, parameter in self.signature.named.items():
            if parameter.default is not inspect.Parameter.empty or name in known:
                continue
            if name.removesuffix("s") not in call.truth_names and name not in call.truth_names:
                if not call.gives_columns:
                    return f"parameter {name!r} is nothing that {self.dialect} passes"
                return f"parameter {name!r} is no column; columns: {', '.join(columns)}"
            if truth is None:
                return f"parameter {name!r} is no column and the prompt has no truth"
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        """Call the function and read what it returns; what it raises passes through."""
        problem = self.problem_with(request.truth, request.columns)
        if problem is not None:
            raise VerifierError(problem)
        values = CALLS[self.dialect].values(self, request)
        if isinstance(values, str):
            return [Outcome(status="failed", reason=values)] * len(request.completions)
        return [
            to_outcome(value, self._answer(completion))
            for value, completion in zip(values, request.completions, strict=True)
        ]

    def run(self, available: Mapping[str, Any]) -> Any:
        """Call by name with what the function accepts of ``available``."""
        if not self.signature.accepts_any:
            available = {n: v for n, v in available.items() if n in self.signature.named}
        elif "self" not in self.signature.named:
            available = {n: v for n, v in available.items() if n != "self"}
        return self._settled(self.function(**available))

    def run_by_place(self, *arguments: Any) -> Any:
        """Call by place."""
        return self._settled(self.function(*arguments))

    def _settled(self, result: Any) -> Any:
        return self.runner.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _answer(self, completion: str) -> object:
        return None if self.extract_answer is None else self.extract_answer(completion)


def adapt(
    subject: object,
    name: str,
    extract_answer: object = None,
    *,
    dialect: str | None = None,
    part: str | None = None,
    parser: object = None,
    owner: object = None,
) -> FunctionVerifier:
    """Make a verifier of a function, or of something that can be called like one.

    Args:
        subject: Function, callable object or class.
        name: For messages.
        extract_answer: Function for canonical answers; anything else is ignored.
        dialect: Overrides what the signature tells.
        part: Which part of a reward in several parts counts.
        parser: What a Rubric function gets as ``parser``; ``None`` takes the whole reply.
        owner: The class in whose body the function stands.

    Raises:
        VerifierError: Not callable, or of a signature that is not understood or is not that of
            the dialect; the parameters seen are named.
    """
    found = make_callable(subject, name, owner)
    signature = read_signature(found.function, name)
    environments = signature.named.get("environments")
    if environments is not None and environments.default is inspect.Parameter.empty:
        raise VerifierError(f"{name} needs the environments of a TRL run; there are none here")
    if dialect is None:
        dialect = recognise(signature, found.function, name)
        if dialect == "trl" and inspect.isclass(subject) and "prompts" not in signature.named:
            dialect = "ms-swift"  # it registers classes and passes no prompts; TRL takes objects
    else:
        check_named(dialect, signature, name)
    return FunctionVerifier(
        function=found.function,
        dialect=dialect,
        signature=signature,
        extract_answer=extract_answer if callable(extract_answer) else None,
        runner=asyncio.Runner(),
        part=part,
        reads_turns=reads_turns(found.function),
        parser=parser,
        name=found.label,
    )


async def _awaited(result: Any) -> Any:
    return await result
