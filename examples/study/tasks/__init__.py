"""The tasks by name: three walks, and two whose answers are choices."""

from typing import Any

from examples.study.tasks.arranging import TASK as ARRANGING
from examples.study.tasks.base import Task
from examples.study.tasks.chains import TASK as CHAINS
from examples.study.tasks.latin import TASK as LATIN
from examples.study.tasks.rewriting import TASK as REWRITING
from examples.study.tasks.stack import TASK as STACK
from examples.study.tasks.walks import WalkTask

WALKS: dict[str, WalkTask] = {task.name: task for task in (CHAINS, STACK, REWRITING)}
TASKS: dict[str, Task[Any]] = {**WALKS, LATIN.name: LATIN, ARRANGING.name: ARRANGING}
