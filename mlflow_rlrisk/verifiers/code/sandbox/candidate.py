"""The trusted side's handle on a candidate: load its source, call it, get plain values back."""

import builtins
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_rlrisk.verifiers.code.sandbox.channel import Channel, ClosedError
from mlflow_rlrisk.verifiers.code.sandbox.wire import Handle, WireError, decode, encode

MAX_MESSAGE_CHARS = 300


class CandidateRaisedError(Exception):
    """The candidate raised; ``type_name`` and ``message`` are its own words."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name, self.message = type_name, message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class SetupFaultError(Exception):
    """The process could not be confined: a fault of the sandbox, told before any source ran."""


class UnsendableError(Exception):
    """An argument that cannot cross into the sandbox, such as a function."""


class Candidate:
    """One process with one program in it.

    Every call carries a fresh random number that its reply must repeat, so that a reply written
    ahead or twice is recognised.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.num_calls = 0
        self.num_foreign = 0

    def load(self, source: str, deadline: float | None = None) -> None:
        """Run the source in the sandbox, as a module.

        Raises:
            CandidateRaisedError: It raised, a syntax error included.
            SetupFaultError: The process could not be confined.
        """
        self._reply(self._start(source, deadline, as_main=False), deadline)

    def start_main(self, source: str, deadline: float | None = None) -> int:
        """Start the source as a script; `finish_main` takes the number."""
        return self._start(source, deadline, as_main=True)

    def finish_main(self, number: int, deadline: float | None = None) -> None:
        """Wait for the end of a script.

        Raises:
            CandidateRaisedError: It raised.
            ClosedError: It ended its process by itself.
        """
        self._reply(number, deadline)

    def _start(self, source: str, deadline: float | None, *, as_main: bool) -> int:
        number = secrets.randbits(62)
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise CandidateRaisedError("SyntaxError", "the source is no valid Unicode") from error
        # Sent before the process is ready: waiting first would cost a change of process.
        with contextlib.suppress(ClosedError):  # what it said before it ended is read below
            self.channel.send({"load": number, "source": source, "as_main": as_main}, deadline)
        self._await_ready(deadline)
        return number

    def _await_ready(self, deadline: float | None) -> None:
        """Wait until the process stands behind its walls.

        Raises:
            SetupFaultError: It could not be put there.
        """
        first = self.channel.receive(deadline)
        if type(first) is dict and "fault" in first:
            raise SetupFaultError(str(first["fault"])[:MAX_MESSAGE_CHARS])
        if first != {"ready": True}:
            raise WireError("a first frame that is no greeting")

    def call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        deadline: float | None = None,
    ) -> Any:
        """Call a function of the program: `ask` and `answer`."""
        return self.answer(self.ask(name, args, kwargs, deadline), deadline)

    def ask(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        deadline: float | None = None,
    ) -> int:
        """Send a call; `answer` takes the number, in the order of the calls.

        Raises:
            UnsendableError: An argument cannot be sent; nothing was.
        """
        number = secrets.randbits(62)
        try:
            sent = [encode(list(args), _handle_of), encode(dict(kwargs), _handle_of)]
        except WireError as error:
            raise UnsendableError(str(error)) from error
        self.num_calls += 1
        with contextlib.suppress(ClosedError):  # earlier answers may still be there to read
            self.channel.send({"call": number, "name": name, "arguments": sent}, deadline)
        return number

    def answer(self, number: int, deadline: float | None = None) -> Any:
        """What a call returned.

        Returns:
            An exact built-in value, or a `Handle` for what is none.

        Raises:
            CandidateRaisedError: It raised, or there is no such function.
        """
        value = decode(self._reply(number, deadline))
        self.num_foreign += type(value) is Handle
        return value

    def _reply(self, number: int, deadline: float | None) -> Any:
        reply = self.channel.receive(deadline)
        if type(reply) is not dict or type(reply.get("to")) is not int or reply["to"] != number:
            raise WireError("a reply to no question")
        if "raised" in reply:
            raised = reply["raised"]
            if type(raised) is not list or [type(each) for each in raised] != [str, str]:
                raise WireError("a damaged exception")
            raise CandidateRaisedError(raised[0][:80], raised[1][:MAX_MESSAGE_CHARS])
        if "value" not in reply:
            raise WireError("a reply without a value")
        return reply["value"]


def as_builtin_exception(error: CandidateRaisedError) -> Exception:
    """The built-in exception of that name, so that tests can expect it; else the error itself."""
    kind = getattr(builtins, error.type_name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
        try:
            return kind(error.message)
        except TypeError:
            return error
    return error


def _handle_of(value: Any) -> dict[str, Any]:
    if type(value) is Handle:
        return {"h": [value.number, value.type_name]}
    raise UnsendableError(
        f"an argument of type {type(value).__name__} cannot be sent into the sandbox"
    )
