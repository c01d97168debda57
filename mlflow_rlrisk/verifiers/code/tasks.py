"""What a program is checked against, read from the forms that data sets use.

* call cases: a list of ``{"args", "kwargs", "expected"}`` (``tolerance`` for floats, optional);
* HumanEval(+): ``test`` with ``check(candidate)``, ``entry_point``, ``prompt``;
* MBPP(+): ``test_list`` of asserts (blank ones and comments are dropped) or a ``test`` script,
  ``test_setup_code``, ``test_imports``;
* APPS, TACO and LiveCodeBench: ``inputs`` and ``outputs``, called where there is a ``fn_name``,
  else through standard input and output; the same as a list of ``{"input", "output"}``;
* ``{"language": "python", "test_cases": [...]}`` as in ``verification_info``.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.plurals import counted

CASE_COLUMNS = (
    "verification_info",
    "input_output",
    "test_cases",
    "cases",
    "tests",
    "public_test_cases",
    "ground_truth",
)
"""Columns that hold the cases, as objects or as JSON text; the first one there is taken."""
_FUNCTION_KEYS = ("fn_name", "func_name", "entry_point", "function_name")
_NAME_COLUMNS = ("entry_point", "fn_name", "func_name", "function_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCase:
    """One call and what it must return; any of ``expected`` will do."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    expected: tuple[Any, ...]
    tolerance: float | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioCase:
    """One run: what is on standard input, and what must come out."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTask:
    """The checks of one program, of one kind.

    Attributes:
        entry_point: Function that is called, where one is named.
        calls: Call cases.
        runs: Cases through standard input and output.
        asserts: Test statements, each a case.
        test: Test code, one case; ``check(candidate)`` is called where it defines one.
        setup: Trusted code that the tests need, the prompt's own functions for one.
    """

    entry_point: str | None = None
    calls: tuple[CallCase, ...] = ()
    runs: tuple[StdioCase, ...] = ()
    asserts: tuple[str, ...] = ()
    test: str | None = None
    setup: tuple[str, ...] = ()

    @property
    def num_cases(self) -> int:
        """How many checks there are."""
        return len(self.calls) + len(self.runs) + len(self.asserts) + (self.test is not None)


def read_task(cases: Any, entry_point: str | None = None) -> CodeTask:
    """The task of a parsed JSON.

    Raises:
        VerifierError: Not one of the forms, empty, or a call without a function to call.
    """
    if isinstance(cases, str):
        cases = _from_text(cases)
    if isinstance(cases, Mapping):
        task = _from_object(cases, entry_point)
    elif isinstance(cases, Sequence) and not isinstance(cases, str):
        task = _from_list(list(cases), entry_point)
    else:
        raise VerifierError(f"cases are {type(cases).__name__}; a list or an object is needed")
    refuse_ungradable(task)
    return task


def task_of_row(truth: Any, columns: Mapping[str, Any]) -> CodeTask:
    """The task of one prompt of a prompt set.

    Raises:
        VerifierError: The row has no cases, or `read_task` refuses them.
    """
    named = next((columns[name] for name in _NAME_COLUMNS if columns.get(name)), None)
    entry = named if isinstance(named, str) else None
    if _is_text(columns.get("test")) or columns.get("test_list") is not None:
        return read_task(columns, entry)
    for name in CASE_COLUMNS:
        if columns.get(name) not in (None, "", [], {}):
            return read_task(columns[name], entry or _function_of_metadata(columns))
    if isinstance(truth, Mapping | list) or (_is_text(truth) and truth.lstrip()[:1] in "[{"):
        return read_task(truth, entry)
    known = ", ".join(("test", "test_list", *CASE_COLUMNS))
    raise VerifierError(f"no cases to check a program against; looked for {known} and the truth")


def refuse_ungradable(task: CodeTask) -> None:
    """Refuse a task that has nothing to grade a program against.

    Raises:
        VerifierError: There are no cases, or a call without a function to call.
    """
    if task.num_cases == 0:
        raise VerifierError("there are no cases; a program cannot be graded against none")
    called = [case.function or task.entry_point for case in task.calls]
    if not all(called):
        raise VerifierError("call cases need the name of the function (entry_point)")
    for name in filter(None, (task.entry_point, *called)):
        if not all(part.isidentifier() for part in name.split(".")):
            raise VerifierError(
                f"entry point {name!r}: a function's name or Class.method is needed"
            )


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if _is_python(text):
            return {"test": text}
        raise VerifierError(f"cases are neither JSON nor Python: {error}") from error


def _from_object(raw: Mapping[str, Any], entry_point: str | None) -> CodeTask:
    entry = next((raw[key] for key in _FUNCTION_KEYS if _is_text(raw.get(key))), entry_point)
    if "test_cases" in raw:
        return read_task(raw["test_cases"], entry)
    if "inputs" in raw and "outputs" in raw:
        return _from_lists(raw["inputs"], raw["outputs"], entry)
    if not _is_text(raw.get("test")) and raw.get("test_list") is None:
        raise VerifierError(
            f"cases have the keys {', '.join(map(str, raw))}; needed are inputs and outputs, "
            "test_cases, test_list or test"
        )
    setup = [*map(str, _listed(raw.get("test_imports"))), str(raw.get("test_setup_code") or "")]
    prompt = raw.get("prompt")
    if isinstance(prompt, str) and entry and _is_python(prompt):
        setup.insert(0, prompt)  # tests of HumanEval use functions that its prompts define
    test, asserts = None, _listed(raw.get("test_list"))
    if _is_text(raw.get("test")):
        test, asserts = _test_code(raw["test"]), []
    if test and "def check(" in test and not entry:
        raise VerifierError("a test with check(candidate) needs an entry_point")
    return CodeTask(
        entry_point=entry,
        asserts=tuple(filter(None, map(_test_code, asserts))),
        test=test,
        setup=tuple(filter(None, setup)),
    )


def _test_code(source: Any) -> str | None:
    """The text of a test, ``None`` where nothing but white space and comments is in it."""
    if not isinstance(source, str):
        raise VerifierError(f"a test is {type(source).__name__}; text is needed")
    if not _is_python(source):
        raise VerifierError(f"a test that is not Python: {source.strip()[:80]!r}")
    return str(source) if ast.parse(source).body else None


def _from_list(cases: list[Any], entry_point: str | None) -> CodeTask:
    if cases and all(isinstance(case, str) for case in cases):
        return _from_object({"test_list": cases}, entry_point)
    tasks = [_from_case(case, entry_point) for case in cases]
    calls = tuple(call for task in tasks for call in task.calls)
    runs = tuple(run for task in tasks for run in task.runs)
    if calls and runs:
        raise VerifierError("cases that are called and cases on standard input are mixed")
    return CodeTask(entry_point=entry_point, calls=calls, runs=runs)


def _from_case(case: Any, entry_point: str | None) -> CodeTask:
    if not isinstance(case, Mapping):
        raise VerifierError(f"a case is {type(case).__name__}; an object is needed")
    if "expected" in case:
        return CodeTask(calls=(_call_case(case),))
    if "output" not in case or "input" not in case:
        raise VerifierError(
            f"a case has the keys {', '.join(map(str, case))}; needed are args and expected, "
            "or input and output"
        )
    kind = str(case.get("testtype") or case.get("type") or "")
    named = next((case[key] for key in _FUNCTION_KEYS if case.get(key)), None)
    function = named or _function_of_metadata(case) or entry_point
    is_call = kind in ("functional", "function_call") or (not kind and function is not None)
    task = _from_lists([case["input"]], [case["output"]], function if is_call else None)
    if is_call and function is None:
        raise VerifierError("call cases need the name of the function (entry_point)")
    return replace(task, calls=tuple(replace(call, function=function) for call in task.calls))


def _call_case(case: Mapping[str, Any]) -> CallCase:
    unknown = case.keys() - {"args", "kwargs", "expected", "tolerance"}
    args, kwargs, tolerance = case.get("args", []), case.get("kwargs", {}), case.get("tolerance")
    if unknown:
        raise VerifierError(f"a case has unknown keys {', '.join(map(str, unknown))}")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise VerifierError("args must be a list and kwargs an object")
    if tolerance is not None and not (type(tolerance) in (int, float) and 0 <= tolerance < 1):
        raise VerifierError(f"tolerance={tolerance!r}: a number from 0 to below 1 is needed")
    return CallCase(
        args=tuple(args), kwargs=dict(kwargs), expected=(case["expected"],), tolerance=tolerance
    )


def _from_lists(inputs: Any, outputs: Any, entry_point: str | None) -> CodeTask:
    inputs, outputs = _listed(inputs), _listed(outputs)
    if len(inputs) != len(outputs):
        raise VerifierError(
            f"{counted(len(inputs), 'input')} for {counted(len(outputs), 'output')}"
        )
    pairs = list(zip(inputs, outputs, strict=True))
    if entry_point is None:
        runs = tuple(StdioCase(stdin=_lines(i), expected=_lines(o)) for i, o in pairs)
        return CodeTask(runs=runs)
    calls = tuple(
        CallCase(args=_arguments(i), kwargs={}, expected=_expectations(o, i)) for i, o in pairs
    )
    return CodeTask(entry_point=entry_point, calls=calls)


def _arguments(raw: Any) -> tuple[Any, ...]:
    """A list of arguments, or text with the JSON of one argument a line (LiveCodeBench).

    A line ends at a line feed alone: the separators of Unicode may stand in a JSON string.
    """
    if isinstance(raw, str):
        lines = (line.removesuffix("\r") for line in raw.split("\n"))
        return tuple(_parsed(line) for line in lines if line.strip())
    return tuple(raw) if isinstance(raw, list | tuple) else (raw,)


def _expectations(raw: Any, arguments: Any) -> tuple[Any, ...]:
    """APPS wraps results in a list of one and accepts both; text is the JSON of the result.

    Beside arguments that are no text, it may be the result itself.
    """
    if isinstance(raw, str):
        return (_parsed(raw),) if isinstance(arguments, str) else (_parsed(raw), raw)
    return (raw, raw[0]) if isinstance(raw, list) and len(raw) == 1 else (raw,)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text


def _lines(raw: Any) -> str:
    return "\n".join(map(str, raw)) if isinstance(raw, list | tuple) else str(raw)


def _listed(raw: Any) -> list[Any]:
    if isinstance(raw, str):
        raw = _from_text(raw)
    if hasattr(raw, "tolist"):  # an array of a Parquet column
        raw = raw.tolist()
    return list(raw) if isinstance(raw, list | tuple) else []


def _function_of_metadata(columns: Mapping[str, Any]) -> str | None:
    """LiveCodeBench keeps the name in the ``metadata`` of a row, DeepCoder in those of a case."""
    metadata = columns.get("metadata")
    parsed = _parsed(metadata) if isinstance(metadata, str) else metadata
    name = parsed.get("func_name") if isinstance(parsed, Mapping) else None
    return name if isinstance(name, str) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
