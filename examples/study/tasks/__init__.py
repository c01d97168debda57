"""The three tasks by name."""

from examples.study.tasks.chains import TASK as CHAINS
from examples.study.tasks.rewriting import TASK as REWRITING
from examples.study.tasks.stack import TASK as STACK
from examples.study.tasks.walks import WalkTask

TASKS: dict[str, WalkTask] = {task.name: task for task in (CHAINS, STACK, REWRITING)}
