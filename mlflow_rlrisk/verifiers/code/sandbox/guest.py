"""The loop of a sandboxed process: run one program, answer calls with plain values.

Nothing here is trusted by the judge: the program may change every line of it at run time, and
gains the power to send values, which is what it has anyway.
"""

import _sitebuiltins
import atexit
import builtins
import sys
import threading
from types import ModuleType
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox.channel import Channel, ClosedError
from mlflow_rlrisk.verifiers.code.sandbox.wire import WireError, decode, encode

MAX_REQUEST_BYTES = 1 << 30
MODULE_NAME = "candidate"
_AS_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "closefd": False}


def serve(fd: int) -> None:
    """Answer until the judge ends the process."""
    channel = Channel(fd, MAX_REQUEST_BYTES)
    for name in ("exit", "quit"):  # the interpreter runs without `site`, which makes them
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    channel.send({"ready": True})
    program = _Program()
    while True:
        try:
            request = channel.receive()
        except ClosedError:
            return
        channel.send(program.answer(request))
        if request.get("as_main"):
            return


class _Program:
    """The module of a candidate and the objects that its replies refer to."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.kept: list[Any] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        number = request.get("load", request.get("call"))
        try:
            if "load" in request:
                self._load(request["source"], as_main=request["as_main"])
                return {"to": number, "value": None}
            args, kwargs = (self._revive(each) for each in request["arguments"])
            result = self._find(request["name"])(*args, **kwargs)
            return {"to": number, "value": encode(result, self._keep)}
        except BaseException as error:  # noqa: BLE001  (whatever it raises is the answer)
            return {"to": number, "raised": _described(error)}

    def _load(self, source: str, *, as_main: bool) -> None:
        name = "__main__" if as_main else MODULE_NAME
        module = ModuleType(name)
        sys.modules[name] = module
        sys.argv[:] = ["program.py"]
        self.names = module.__dict__
        if as_main:
            for number, (stream, mode) in enumerate((("stdin", "r"), ("stdout", "w"))):
                opened = open(number, mode, **_AS_TEXT)  # noqa: SIM115
                setattr(sys, stream, opened)
                setattr(sys, f"__{stream}__", opened)
        try:
            exec(compile(source, "<program>", "exec", dont_inherit=True), self.names)  # noqa: S102
        except SystemExit as stop:
            if not as_main or stop.code not in (None, 0):
                raise
        if as_main:
            self._finish()

    def _finish(self) -> None:
        """End a script as an interpreter does: what it still writes then counts."""
        threading._shutdown()  # type: ignore[attr-defined]  # waits for all but daemons
        atexit._run_exitfuncs()
        _flush()
        sys.stdout = sys.__stdout__  # a class of its own could not write without its names
        self.names.clear()  # its objects end here, files of its own on standard output among them
        _flush()

    def _find(self, name: str) -> Any:
        """``f``, ``Class.method`` (an instance is made), or ``method`` of a class `Solution`."""
        head, _, method = name.partition(".")
        if not method and name in self.names:
            return self.names[name]
        if not method and hasattr(self.names.get("Solution"), name):
            head, method = "Solution", name
        if head not in self.names:
            raise NameError(f"the program defines no {head}")
        owner = self.names[head]
        return getattr(owner() if isinstance(owner, type) else owner, method)

    def _keep(self, value: Any) -> dict[str, Any]:
        self.kept.append(value)
        return {"h": [len(self.kept) - 1, str(type(value).__name__)]}

    def _revive(self, raw: Any) -> Any:
        """The arguments, with the program's own objects in the place of their handles."""
        if '"h"' not in repr(raw).replace("'", '"'):
            return decode(raw)
        return self._with_objects(decode(raw))

    def _with_objects(self, value: Any) -> Any:
        if type(value).__name__ == "Handle":
            return self.kept[value.number]
        if type(value) in (list, tuple):
            return type(value)(self._with_objects(item) for item in value)
        if type(value) is dict:
            return {key: self._with_objects(item) for key, item in value.items()}
        return value


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def _described(error: BaseException) -> list[str]:
    try:
        message = str(error)[:1000]
    except BaseException:  # noqa: BLE001  (its message may raise too)
        message = ""
    if type(error) is WireError:
        return ["ValueError", f"the result cannot be compared: {message}"]
    return [str(type(error).__name__), message]
