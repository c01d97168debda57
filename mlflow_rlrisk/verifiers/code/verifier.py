"""The code judge as the verifier ``code`` of an assessment.

``code`` or ``code:tier=B,timeout_s=5,memory_mb=512,lanes=1``. One judge a worker process: the fork
server hangs on a socket of the worker and ends with it, however the worker ends, so that the
pool's way of killing a worker leaves nothing behind.

A grade ``pass`` is a reward of 1, ``fail``, ``error``, ``timeout`` and ``resource`` are 0, and
``inconclusive`` is a failed verification: no reward at all.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers import ATTACK_NOTE, PROGRAM_NOTE, Outcome, VerificationRequest
from mlflow_rlrisk.verifiers.code.completions import program_of
from mlflow_rlrisk.verifiers.code.judge import CodeJudge
from mlflow_rlrisk.verifiers.code.judgement import CodeGrade, Judgement
from mlflow_rlrisk.verifiers.code.session import Limits
from mlflow_rlrisk.verifiers.code.tasks import CodeTask, task_of_row


def code(options: str = "") -> "CodeVerifier":
    """Programs are run in a sandbox against the cases of their prompt.

    Options: ``tier`` (auto), ``timeout_s`` (5), ``memory_mb`` (512), ``lanes`` (1).

    Raises:
        VerifierError: An unknown option, or no sandbox that could be proved.
    """
    return CodeVerifier(**_parsed(options))


class CodeVerifier:
    """Adapts `CodeJudge` to the `Verifier` protocol."""

    extracts_answers = False

    def __init__(
        self, tier: str = "auto", timeout_s: float = 5.0, memory_mb: int = 512, lanes: int = 1
    ) -> None:
        self.judge = CodeJudge(
            tier, limits=Limits(timeout_s=timeout_s, memory_mb=memory_mb), lanes=lanes
        )
        self.judge.__enter__()
        self.name = f"code (tier {self.judge.tier})"
        # "none" says in a signed statement that no code was run at all.
        self.judge_tier = "unsafe" if self.judge.tier == "none" else self.judge.tier
        if self.judge.tier == "none":
            self.name = "code (UNSAFE: tier none, no sandbox)"

    def problem_with(self, truth: Any, columns: Mapping[str, Any]) -> str | None:
        """Why the row has nothing to check a program against."""
        try:
            task_of_row(truth, columns)
        except VerifierError as error:
            return str(error)
        return None

    def verify(self, request: VerificationRequest) -> Sequence[Outcome]:
        """Run each completion; as many at once as there are lanes."""
        task = task_of_row(request.truth, request.columns)
        prompt = _text_of(request.prompt)
        with ThreadPoolExecutor(self.judge.lanes) as threads:
            return list(
                threads.map(
                    lambda completion: self._outcome(completion, prompt, task),
                    request.completions,
                )
            )

    def close(self) -> None:
        """End the sandbox; the end of the process does it too."""
        self.judge.close()

    def _outcome(self, completion: str, prompt: str, task: CodeTask) -> Outcome:
        program = program_of(completion, prompt, task.entry_point, is_script=bool(task.runs))
        if program is None:
            return Outcome(status="scored", reward=0.0, reason=f"{PROGRAM_NOTE}none")
        judgement = self.judge.grade(program, task)
        if judgement.grade is CodeGrade.INCONCLUSIVE:
            return Outcome(status="failed", reason=judgement.detail)
        return Outcome(
            status="scored",
            reward=float(judgement.grade is CodeGrade.PASS),
            reason=_note(judgement),
        )


def _note(judgement: Judgement) -> str:
    note = PROGRAM_NOTE + judgement.grade
    return note + ATTACK_NOTE + ", ".join(judgement.attacks) if judgement.attacks else note


def _parsed(options: str) -> dict[str, Any]:
    known = {"tier": str, "timeout_s": float, "memory_mb": int, "lanes": int}
    settings: dict[str, Any] = {}
    for part in filter(None, options.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in known:
            raise VerifierError(f"code:{options}: unknown option {name!r}; known: {list(known)}")
        try:
            settings[name.strip()] = known[name.strip()](value.strip())
        except ValueError as error:
            raise VerifierError(f"code:{options}: {name}={value!r} is no number") from error
    return settings


def _text_of(prompt: str | list[dict[str, str]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt)
