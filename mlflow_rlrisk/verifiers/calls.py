"""How the reward functions of each dialect are called, and what they return is read.

Each call takes the callee and one prompt with its completions, and gives one value a completion
(a number, ``None`` for "not applicable", or a `NoReward`), or a sentence saying why there are
none. Nothing is caught here: what a reward function raises is its failure.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.verifiers import VerificationRequest
from mlflow_rlrisk.verifiers.dialects import VERIFIERS_GROUP, Signature
from mlflow_rlrisk.verifiers.rewards import Part, as_plain, describe, only, part_of
from mlflow_rlrisk.verifiers.views import (
    Fields,
    Parser,
    Trace,
    UnknownTokens,
    decoded,
    prompt_text,
    prompt_turns,
    reply,
    row,
)

TRUTH_NAMES = (
    "truth",
    "answer",
    "ground_truth",
    "solution",
    "label",
    "target",
    "reference",
    "gold",
)
"""Parameters that get the truth of the prompt where no column has their name."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
"""As reasoning-gym finds it."""

Values = Sequence[Any] | str


class Callee(Protocol):
    """What a call needs of the verifier."""

    @property
    def signature(self) -> Signature: ...  # noqa: D102  (described where it is implemented)

    @property
    def part(self) -> str | None: ...  # noqa: D102

    @property
    def reads_turns(self) -> bool: ...  # noqa: D102

    @property
    def parser(self) -> object | None: ...  # noqa: D102

    @property
    def name(self) -> str | None: ...  # noqa: D102

    def run(self, available: Mapping[str, Any]) -> Any:
        """Call by name with what the function accepts of ``available``."""
        ...

    def run_by_place(self, *arguments: Any) -> Any:
        """Call by place."""
        ...


class TrainerStateAtStart:
    """What TRL's ``trainer_state`` says before the first step; it knows nothing else."""

    global_step = 0
    epoch = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One dialect.

    Attributes:
        values: Calls the function for one prompt.
        given: Names that the dialect fills.
        truth_names: Names that need the truth of the prompt.
        gives_columns: Further names are columns of the prompt.
    """

    values: Callable[[Callee, VerificationRequest], Values]
    given: frozenset[str]
    truth_names: tuple[str, ...] = ()
    gives_columns: bool = False


def _trl(callee: Callee, request: VerificationRequest) -> Values:
    is_chat = not isinstance(request.prompt, str)
    texts = list(request.completions)
    available = _column_lists(callee, request)
    available["prompts"] = _copies(request.prompt, len(texts))
    available["completions"] = [[reply(text)] for text in texts] if is_chat else texts
    if request.token_ids is not None:
        available["completion_ids"] = [list(ids) for ids in request.token_ids]
    return _listed(callee.run(available), len(texts), _own_part(callee))


def _ms_swift(callee: Callee, request: VerificationRequest) -> Values:
    texts = list(request.completions)
    available = _column_lists(callee, request)
    turns = [[*prompt_turns(request), reply(text)] for text in texts]
    available["completions"] = texts
    available["messages"] = turns
    available["infer_requests"] = [Fields(messages=each) for each in turns]
    tokens = request.token_ids or [UnknownTokens() for _ in texts]
    available["response_token_ids"] = list(tokens)
    return _listed(callee.run(available), len(texts), _own_part(callee))


def _column_lists(callee: Callee, request: VerificationRequest) -> dict[str, Any]:
    """Every column as a list with one entry a completion, and what trainers pass beside them.

    Each entry is a row of its own, as a data loader reads it: a function that changes what it is
    given does not change what it is given for the next completion.
    """
    size = len(request.completions)
    left_out, signature = ("prompt", "completion", "completion_ids"), callee.signature
    available: dict[str, Any] = {
        name: _copies(value, size)
        for name, value in request.columns.items()
        if name not in left_out and (signature.accepts_any or name in signature.named)
    }
    for name in TRUTH_NAMES:
        for form in (name, f"{name}s"):
            if form in callee.signature.named:
                available.setdefault(form, _copies(request.truth, size))
    available["trainer_state"] = TrainerStateAtStart()
    available["log_extra"] = available["log_metric"] = _ignore
    return available


def _verl(callee: Callee, request: VerificationRequest) -> Values:
    source = request.columns.get("data_source") or ""
    info = decoded(request.columns.get("extra_info"))
    info = dict(info) if isinstance(info, Mapping) else {}
    part = Part(callee.part, usual="score")
    texts = list(request.completions)
    infos = [{"num_turns": None, "rollout_reward_scores": {}, **copy.deepcopy(info)} for _ in texts]
    truths = _copies(request.truth, len(texts))
    if "solution_strs" in callee.signature.named:
        batch = {
            "data_sources": [source] * len(texts),
            "solution_strs": texts,
            "ground_truths": truths,
            "extra_infos": infos,
        }
        return _listed(callee.run(batch), len(texts), part)
    rows = [
        {"data_source": source, "solution_str": text, "ground_truth": truth, "extra_info": extra}
        for text, truth, extra in zip(texts, truths, infos, strict=True)
    ]
    return [part_of(callee.run(each), part) for each in rows]


def _openrlhf(callee: Callee, request: VerificationRequest) -> Values:
    """One completion a call, as OpenRLHF's executor does."""
    prompt, part = prompt_text(request), Part(callee.part, usual="rewards")
    return [
        part_of(only(callee.run_by_place([prompt + text], [prompt], _copies(request.truth))), part)
        for text in request.completions
    ]


def _verifiers(callee: Callee, request: VerificationRequest) -> Values:
    states = [_state(callee, request, text) for text in request.completions]
    part = Part(callee.part)
    shared = {"parser": callee.parser or Parser()}
    if callee.signature.named.keys() & (VERIFIERS_GROUP | {"completions"}):
        plural = {
            f"{name}s": [state[name] for state in states]
            for name in ("prompt", "completion", "answer", "info", "task")
        }
        return _listed(callee.run({**plural, "states": states, **shared}), len(states), part)
    return [part_of(callee.run({**state, "state": state, **shared}), part) for state in states]


def _state(callee: Callee, request: VerificationRequest, text: str) -> dict[str, Any]:
    """What a Rubric passes by name; the columns of the row among it."""
    is_chat = not isinstance(request.prompt, str)
    (truth,) = _copies(request.truth)
    named = {n: truth for n in TRUTH_NAMES if n in callee.signature.named}
    return {
        **named,
        "info": {},
        "task": "default",
        "answer": "",
        **row(request, "answer"),
        "prompt": prompt_turns(request) if is_chat else request.prompt,
        "completion": [reply(text)] if callee.reads_turns else text,
        "turn": 1,
        "is_completed": True,
    }


def _verifiers_v1(callee: Callee, request: VerificationRequest) -> Values:
    values = []
    for text in request.completions:
        data = row(request, "answer")
        trace = Trace(request, text, data)
        found = callee.run({"trace": trace, "task": data, "self": Fields(data=data)})
        values.append(part_of(found, Part(callee.part, sums=True)))
    return values


def _reasoning_gym(callee: Callee, request: VerificationRequest) -> Values:
    return [
        part_of(
            callee.run_by_place(tagged_answer(text), dict(row(request, "answer"))),
            Part(callee.part),
        )
        for text in request.completions
    ]


def tagged_answer(completion: str) -> str:
    """What stands in the last closed ``<answer>`` tag; without one the whole completion."""
    found = _ANSWER.findall(completion)
    return found[-1].strip() if found else completion


def _open_instruct(callee: Callee, request: VerificationRequest) -> Values:
    values = []
    for index, text in enumerate(request.completions):
        (labels,) = _copies(_labels(callee, request))
        tokens = UnknownTokens() if request.token_ids is None else list(request.token_ids[index])
        shared = {"tokenized_prediction": tokens, "prediction": text, "rollout_state": None}
        scores = [
            part_of(
                callee.run({**shared, "label": label, "query": prompt_text(request)}),
                Part(callee.part, usual="score"),
            )
            for label in labels
        ]
        bad = [score for score in scores if not isinstance(score, bool | int | float)]
        values.append(bad[0] if bad else sum(scores))
    return values


def _labels(callee: Callee, request: VerificationRequest) -> list[Any]:
    """A row may hold several labels with the verifier of each; those of this verifier count."""
    if not isinstance(request.truth, list) or not request.truth:
        return [request.truth]
    names = request.columns.get("dataset")
    if callee.name is None or not isinstance(names, list) or len(names) != len(request.truth):
        return list(request.truth)
    own = [label for label, name in zip(request.truth, names, strict=True) if name == callee.name]
    return own or list(request.truth)


def _evaluate(callee: Callee, request: VerificationRequest) -> Values:
    """One completion a call: a metric gives one score for all that it is shown."""
    part = Part(callee.part, name=callee.name)
    return [
        part_of(callee.run({"predictions": [text], "references": [request.truth]}), part)
        for text in request.completions
    ]


def _plain(callee: Callee, request: VerificationRequest) -> Values:
    available = {**request.columns, "prompt": request.prompt}
    available.update((n, request.truth) for n in TRUTH_NAMES if n in callee.signature.named)
    rows = _copies(available, len(request.completions))
    return [
        part_of(callee.run({**own, "completion": text}), _own_part(callee))
        for text, own in zip(request.completions, rows, strict=True)
    ]


def _own_part(callee: Callee) -> Part:
    return Part(callee.part, sums=True)


def _listed(values: Any, size: int, part: Part) -> Values:
    values = as_plain(values)
    if isinstance(values, Iterator):  # TRL goes through what it gets; not without end
        values = list(islice(values, size + 1))
    if not isinstance(values, list | tuple):
        return f"returned {describe(values)}, a list of {counted(size, 'reward')} is needed"
    if len(values) != size:
        return f"returned {counted(len(values), 'reward')} for {counted(size, 'completion')}"
    return [part_of(value, part) for value in values]


def _copies(value: Any, size: int = 1) -> list[Any]:
    return [copy.deepcopy(value) for _ in range(size)]


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Stands for TRL's logging callbacks."""


_TRAINER = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_SWIFT = (*_TRAINER, "infer_requests", "messages", "response_token_ids")
_RUBRIC = ("prompt", "completion", "answer", "info", "state", "task", "parser")

CALLS: Mapping[str, Call] = {
    "trl": Call(_trl, frozenset(_TRAINER), TRUTH_NAMES, gives_columns=True),
    "ms-swift": Call(_ms_swift, frozenset(_SWIFT), TRUTH_NAMES, gives_columns=True),
    "verl": Call(
        _verl,
        frozenset(
            {"data_source", "solution_str", "extra_info"}
            | {"data_sources", "solution_strs", "extra_infos"}
        ),
        ("ground_truth", "ground_truths"),
    ),
    "openrlhf": Call(_openrlhf, frozenset({"queries", "prompts"}), ("labels",)),
    "verifiers": Call(
        _verifiers,
        frozenset({*_RUBRIC, *(f"{n}s" for n in _RUBRIC)}),
        TRUTH_NAMES,
        gives_columns=True,
    ),
    "verifiers-v1": Call(_verifiers_v1, frozenset({"self", "trace", "task"})),
    "reasoning-gym": Call(_reasoning_gym, frozenset({"answer", "entry"})),
    "open-instruct": Call(
        _open_instruct,
        frozenset({"tokenized_prediction", "prediction", "query", "rollout_state"}),
        ("label",),
    ),
    "evaluate": Call(_evaluate, frozenset({"predictions"}), ("references",)),
    "plain": Call(_plain, frozenset({"prompt", "completion"}), TRUTH_NAMES, gives_columns=True),
}
"""How each dialect of `dialects.DIALECTS` is called."""
