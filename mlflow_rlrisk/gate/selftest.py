"""Tries every forbidden move against a scratch model of a live registry.

A gate that is not there, or not in the way of something, is found by walking through it. The
scratch models and the run are deleted afterwards, whatever happened.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.errors import ConfigError, PromotionRefusedError
from mlflow_rlrisk.gate.promotion_policy import Bar, PromotionRule, Target

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

_MARK = re.compile("rlrisk-selftest-[0-9a-f]{32}")
"""In the names of scratch models, and an alias that no policy protects by its name."""
_CHOICE = re.compile(r"\[([^]!])[^]]*\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move, what was expected and what happened.

    Attributes:
        name: What was tried.
        is_allowed: Whether the gate has to let it pass.
        passed: Whether it did what it has to.
        message: What the registry answered.
    """

    name: str
    is_allowed: bool
    passed: bool
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The move as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def selftest(client: "MlflowClient", bar: Bar) -> list[Move]:
    """Try every move; never touches a model that was there before.

    Raises:
        ConfigError: No rule is enforced on a pattern of names, so there is nothing to try.
    """
    rules = [rule for rule in bar.policy.rules if rule.mode == "enforce"]
    moves = [move for rule in rules for move in _moves_of(client, bar, rule)]
    if not moves:
        names = [rule.name for rule in bar.policy.rules]
        need = f"none is enforced on models named by a pattern with * in workspace '{_workspace()}'"
        raise ConfigError("rules", names, need)
    return moves


def _workspace() -> str:
    """Where the client makes its models."""
    from mlflow.utils.workspace_context import get_request_workspace
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    return str(get_request_workspace() or DEFAULT_WORKSPACE_NAME)


def _scratch_names(rule: PromotionRule, mark: str) -> Iterator[str]:
    """Names with ``mark`` in them that the rule speaks about, a copy's name with each."""
    for pattern in rule.models:
        plain = _CHOICE.sub(r"\1", pattern).replace("?", "x")  # [abc]: the first of them
        name = plain.replace("*", mark)
        if mark in name and all(rule.covers(each, _workspace()) for each in (name, _copy(name))):
            yield name


def _copy(name: str) -> str:
    """The name of a copy of a scratch model."""
    return _MARK.sub(r"\g<0>-copy", name)


def _moves_of(client: "MlflowClient", bar: Bar, rule: PromotionRule) -> list[Move]:
    mark = f"rlrisk-selftest-{uuid4().hex}"
    names = list(_scratch_names(rule, mark))
    if not names:
        return []  # a rule about models by their full names: those are not ours to touch
    open_names = [each for each in names if not _is_closed(bar, each)]
    name = (open_names or names)[0]
    with _scratch(client, name, mark) as source:
        run_id = source.split("/")[1]
        if not open_names:
            return [_refused("create a version", _creating(client, name, source, run_id, {}))]
        version = client.create_model_version(name, source, run_id).version
        moves = list(_alias_moves(client, rule, name, version))
        moves += _stage_moves(client, rule, name, version)
        moves += _tag_moves(client, name, version, source, run_id)
        moves += _copy_and_rename(client, bar, rule, name, version, mark)
        moves.append(
            _allowed(
                "set an unprotected alias",
                partial(client.set_registered_model_alias, name, mark, version),
            )
        )
        moves.append(
            _allowed(
                "delete an alias",
                partial(client.delete_registered_model_alias, name, mark),
            )
        )
    return moves


def _is_closed(bar: Bar, name: str) -> bool:
    """Whether a rule lets no version of this model come to be without proof."""
    rules = bar.policy.rules_for(name, _workspace(), Target("version"))
    return any(rule.mode == "enforce" for rule in rules)


def _alias_moves(
    client: "MlflowClient", rule: PromotionRule, name: str, version: str
) -> Iterator[Move]:
    for alias in rule.aliases:
        spellings = {
            "as it is": alias,
            "in capitals": alias.upper(),
            "with a line break": f"{alias}\n",
            "in full-width letters": "".join(
                chr(ord(each) + 0xFEE0) if each.isascii() and each.isalnum() else each
                for each in alias
            ),
            "with a Cyrillic letter": alias.replace("a", "а").replace("e", "е"),
        }
        for how, spelling in spellings.items():
            if how == "as it is" or spelling != alias:
                yield _refused(
                    f"set alias '{alias}' {how}",
                    partial(client.set_registered_model_alias, name, spelling, version),
                    or_invalid=spelling != alias,
                )


def _stage_moves(
    client: "MlflowClient", rule: PromotionRule, name: str, version: str
) -> Iterator[Move]:
    for stage in rule.stages:
        for spelling in (stage, stage.upper()):
            yield _refused(
                f"transition to stage '{spelling}'",
                partial(client.transition_model_version_stage, name, version, spelling),
            )


def _tag_moves(
    client: "MlflowClient", name: str, version: str, source: str, run_id: str
) -> Iterator[Move]:
    forged = {"rlrisk.risk_level": "low", ATTESTATION_TAG: "{}", "RLRISK.Risk_Level": "low"}
    for key, value in forged.items():
        yield _refused(
            f"set tag '{key}'",
            partial(client.set_model_version_tag, name, version, key, value),
        )
        yield _refused(
            f"create a version with tag '{key}'",
            _creating(client, name, source, run_id, {key: value}),
        )
    yield _refused(
        f"delete tag '{ATTESTATION_TAG}'",
        partial(client.delete_model_version_tag, name, version, ATTESTATION_TAG),
    )
    yield _refused(
        "set tag 'rlrisk.risk_level' of the model",
        partial(client.set_registered_model_tag, name, "rlrisk.risk_level", "low"),
    )


def _copy_and_rename(
    client: "MlflowClient", bar: Bar, rule: PromotionRule, name: str, version: str, mark: str
) -> Iterator[Move]:
    copy, outside = _copy(name), f"zz-{mark}"
    for alias in [] if _is_closed(bar, copy) else rule.aliases[:1]:
        made = client.copy_model_version(f"models:/{name}/{version}", copy)
        yield _refused(
            f"set alias '{alias}' of a copy",
            partial(client.set_registered_model_alias, copy, alias, made.version),
        )
        client.delete_registered_model(copy)
        if bar.policy.rules_for(outside, _workspace(), Target("alias", alias)):
            continue  # there is no unprotected name to rename from
        client.create_registered_model(outside)
        made = client.create_model_version(outside, f"models:/{name}/{version}")
        client.set_registered_model_alias(outside, alias, made.version)
        yield _refused(
            f"rename a model that has alias '{alias}' to a protected name",
            partial(client.rename_registered_model, outside, copy),
        )


@contextmanager
def _scratch(client: "MlflowClient", name: str, mark: str) -> Iterator[str]:
    """A model, and a folder of a run that a version of it can have as source; nothing is in it."""
    from mlflow.exceptions import MlflowException

    from mlflow_rlrisk.sinks.mlflow_store import create_run

    run_id = create_run(client, mark)
    client.create_registered_model(name)
    try:
        yield f"runs:/{run_id}/checkpoint"
    finally:
        for each in (name, _copy(name), f"zz-{mark}"):
            try:
                client.delete_registered_model(each)
            except MlflowException:
                continue  # it was never made
        client.delete_run(run_id)


def _creating(
    client: "MlflowClient", name: str, source: str, run_id: str, tags: dict[str, str]
) -> Callable[[], object]:
    return partial(client.create_model_version, name, source, run_id, tags)


def _refused(name: str, move: Callable[[], object], *, or_invalid: bool = False) -> Move:
    """The gate has to refuse it; ``or_invalid``: or MLflow, as no name (3.18: a line break)."""
    error = _error(move)
    if error is None:
        return Move(name=name, is_allowed=False, passed=False, message="it went through")
    answer = _words(error)
    passed = PromotionRefusedError.told_by(error) is not None
    passed |= or_invalid and error.error_code == "INVALID_PARAMETER_VALUE"
    return Move(name=name, is_allowed=False, passed=passed, message=answer)


def _allowed(name: str, move: Callable[[], object]) -> Move:
    error = _error(move)
    return Move(
        name=name, is_allowed=True, passed=error is None, message=_words(error) if error else ""
    )


def _words(error: "MlflowException") -> str:
    return " ".join(str(error.message).split())


def _error(move: Callable[[], object]) -> "MlflowException | None":
    """What the registry said against a move, or ``None``."""
    from mlflow.exceptions import MlflowException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out
            move()
    except MlflowException as error:
        return error
    return None
