"""An exception at every single call that the gate makes: nothing gets in by an accident."""

import gc
import logging
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from types import FrameType
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from mlflow_rlrisk.attestation import ATTESTATION_TAG, statement
from mlflow_rlrisk.errors import AttestationError
from mlflow_rlrisk.gate import evidence, files, names
from tests.gate.conftest import Gated

# What an interrupted generator says while it is thrown away is no news here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured log records keep the frames of an error alive, and with them open cursors."""
    monkeypatch.setattr(logging.getLogger("mlflow_rlrisk.gate.refusals"), "disabled", True)


OURS = ("mlflow_rlrisk/gate/", "mlflow_rlrisk/attestation/", "mlflow_rlrisk/content")


class Injector:
    """Numbers the calls made in or by our modules, and raises at the one that is due."""

    def __init__(self, due: int | None, error: Callable[[], Exception]) -> None:
        self.first_calls: dict[tuple[str, int, str], int] = {}
        self._count, self._due, self._error = 0, due, error
        self.fired = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "c_call") or self.fired:
            return
        caller = frame if event == "c_call" else frame.f_back
        frames = [each for each in (frame, caller) if each is not None]
        if not any(part in each.f_code.co_filename for each in frames for part in OURS):
            return
        callee = frame.f_code.co_name if event == "call" else getattr(argument, "__name__", "")
        # Leaving a `with` decides nothing, and broken there a transaction would stay open.
        if callee in ("setprofile", "__exit__"):
            return
        self._count += 1
        where = frames[-1]
        site = (where.f_code.co_filename, where.f_lineno, callee)
        self.first_calls.setdefault(site, self._count)
        if self._count == self._due:
            self.fired = True
            sys.setprofile(None)
            raise self._error()


def forget() -> None:
    """Empty what is kept between decisions, so that every call is made again."""
    for kept in (statement._signed, evidence._names_itself, files._local_folder, names._forms):
        kept.cache_clear()


def run(gated: Gated, injector: Injector) -> bool:
    """Ask for the alias under the injector; whether the registry has set it."""
    forget()
    sys.setprofile(injector)
    try:
        with suppress(Exception):
            gated.store.set_registered_model_alias("prod-a", "champion", "1")
    finally:
        sys.setprofile(None)
    if sys.version_info >= (3, 12):  # a cycle may keep an interrupted transaction open there
        gc.collect()
    with closing(sqlite3.connect(gated.uri.removeprefix("sqlite:///"))) as beside, beside:
        return beside.execute("DELETE FROM registered_model_aliases").rowcount > 0


ERRORS: dict[str, Callable[[], Exception]] = {
    "any": lambda: RuntimeError("injected"),
    "missing": lambda: MlflowException("injected", RESOURCE_DOES_NOT_EXIST),
    "attestation": lambda: AttestationError("wrong_subject", "injected"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("unscored", "any"),
        ("forged", "any"),
        ("high", "any"),
        ("changed", "any"),
        ("high", "missing"),
        ("high", "attestation"),
    ],
)
def test_an_exception_at_any_call_promotes_no_unproven_version(
    gated: Gated, kind: str, error: str
) -> None:
    version = gated.version("prod-a")
    if kind == "forged":
        gated.tag(version, ATTESTATION_TAG, "{}")
    if kind in ("high", "changed"):
        gated.attest(version, risk_level="high" if kind == "high" else "low")
    if kind == "changed":
        (gated.checkpoint / "config.json").write_text("{}")
    calls = Injector(None, ERRORS[error])
    assert not run(gated, calls)

    injectors = [Injector(due, ERRORS[error]) for due in calls.first_calls.values()]
    promoted = [each for each in injectors if run(gated, each)]

    assert len(injectors) > 50
    assert sum(each.fired for each in injectors) > 0.9 * len(injectors)
    assert promoted == []


@pytest.mark.slow
def test_a_proven_version_is_set_only_after_its_decision_stands_in_the_log(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    calls = Injector(None, ERRORS["any"])
    assert run(gated, calls)
    num_set = 0

    for due in calls.first_calls.values():
        before = len(gated.entries())
        if run(gated, Injector(due, ERRORS["any"])):
            num_set += 1
            assert [each.outcome for each in gated.entries()[before:]] == ["promote"]

    assert len(calls.first_calls) > 50
    assert num_set < 20  # what runs after the registry has acted


def test_the_injector_reaches_calls_deep_inside(gated: Gated) -> None:
    seen: set[str] = set()
    gated.version("prod-a", is_proven=True)

    class Recorder(Injector):
        def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                seen.add(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}")
            super().__call__(frame, event, argument)

    run(gated, Recorder(None, ERRORS["any"]))

    for wanted in (
        "guard.py:judge",
        "statement.py:verify_attestation",
        "keys.py:verify",
        "envelope.py:open_envelope",
        "files.py:list_sizes",
        "audit_tables.py:append_last",
        "promotion_policy.py:current",
        "names.py:readable",
    ):
        assert wanted in seen
