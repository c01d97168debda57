"""Worker processes that grade groups while the sampler goes on sampling.

One call of the verifier sees the completions of one prompt, as in TRL. A call that raises, hangs
or kills its worker is repeated completion by completion, so that one poisonous completion costs
its own grade and not its group's; a verifier whose reward depends on the other completions of the
group then sees groups of one. A completion that fails alone too is graded ``FAILED`` or
``TIMED_OUT`` with the reason.
"""

import math
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Self

from mlflow_rlrisk.errors import ConfigError, SamplerError, VerifierError
from mlflow_rlrisk.records import Grade, GradedGroup, GradeStatus, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.verifiers import frames
from mlflow_rlrisk.verifiers.loading import LoadedVerifier
from mlflow_rlrisk.verifiers.process import (
    START_TIMEOUT_S,
    WorkerDiedError,
    WorkerProcess,
    WorkerTimeoutError,
)
from mlflow_rlrisk.verifiers.specs import parse_spec

GROUPS_AHEAD = 4
"""Groups in flight per worker: enough that none waits for the sampler's next group."""
LARGEST_REWARD = 3.4028234663852886e38
"""Largest float32, in which trainers keep rewards; beyond it they are infinite there."""
CHECK_BATCH = 256
"""Prompts per message when the pool is asked whether they can be judged."""


class VerifierPool:
    """Grades groups in worker processes; a context manager.

    Args:
        spec: What `load_verifier` takes.
        num_workers: Worker processes, each with a verifier instance of its own.
        timeout_s: Time limit of one verifier call, and of each completion when it is repeated.
        start_timeout_s: Time limit for starting a worker and loading the verifier in it.

    Raises:
        VerifierError: On entering, when the verifier cannot be loaded; while grading, when a
            worker cannot be started again or a column cannot be sent.
    """

    def __init__(
        self,
        spec: str | Callable[..., Any],
        *,
        num_workers: int = 1,
        timeout_s: float = 10.0,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        if num_workers < 1:
            raise ConfigError("num_workers", num_workers, "at least 1 is needed")
        if not 0 < timeout_s < math.inf:
            raise ConfigError("timeout_s", timeout_s, "must be positive and finite")
        self.spec = parse_spec(spec)
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self._workers = [
            WorkerProcess(self.spec.text, start_timeout_s=start_timeout_s)
            for _ in range(num_workers)
        ]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._is_used = False
        self._verifier: LoadedVerifier | None = None

    @property
    def verifier(self) -> LoadedVerifier:
        """What is recorded of the verifier.

        Raises:
            VerifierError: The pool is not open.
        """
        if self._verifier is None:
            raise VerifierError("the verifier pool is not open; use it in a with statement")
        return self._verifier

    def __enter__(self) -> Self:
        if self._is_used:
            raise VerifierError("a verifier pool is opened once")
        self._is_used = True
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="rlrisk-verify")
        try:
            starts = [self._threads.submit(worker.start) for worker in self._workers]
            loaded = tuple(start.result() for start in starts)
            self._verifier = loaded[-1]
            for each in loaded:
                self._check_tier(each)
        except BaseException:
            self.close()
            raise
        for worker in self._workers:
            self._idle.put(worker)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all workers and whatever they started; idempotent."""
        threads, self._threads = self._threads, None
        for worker in self._workers:
            worker.stop()
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.kill()

    def grade(self, groups: Iterable[RolloutGroup]) -> Iterator[GradedGroup]:
        """Grade groups in their order.

        Groups are taken from ``groups`` ahead of what is yielded, at most `GROUPS_AHEAD` a
        worker, so that sampling and grading overlap.

        Args:
            groups: May be a generator that samples; it runs in the caller's thread.

        Yields:
            One graded group a group.

        Raises:
            SamplerError: ``groups`` raised it; what it gave before is graded and yielded first.
        """
        ahead: deque[tuple[RolloutGroup, Future[list[Grade]]]] = deque()
        stopped: SamplerError | None = None
        try:
            try:
                for group in groups:
                    ahead.append((group, self._submit(group)))
                    while ahead[0][1].done() or len(ahead) > GROUPS_AHEAD * self.num_workers:
                        yield _graded(*ahead.popleft())
                        if not ahead:
                            break
            except SamplerError as error:
                stopped = error
            while ahead:
                yield _graded(*ahead.popleft())
            if stopped is not None:
                raise stopped
        finally:
            for _, future in ahead:
                future.cancel()

    def grade_completions(self, prompt: Prompt, completions: Sequence[str]) -> list[Grade]:
        """Grade texts that no sampler drew, such as gold answers."""
        request = _request(prompt, completions)
        return self._submit_call(partial(self._grade_request, request=request)).result()

    def problems(self, prompts: Iterable[Prompt]) -> list[str | None]:
        """Why each prompt cannot be judged (no truth, a missing column); ``None`` where it can.

        Raises:
            VerifierError: The verifier cannot even be asked.
        """
        found: list[str | None] = []
        asked = [(prompt.truth, dict(prompt.columns)) for prompt in prompts]
        for start in range(0, len(asked), CHECK_BATCH):
            batch = asked[start : start + CHECK_BATCH]
            found += self._submit_call(partial(self._ask, batch=batch)).result()
        return found

    def _submit(self, group: RolloutGroup) -> "Future[list[Grade]]":
        wants_ids = self.verifier.wants_token_ids
        request = _request(
            group.prompt,
            [rollout.completion for rollout in group.rollouts],
            [_token_ids(rollout) for rollout in group.rollouts] if wants_ids else None,
        )
        return self._submit_call(partial(self._grade_request, request=request))

    def _submit_call(self, call: "Callable[[WorkerProcess], list[Any]]") -> "Future[list[Any]]":
        if self._threads is None:
            raise VerifierError("the verifier pool is not open; use it in a with statement")
        return self._threads.submit(self._with_worker, call)

    def _with_worker(self, call: "Callable[[WorkerProcess], list[Any]]") -> list[Any]:
        worker = self._idle.get_nowait()  # there are as many workers as threads
        try:
            return call(worker)
        finally:
            self._idle.put(worker)

    def _ask(self, worker: WorkerProcess, batch: list[Any]) -> list[str | None]:
        try:
            reply = self._call(worker, {"check": batch})
        except (WorkerTimeoutError, WorkerDiedError) as error:
            raise VerifierError(f"verifier {self.verifier.name}: {_why(error)}") from error
        if "problems" not in reply:
            raise VerifierError(f"verifier {self.verifier.name}: {reply['raised']}")
        problems: list[str | None] = reply["problems"]
        return problems

    def _grade_request(self, worker: WorkerProcess, request: dict[str, Any]) -> list[Grade]:
        size = len(request["completions"])
        if size == 0:
            return []
        try:
            reply = self._call(worker, {"verify": request})
        except WorkerTimeoutError:
            if size == 1:
                return [self._timed_out()]
        except WorkerDiedError:
            pass  # alone too: the machine may have been out of memory
        else:
            if "outcomes" in reply:
                return [_to_grade(*outcome) for outcome in reply["outcomes"]]
            if size == 1:
                return [Grade(status=GradeStatus.FAILED, reason=reply["raised"])]
        return [self._grade_alone(worker, _slice(request, index)) for index in range(size)]

    def _grade_alone(self, worker: WorkerProcess, request: dict[str, Any]) -> Grade:
        try:
            reply = self._call(worker, {"verify": request})
        except WorkerTimeoutError:
            return self._timed_out()
        except WorkerDiedError as error:
            return Grade(status=GradeStatus.FAILED, reason=str(error))
        if "outcomes" in reply:
            return _to_grade(*reply["outcomes"][0])
        return Grade(status=GradeStatus.FAILED, reason=reply["raised"])

    def _call(self, worker: WorkerProcess, message: dict[str, Any]) -> dict[str, Any]:
        if not worker.is_running:
            self._check_tier(worker.start())
        try:
            return worker.call(message, self.timeout_s)
        except (TypeError, ValueError) as error:
            raise VerifierError(f"{_culprit(message)} cannot be sent: {error}") from error

    def _check_tier(self, loaded: LoadedVerifier) -> None:
        """Hold every worker to one isolation: the report names the one that graded everything."""
        tier, other = self.verifier.judge_tier, loaded.judge_tier
        if tier != other:
            raise VerifierError(
                f"verifier {loaded.name}: workers judge in tier {tier} and in tier {other}; name "
                f"one that all of them have"
            )

    def _timed_out(self) -> Grade:
        reason = f"no answer within {self.timeout_s:g} s"
        return Grade(status=GradeStatus.TIMED_OUT, reason=reason)


def _request(
    prompt: Prompt, completions: Sequence[str], token_ids: list[list[int]] | None = None
) -> dict[str, Any]:
    return {
        "prompt": prompt.content if isinstance(prompt.content, str) else prompt.turns,
        "completions": list(completions),
        "truth": prompt.truth,
        "columns": dict(prompt.columns),
        "token_ids": token_ids,
    }


def _slice(request: dict[str, Any], index: int) -> dict[str, Any]:
    ids = request["token_ids"]
    return {
        **request,
        "completions": request["completions"][index : index + 1],
        "token_ids": None if ids is None else ids[index : index + 1],
    }


def _token_ids(rollout: Rollout) -> list[int]:
    return [int(token) for token in rollout.token_ids]


def _graded(group: RolloutGroup, future: "Future[list[Grade]]") -> GradedGroup:
    return GradedGroup(prompt=group.prompt, rollouts=group.rollouts, grades=tuple(future.result()))


def _to_grade(status: str, reward: float | None, reason: str | None, answer: str | None) -> Grade:
    if status == GradeStatus.SCORED and reward is not None:
        if not abs(reward) <= LARGEST_REWARD:
            reason = f"returned {reward!r}, no finite number in a trainer's float32"
            return Grade(status=GradeStatus.FAILED, reason=reason)
        return Grade(status=GradeStatus.SCORED, reward=float(reward), reason=reason, answer=answer)
    if status == GradeStatus.NOT_APPLICABLE:
        return Grade(status=GradeStatus.NOT_APPLICABLE, reason=reason or "not applicable")
    return Grade(status=GradeStatus.FAILED, reason=reason or "the verifier gave no reason")


def _culprit(message: dict[str, Any]) -> str:
    """The column of a message that is not plain data."""
    columns = message.get("verify", {}).get("columns", {})
    for name, value in columns.items():
        try:
            frames.encode(value)
        except (TypeError, ValueError):
            return f"column {name!r}"
    return "the truth or a column of a prompt"


def _why(error: Exception) -> str:
    return str(error) or "it does not answer"
