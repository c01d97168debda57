"""The trusted process that runs a data set's test code against a candidate elsewhere.

Test code decides the verdict, so it never enters the candidate's process, and it may loop or
break things, so it does not run in the judge either. ``candidate`` is a proxy here: a call goes
into the sandbox and a plain value comes back, which the test compares by Python's own rules.
"""

import ast
import builtins
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox.candidate import (
    Candidate,
    CandidateRaisedError,
    SetupFaultError,
    UnsendableError,
    as_builtin_exception,
)
from mlflow_rlrisk.verifiers.code.sandbox.channel import Channel, ClosedError, OversizeError
from mlflow_rlrisk.verifiers.code.sandbox.wire import CostlyValueError, WireError

MAX_TASK_BYTES = 1 << 28
MAX_DETAIL_CHARS = 400


class _GoneError(BaseException):
    """The candidate cannot be asked any more; no ``except Exception`` of a test stops this."""


@dataclass(slots=True)
class _Ending:
    """How the talk with the candidate ended, where it did."""

    kind: str
    detail: str


def serve(candidate_fd: int, report_fd: int) -> None:
    """Run one task and report."""
    report = Channel(report_fd, MAX_TASK_BYTES)
    task = report.receive()
    candidate = Candidate(Channel(candidate_fd, task["max_result_bytes"]))
    report.send(_Tests(task, candidate).run())


class _Tests:
    def __init__(self, task: dict[str, Any], candidate: Candidate) -> None:
        self.task, self.candidate = task, candidate
        self.ending: _Ending | None = None
        self.raised: list[BaseException] = []
        self.names: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """The report: how each unit of the tests ended, in their order."""
        units = list(self._units())
        report: dict[str, Any] = {"num_cases": len(units), "results": []}
        try:
            self.candidate.load(self.task["source"])
        except SetupFaultError as error:
            return report | {"fault": str(error)}
        except CandidateRaisedError as error:
            return report | {"load_raised": [error.type_name, error.message]}
        except (ClosedError, WireError, OversizeError) as error:
            return report | {"ending": [_kind(error), str(error)]}
        try:
            self._prepare(units)
        except Exception as error:  # noqa: BLE001  (the data set's own code)
            return report | {"broken": f"the set-up of the tests raises {_short(error)}"}
        for unit in units:
            report["results"].append(self._run_unit(unit))
            report["num_foreign"] = self.candidate.num_foreign
            if self.ending is not None:
                return report | {"ending": [self.ending.kind, self.ending.detail]}
        return report

    def _units(self) -> Iterator[str]:
        yield from self.task["asserts"]
        if self.task["test"]:
            yield self.task["test"]

    def _prepare(self, units: list[str]) -> None:
        module = ModuleType("tests")
        sys.modules["tests"] = module
        self.names = module.__dict__
        for source in self.task["setup"]:
            exec(compile(source, "<setup>", "exec"), self.names)  # noqa: S102
        entry = self.task["entry_point"]
        for name in [entry] if entry else _unknown_names(units, self.names):
            self.names[name] = self._proxy(name)

    def _run_unit(self, source: str) -> list[str]:
        """``[grade, detail, ...]`` of one assert or of one whole test."""
        before = self.candidate.num_calls
        try:
            exec(compile(source, "<test>", "exec"), self.names)  # noqa: S102
            if source == self.task["test"] and callable(self.names.get("check")):
                self.names["check"](self.names[self.task["entry_point"]])
        except UnsendableError as error:
            return ["inconclusive", str(error)]
        except BaseException as error:  # noqa: BLE001  (test code fails in every way)
            if self.ending is not None:
                return ["ended", self.ending.detail]
            if any(error is raised for raised in self.raised):
                name = getattr(error, "type_name", type(error).__name__)
                return ["raised", f"it raises {_short(error)}", name]
            if self.candidate.num_calls == before and not isinstance(error, AssertionError):
                return ["inconclusive", f"the test fails by itself: {_short(error)}"]
            return ["fail", f"{_first_line(source)}: {_short(error)}"]
        if self.ending is not None:  # a test that swallows everything
            return ["ended", self.ending.detail]
        if self.candidate.num_calls == before:
            return ["inconclusive", "the test never calls the candidate"]
        return ["pass", ""]

    def _proxy(self, name: str) -> Callable[..., Any]:
        def candidate(*args: Any, **kwargs: Any) -> Any:
            if self.ending is not None:
                raise _GoneError
            try:
                return self.candidate.call(name, args, kwargs)
            except CandidateRaisedError as error:
                mapped = as_builtin_exception(error)
                self.raised.append(mapped)
                raise mapped from None
            except (ClosedError, WireError, OversizeError) as error:
                self.ending = _Ending(_kind(error), str(error))
                raise _GoneError from error

        candidate.__name__ = candidate.__qualname__ = name
        return candidate


def _unknown_names(asserts: list[str], known: dict[str, Any]) -> set[str]:
    """Names that the asserts use and nobody defines: those of the candidate."""
    used: set[str] = set()
    for source in asserts:
        nodes = list(ast.walk(ast.parse(source)))
        bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        bound |= {
            (alias.asname or alias.name).partition(".")[0]
            for node in nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        used |= {n.id for n in nodes if isinstance(n, ast.Name)} - bound
    return {name for name in used if name not in known and not hasattr(builtins, name)}


def _kind(error: Exception) -> str:
    if isinstance(error, ClosedError):
        return "closed"
    if isinstance(error, CostlyValueError):
        return "costly"
    return "too_big" if isinstance(error, OversizeError) else "protocol"


def _short(error: BaseException) -> str:
    if isinstance(error, CandidateRaisedError):
        return str(error)[:MAX_DETAIL_CHARS]
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  (numbers of more digits than Python prints, for one)
        message = ""
    name = type(error).__name__
    return (f"{name}: {message}" if message else name)[:MAX_DETAIL_CHARS]


def _first_line(source: str) -> str:
    return source.strip().splitlines()[0][:120]
