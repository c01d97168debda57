"""Answers of ``/completions`` and ``/chat/completions`` -> choices, checked field by field.

Both APIs tell the same in other shapes. A field that is absent is ``None``; one that is there and
cannot be what it says is an `AnswerError`, never a guess.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FinishReason
from mlflow_rlrisk.samplers.endpoint.client import AnswerError
from mlflow_rlrisk.samplers.endpoint.options import Api
from mlflow_rlrisk.samplers.stop_tokens import LARGEST_ID

HIGHEST_LOGPROB = 1e-2
"""Engines that compute in bfloat16 give logprobs a little above 0."""

ELSEWHERE = ("reasoning_content", "reasoning", "refusal", "tool_calls")
"""Where the text of a chat message may stand instead of its content."""

NAMED_ID = "token_id:"
"""vLLM's name of a token, before its id, where it was asked for ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTold:
    """What an answer says of one generated token.

    Attributes:
        key: Its name, the same wherever this token is meant.
        logprob: Its log probability, nats.
        top: The most likely tokens there, most likely first: (key, logprob).
    """

    key: Hashable
    logprob: float
    top: tuple[tuple[Hashable, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One completion as the endpoint tells it.

    Attributes:
        index: Its place among the ``n`` of the request.
        text: The completion.
        finish_reason: Why it ended.
        token_ids: Ids of its tokens, a stop token included; a vLLM extension.
        tokens: Its tokens with logprobs.
    """

    index: int
    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | None
    tokens: tuple[TokenTold, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The choices of one answer in the order of ``index``, and the tokens it was charged for."""

    choices: tuple[Choice, ...]
    completion_tokens: int | None


def read_answer(raw: Any, api: Api, num_wanted: int) -> Answer:
    """Check an answer.

    Args:
        raw: Parsed JSON.
        api: Which API answered.
        num_wanted: ``n`` of the request; fewer choices are accepted, none and more are not.

    Raises:
        AnswerError: Something is missing or cannot be.
    """
    if not isinstance(raw, dict):
        raise AnswerError(f"a JSON {type(raw).__name__} instead of an object")
    if raw.get("error"):
        raise AnswerError(f"an error: {str(raw['error'])[:200]}")
    found = raw.get("choices")
    if not isinstance(found, list) or not found:
        raise AnswerError("no choices")
    usage = raw.get("usage")
    charged = usage.get("completion_tokens") if isinstance(usage, dict) else None
    charged = charged if type(charged) is int and charged >= 0 else None
    alone = charged if len(found) == 1 else None
    if api == "completions":
        choices = [_completion(_object("choice", each)) for each in found]
    else:
        choices = [_chat(_object("choice", each), alone) for each in found]
    indices = [choice.index for choice in choices]
    if len(set(indices)) < len(indices) or not set(indices) <= set(range(num_wanted)):
        raise AnswerError(f"choices with the indices {indices[:8]} where n={num_wanted}")
    return Answer(
        choices=tuple(sorted(choices, key=lambda choice: choice.index)),
        completion_tokens=charged or None,
    )


def _completion(raw: Mapping[str, Any]) -> Choice:
    told = raw.get("logprobs")
    tokens = None
    if told:
        names = _list("tokens", _object("logprobs", told).get("tokens"))
        values = _list("token_logprobs", told.get("token_logprobs"))
        tops = _list("top_logprobs", told.get("top_logprobs") or [None] * len(names))
        if not len(names) == len(values) == len(tops):
            raise AnswerError(
                f"{counted(len(names), 'token')}, {len(values)} and {counted(len(tops), 'logprob')}"
            )
        tokens = tuple(
            TokenTold(
                key=_name(name),
                logprob=_logprob(value),
                top=_sorted(_object("top_logprobs", top or {}).items()),
            )
            for name, value, top in zip(names, values, tops, strict=True)
        )
    return _choice(raw, raw.get("text"), tokens)


def _chat(raw: Mapping[str, Any], charged: int | None) -> Choice:
    told = raw.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    tokens = None
    if content is not None:
        tokens = tuple(_chat_token(_object("token", each)) for each in _list("content", content))
    message = _object("message", raw.get("message"))
    text = message.get("content")
    choice = _choice(raw, "" if text is None else text, tokens)
    if text is None:
        counts = [len(each) for each in (tokens, choice.token_ids) if each is not None]
        _require_empty(message, counts if charged is None else [*counts, charged])
    return choice


def _require_empty(message: Mapping[str, Any], counts: Sequence[int]) -> None:
    """Null content is an empty answer only where no more than its stop token is told."""
    others = [name for name in ELSEWHERE if message.get(name)]
    if others or not counts or max(counts) > 1:
        length = counted(max(counts), "token") if counts else "a length that is not told"
        raise AnswerError(
            f"content is null in an answer of {length}, beside it stands "
            f"{', '.join(others) or 'nothing'}: the whole text must be the content"
        )


def _chat_token(raw: Mapping[str, Any]) -> TokenTold:
    told = _list("top_logprobs", raw.get("top_logprobs") or [])
    top = [_object("token", each) for each in told]
    return TokenTold(
        key=_key(raw),
        logprob=_logprob(raw.get("logprob")),
        top=_sorted((_key(each), each.get("logprob")) for each in top),
    )


def _key(raw: Mapping[str, Any]) -> Hashable:
    """The token with its bytes: several tokens are shown as the same replacement character."""
    found = raw.get("bytes")
    name = _name(raw.get("token"))
    if name.startswith(NAMED_ID):  # vLLM's bytes are the name's or the token's
        return name
    return name, None if found is None else tuple(map(str, _list("bytes", found)))


def _choice(raw: Mapping[str, Any], text: Any, tokens: tuple[TokenTold, ...] | None) -> Choice:
    if not isinstance(text, str):
        raise AnswerError("a choice without text")
    reason = raw.get("finish_reason")
    if reason not in ("stop", "length"):
        raise AnswerError(f"finish_reason={reason!r} ends no completion: stop or length does")
    index = raw.get("index", 0)
    if type(index) is not int:
        raise AnswerError(f"index={index!r}")
    ids = raw.get("token_ids")
    if ids is not None:
        _check_ids(ids, tokens)
    return Choice(
        index=index,
        text=text,
        finish_reason=FinishReason(reason),
        token_ids=None if ids is None else tuple(ids),
        tokens=tokens or None,
    )


def _check_ids(ids: Any, tokens: tuple[TokenTold, ...] | None) -> None:
    if not (
        isinstance(ids, list)
        and ids
        and all(type(each) is int and 0 <= each <= LARGEST_ID for each in ids)
    ):
        raise AnswerError(f"token_ids that are no ids, 0 to {LARGEST_ID}")
    if tokens is None:
        return
    if len(ids) != len(tokens):
        raise AnswerError(f"{counted(len(ids), 'token id')} and {counted(len(tokens), 'logprob')}")
    for each, token in zip(ids, tokens, strict=True):
        is_named = isinstance(token.key, str) and token.key.startswith(NAMED_ID)
        if is_named and token.key != f"{NAMED_ID}{each}":
            raise AnswerError(f"token id {each} where the logprobs are those of {token.key}")


def _sorted(pairs: Any) -> tuple[tuple[Hashable, float], ...]:
    found = [(key, _logprob(value)) for key, value in pairs]
    return tuple(sorted(found, key=lambda pair: -pair[1]))


def _logprob(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value > HIGHEST_LOGPROB:
        raise AnswerError(f"a logprob of {value!r}")
    return float(value)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise AnswerError(f"a token named {value!r}")
    return value


def _object(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AnswerError(f"{what} is {type(value).__name__}, an object is needed")
    return value


def _list(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise AnswerError(f"{what} is {type(value).__name__}, a list is needed")
    return value
