"""`CodeJudge`: open a sandbox, prove it, grade programs in it from any number of threads."""

import os
import threading
from typing import Literal, Self

from mlflow_rlrisk.errors import ConfigError, SandboxUnavailableError
from mlflow_rlrisk.verifiers.code.checks import run_checks
from mlflow_rlrisk.verifiers.code.external import ExternalRunner
from mlflow_rlrisk.verifiers.code.judgement import CodeGrade, Judgement
from mlflow_rlrisk.verifiers.code.sandbox_tiers import (
    AUTO,
    Servers,
    Tier,
    missing_for,
    parse_tier,
    refuse_without_consent,
)
from mlflow_rlrisk.verifiers.code.selftest import SelfTest, run_selftest
from mlflow_rlrisk.verifiers.code.session import Limits, SandboxFaultError
from mlflow_rlrisk.verifiers.code.tally import Tally
from mlflow_rlrisk.verifiers.code.tasks import CodeTask, refuse_ungradable

MAX_ATTEMPTS = 3
"""A fault of the sandbox is tried again this often before it makes a check inconclusive."""
MIN_MEMORY_MB, MAX_MEMORY_MB = 64, 1 << 24
"""Of address space; 16 TiB are more than any machine has and fewer than the kernel can count."""
SELFTEST_TIMEOUT_S = 5.0
_OF_LEETCODE = (
    *("typing", "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math"),
    *("random", "statistics", "itertools", "functools", "operator", "io", "sys", "json"),
    "builtins",
)
_ON_LEETCODE = "".join(f"from {name} import *; import {name}\n" for name in _OF_LEETCODE)
"""What a `Solution` finds on LeetCode, as LiveCodeBench's own grader gives it."""


class CodeJudge:
    """Grades programs; a context manager, safe to share between threads.

    Args:
        tier: ``auto`` takes A, else B, and never less; a named tier is had or refused.
        limits: Of one program.
        lanes: Programs that run at once; the number of processors where it is ``None``. Memory
            for all of them is ``lanes * limits.memory_mb``.

    Raises:
        SandboxUnavailableError: On entering: no tier could be proved, or tier ``none`` without
            the operator's consent.
        ConfigError: A limit that cannot be kept.
    """

    def __init__(
        self, tier: str = AUTO, *, limits: Limits | None = None, lanes: int | None = None
    ) -> None:
        self.wanted = parse_tier(tier)
        self.limits = limits or Limits()
        if not 0 < self.limits.timeout_s <= 3600:
            raise ConfigError("timeout_s", self.limits.timeout_s, "more than 0, at most 3600 s")
        if not MIN_MEMORY_MB <= self.limits.memory_mb <= MAX_MEMORY_MB:
            need = f"at least {MIN_MEMORY_MB}, at most {MAX_MEMORY_MB}"
            raise ConfigError("memory_mb", self.limits.memory_mb, need)
        self.lanes = len(os.sched_getaffinity(0)) if lanes is None else lanes
        if self.lanes < 1:
            raise ConfigError("lanes", self.lanes, "at least 1")
        self._free = threading.BoundedSemaphore(self.lanes)
        self._servers: Servers | None = None
        self._external: ExternalRunner | None = None
        self.selftest: SelfTest | None = None

    @property
    def tier(self) -> Tier:
        """The tier that was proved.

        Raises:
            SandboxUnavailableError: The judge is not open.
        """
        if self._external is not None:
            return "C"
        if self._servers is None:
            raise SandboxUnavailableError("the judge is not open; use it in a with statement")
        return self._servers.tier

    def __enter__(self) -> Self:
        if self.wanted == "none":
            refuse_without_consent()
        if self.wanted == "C":
            self._external = ExternalRunner.from_environment()
            return self
        self._servers, self.selftest = _prove(self.wanted)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox and everything in it; idempotent."""
        servers, self._servers = self._servers, None
        self._external = None
        if servers is not None:
            servers.close()

    def grade(self, source: str, task: CodeTask) -> Judgement:
        """Check one program; waits for a free lane.

        Returns:
            The verdict. A fault of the sandbox is tried again and is then ``inconclusive``.

        Raises:
            VerifierError: The task has no cases, or a call without a function to call.
        """
        refuse_ungradable(task)
        source = source.removeprefix("\ufeff")  # the mark of a file, as Python reads one
        if task.calls and "class Solution" in source and "from __future__" not in source:
            source = _ON_LEETCODE + source
        tier = self.tier
        fault: Exception | None = None
        for _ in range(MAX_ATTEMPTS):
            try:
                with self._free:
                    return self._tally(source, task).judgement()
            except SandboxFaultError as error:
                fault = error
        return Judgement(
            grade=CodeGrade.INCONCLUSIVE,
            tier=tier,
            num_passed=0,
            num_cases=task.num_cases,
            detail=f"the sandbox failed {MAX_ATTEMPTS} times: {fault}",
        )

    def _tally(self, source: str, task: CodeTask) -> Tally:
        if self._external is not None:
            return self._external.run_checks(source, task, self.limits)
        if self._servers is None:
            raise SandboxUnavailableError("the judge is closed")
        return run_checks(source, task, self._servers, self.limits)


def _prove(wanted: "Tier | Literal['auto']") -> tuple[Servers, SelfTest | None]:
    """The first tier of those wanted that blocks every attack of the self-test."""
    tried = []
    candidates: tuple[Tier, ...] = ("A", "B") if wanted == "auto" else (wanted,)
    for tier in candidates:
        missing = missing_for(tier)
        if missing is None:
            servers = Servers(tier)
            try:
                selftest = run_selftest(servers, Limits(timeout_s=SELFTEST_TIMEOUT_S))
            except SandboxFaultError as error:
                missing = str(error)
            else:
                if tier == "none" or not selftest.escaped:
                    return servers, selftest
                missing = f"its self-test was not stopped: {', '.join(selftest.escaped)}"
            servers.close()
        tried.append(f"tier {tier}: {missing}")
    raise SandboxUnavailableError(f"no sandbox for unknown code; {'; '.join(tried)}")
