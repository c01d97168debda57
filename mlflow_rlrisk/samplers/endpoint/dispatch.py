"""Many requests in flight, answers in the order in which they come."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from mlflow_rlrisk.errors import SamplerError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_flight(
    call: Callable[[Task], Result], tasks: Iterable[Task], concurrency: int
) -> Generator[tuple[Task, Result | SamplerError], None, None]:
    """Call ``call`` on every task in threads of its own; yields what came of each.

    A `SamplerError` is a result like any other: the caller decides whether to go on. Tasks are
    taken as there is room, so that leaving the loop early starts no further one; those under way
    are waited for, and the caller makes them end.

    Args:
        call: Thread-safe.
        tasks: Taken in order.
        concurrency: Calls at a time.
    """
    waiting = iter(tasks)
    running: dict[Future[Result], Task] = {}
    with ThreadPoolExecutor(concurrency, thread_name_prefix="rlrisk-endpoint") as threads:
        while True:
            for task in islice(waiting, concurrency - len(running)):
                running[threads.submit(call, task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                error = future.exception()
                if isinstance(error, SamplerError):
                    yield task, error
                else:
                    yield task, future.result()
