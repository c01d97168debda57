"""The tasks by name: three walks, and twenty-nine whose answers are choices."""

from typing import Any

from examples.study.tasks.arranging import TASK as ARRANGING
from examples.study.tasks.balancing import TASK as BALANCING
from examples.study.tasks.base import Task
from examples.study.tasks.booking import TASK as BOOKING
from examples.study.tasks.brackets import TASK as BRACKETS
from examples.study.tasks.chains import TASK as CHAINS
from examples.study.tasks.choices import ChoiceTask
from examples.study.tasks.climbing import TASK as CLIMBING
from examples.study.tasks.coloring import TASK as COLORING
from examples.study.tasks.covering import TASK as COVERING
from examples.study.tasks.dividing import TASK as DIVIDING
from examples.study.tasks.guarding import TASK as GUARDING
from examples.study.tasks.hiding import TASK as HIDING
from examples.study.tasks.hiking import TASK as HIKING
from examples.study.tasks.latin import TASK as LATIN
from examples.study.tasks.multiplying import TASK as MULTIPLYING
from examples.study.tasks.packing import TASK as PACKING
from examples.study.tasks.parking import TASK as PARKING
from examples.study.tasks.paying import TASK as PAYING
from examples.study.tasks.queueing import TASK as QUEUEING
from examples.study.tasks.rewriting import TASK as REWRITING
from examples.study.tasks.seating import TASK as SEATING
from examples.study.tasks.sharing import TASK as SHARING
from examples.study.tasks.sorting import TASK as SORTING
from examples.study.tasks.stack import TASK as STACK
from examples.study.tasks.summing import TASK as SUMMING
from examples.study.tasks.swapping import TASK as SWAPPING
from examples.study.tasks.swinging import TASK as SWINGING
from examples.study.tasks.tiling import TASK as TILING
from examples.study.tasks.tracing import TASK as TRACING
from examples.study.tasks.translating import TASK as TRANSLATING
from examples.study.tasks.turning import TASK as TURNING
from examples.study.tasks.walks import WalkTask
from examples.study.tasks.weaving import TASK as WEAVING
from examples.study.tasks.weighing import TASK as WEIGHING

WALKS: dict[str, WalkTask] = {task.name: task for task in (CHAINS, STACK, REWRITING)}
CHOICES: dict[str, ChoiceTask[Any]] = {
    task.name: task
    for task in (
        LATIN,
        ARRANGING,
        COLORING,
        PAYING,
        BRACKETS,
        SEATING,
        BOOKING,
        WEAVING,
        WEIGHING,
        TURNING,
        GUARDING,
        HIKING,
        QUEUEING,
        SHARING,
        CLIMBING,
        TILING,
        COVERING,
        SWAPPING,
        PACKING,
        SWINGING,
        TRACING,
        DIVIDING,
        BALANCING,
        HIDING,
        PARKING,
        SORTING,
        TRANSLATING,
        SUMMING,
        MULTIPLYING,
    )
}
TASKS: dict[str, Task[Any]] = {**WALKS, **CHOICES}
