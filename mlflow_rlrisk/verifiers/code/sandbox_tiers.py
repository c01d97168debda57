"""Which walls this machine can give, and the fork servers behind them.

Tier ``A``: one fork server inside bubblewrap (user, PID, network, mount, IPC namespaces) and all of
B. Tier ``B``: Landlock, a seccomp allow-list, rlimits, no capabilities; needs no privilege and no
namespace. Tier ``C``: the operator's own runner (`external`). Tier ``none``: rlimits and no more.
A tier is claimed only after its self-test; there is no silent way down.
"""

import os
import threading
from typing import Literal

from mlflow_rlrisk.errors import ConfigError, SandboxUnavailableError
from mlflow_rlrisk.verifiers.code.launch import (
    Kind,
    RunningServer,
    SandboxStartError,
    bwrap_path,
    start_server,
)
from mlflow_rlrisk.verifiers.code.sandbox import landlock, seccomp
from mlflow_rlrisk.verifiers.code.session import SandboxFaultError

Tier = Literal["A", "B", "C", "none"]
AUTO: Literal["auto"] = "auto"

UNSAFE_VARIABLE = "RLRISK_ALLOW_UNSAFE_EXEC"
UNSAFE_WORD = "I-understand"
"""The operator's half of the consent to run without a sandbox; the job's half is ``tier=none``."""


def parse_tier(text: str) -> "Tier | Literal['auto']":
    """``auto``, ``A``, ``B``, ``C`` or ``none``, in either case.

    Raises:
        ConfigError: Something else.
    """
    known: dict[str, Tier | Literal["auto"]] = {
        "auto": "auto",
        "a": "A",
        "b": "B",
        "c": "C",
        "none": "none",
    }
    if text.lower() in known:
        return known[text.lower()]
    raise ConfigError("tier", text, "known: auto, A, B, C, none")


def refuse_without_consent() -> None:
    """Tier ``none`` needs the operator too, not only the job that asks for it.

    Raises:
        SandboxUnavailableError: The operator has not agreed.
    """
    if os.environ.get(UNSAFE_VARIABLE) != UNSAFE_WORD:
        raise SandboxUnavailableError(
            "tier none runs unknown code without a sandbox; the operator has to agree with "
            f"{UNSAFE_VARIABLE}={UNSAFE_WORD}"
        )


def missing_for(tier: Tier) -> str | None:
    """What this machine visibly lacks for a tier, ``None`` where it has to be tried."""
    if tier in ("A", "B") and not seccomp.is_known_machine():
        return "no table of system calls for this machine"
    if tier in ("A", "B") and landlock.abi() == 0:
        return "the kernel has no Landlock (5.13 or newer, enabled)"
    if tier == "A" and bwrap_path() is None:
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    return None


class Servers:
    """The fork servers of one judge, started again when they have died; used by any thread."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self._lock = threading.Lock()
        self._running: dict[Kind, RunningServer] = {}
        self._owner = os.getpid()
        self._is_closed = False

    def candidates(self) -> RunningServer:
        """The server that forks candidates.

        Raises:
            SandboxFaultError: It cannot be started.
        """
        assert self.tier != "C"
        return self._get(self.tier)

    def testers(self) -> RunningServer:
        """The server that forks trusted processes for test code.

        Raises:
            SandboxFaultError: It cannot be started.
        """
        return self._get("tester")

    def close(self) -> None:
        """End all servers and whatever they forked; idempotent."""
        with self._lock:
            self._is_closed = True
            running, self._running = self._running, {}
            for server in running.values():
                if self._owner == os.getpid():
                    server.stop()

    def _get(self, kind: Kind) -> RunningServer:
        with self._lock:
            if self._is_closed:
                raise SandboxFaultError("the judge is closed")
            if self._owner != os.getpid():  # a fork of the judge: the servers are its parent's
                for inherited in self._running.values():
                    inherited.control.close()
                self._running, self._owner = {}, os.getpid()
            server = self._running.get(kind)
            if server is not None and server.process.poll() is None:
                return server
            if server is not None:
                server.stop()
            try:
                self._running[kind] = start_server(kind)
            except SandboxStartError as error:
                self._running.pop(kind, None)
                raise SandboxFaultError(f"the fork server does not start: {error}") from error
            return self._running[kind]
