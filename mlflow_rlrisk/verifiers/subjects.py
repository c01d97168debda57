"""What a spec may name beside a plain function, made callable.

Classes of ms-swift (``ORM``) and open-instruct (``VerifierFunction``) are constructed without
arguments and called; a ``Task`` of verifiers v1 is the weighted sum of its ``@reward`` methods; a
module of Hugging Face's evaluate is asked for its score. Classes are known by what they offer,
so none of these libraries is needed here.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.rewards import describe
from mlflow_rlrisk.verifiers.views import Fields


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be called.

    Attributes:
        function: The callable.
        label: The name it goes by in its framework (a verifier, a metric), if it has one.
    """

    function: Callable[..., Any]
    label: str | None = None


def make_callable(subject: object, name: str, owner: object = None) -> Subject:
    """Make what a spec names callable.

    Args:
        subject: What the spec names.
        name: For messages.
        owner: The class in whose body ``subject`` was found.

    Raises:
        VerifierError: It cannot be called, or its class cannot be constructed without arguments.
    """
    if inspect.isclass(owner) and inspect.isfunction(subject):
        if _takes(subject, "trace"):
            return Subject(_task_rewards(owner, {subject.__name__: 1.0}))
        static = isinstance(inspect.getattr_static(owner, subject.__name__, None), staticmethod)
        if not static:
            return Subject(getattr(_construct(owner, name), subject.__name__))
    if inspect.isclass(subject):
        weights = _reward_methods(subject)
        if weights:
            return Subject(_task_rewards(subject, weights))
        if not _is_called(subject):
            raise VerifierError(f"{name} is {describe(subject)}; a function is needed")
        subject = _construct(subject, name)
    if is_evaluate_module(type(subject)):
        return Subject(_compute(subject), getattr(subject, "name", None))
    function: Any = subject
    if not callable(function):
        raise VerifierError(f"{name} is {describe(subject)}; a function is needed")
    label = None if inspect.isroutine(function) else getattr(subject, "name", None)
    return Subject(function, label if isinstance(label, str) else None)


def is_evaluate_module(kind: type) -> bool:
    """True for classes that descend from evaluate's ``EvaluationModule``."""
    return any(base.__name__ == "EvaluationModule" for base in kind.__mro__)


def _is_called(kind: type) -> bool:
    """True where the objects of a user's class are callable or are evaluate modules."""
    has_call = any("__call__" in vars(base) for base in kind.__mro__)
    return kind.__module__ != "builtins" and (has_call or is_evaluate_module(kind))


def _construct(kind: type, name: str) -> object:
    if is_evaluate_module(kind):
        return kind(keep_in_memory=True)
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError) as error:
        raise VerifierError(f"{name} is {describe(kind)}; a function is needed") from error
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needs = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needs:
        raise VerifierError(
            f"{name} is a class that needs {', '.join(needs)} to be constructed; "
            "name an object of it, or a function"
        )
    found: object = kind()
    return found


def _takes(function: object, parameter: str) -> bool:
    return callable(function) and parameter in inspect.signature(function).parameters


def _reward_methods(kind: type) -> dict[str, float]:
    """Methods marked as rewards by verifiers v1, with their weights."""
    found = {}
    for name in dir(kind):
        method = inspect.getattr_static(kind, name, None)
        if inspect.isfunction(method) and getattr(method, "reward", None) is True:
            found[name] = float(getattr(method, "_vf_weight", getattr(method, "weight", 1.0)))
    return found


def _task_rewards(kind: type, weights: Mapping[str, float]) -> Callable[..., Any]:
    """The weighted sum of reward methods on a task that holds one row; 0 is a metric only."""

    async def rewards(trace: Any, task: Fields) -> float:
        instance: Any = object.__new__(kind)  # a real one needs the library's data class
        instance.data = task
        counted = {name: weight for name, weight in weights.items() if weight != 0.0}
        values = await asyncio.gather(
            *(_value(getattr(instance, name), trace, task) for name in counted)
        )
        return sum(w * v for w, v in zip(counted.values(), values, strict=True))

    return rewards


async def _value(method: Callable[..., Any], trace: Any, task: Fields) -> float:
    offered = {"trace": trace, "task": task}
    names = inspect.signature(method).parameters
    found = method(**{name: value for name, value in offered.items() if name in names})
    value = await found if inspect.isawaitable(found) else found
    return sum(map(float, value.values())) if isinstance(value, Mapping) else float(value)


def _compute(module: Any) -> Callable[..., Any]:
    """``compute`` of an evaluate module, with texts as its features want them."""
    features = module.features
    features = features[0] if isinstance(features, list) else features

    def compute(predictions: list[Any], references: list[Any]) -> Any:
        return module.compute(
            predictions=[_as_feature(each, features["predictions"]) for each in predictions],
            references=[_as_feature(each, features["references"]) for each in references],
        )

    return compute


def _as_feature(value: Any, feature: Any) -> Any:
    dtype = getattr(feature, "dtype", None)
    if dtype == "string":
        return value if isinstance(value, str) else str(value)
    inner = getattr(feature, "feature", None)
    if inner is not None and not isinstance(value, list | tuple):
        return [_as_feature(value, inner)]
    if isinstance(value, str) and isinstance(dtype, str) and dtype.startswith(("int", "uint")):
        return int(value)
    if isinstance(value, str) and isinstance(dtype, str) and dtype.startswith("float"):
        return float(value)
    return value
