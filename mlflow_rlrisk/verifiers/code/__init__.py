"""The code judge: run unknown programs safely and grade them truthfully.

The tests stay here. A candidate runs in a sandboxed process, gets arguments, and returns plain
built-in values over a socket; this side compares. An exit status, an object with its own ``__eq__``
or a word on standard output therefore proves nothing, and there is nothing in the sandbox to steal.

Read `tasks` (what is checked), `judge` (the one class to use), `checks` (how a program is checked),
`sandbox_tiers` and `selftest` (what the walls are, and why they are believed), then `sandbox/`,
which is all that runs on the far side.
"""

from mlflow_rlrisk.errors import SandboxUnavailableError
from mlflow_rlrisk.verifiers.code.judge import CodeJudge
from mlflow_rlrisk.verifiers.code.judgement import Attack, CodeGrade, Judgement
from mlflow_rlrisk.verifiers.code.session import Limits
from mlflow_rlrisk.verifiers.code.tasks import CodeTask, read_task, task_of_row

__all__ = [
    "Attack",
    "CodeGrade",
    "CodeJudge",
    "CodeTask",
    "Judgement",
    "Limits",
    "SandboxUnavailableError",
    "read_task",
    "task_of_row",
]
