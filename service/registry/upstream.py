"""What a request asks of MLflow; an MLflow that is away is a problem document, not a crash."""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlflow_rlrisk import PromotionRefusedError, RLRiskError
from service.problems import Problem, without_paths
from service.registry.bounded_calls import LateError, bounded
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

logger = logging.getLogger(__name__)

RETRY: Mapping[str, str] = {"Retry-After": "30"}
WAITS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
_T = TypeVar("_T")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def point_mlflow(settings: ServiceSettings) -> "MlflowClient":
    """Set both addresses for the process; without the second MLflow probes for Spark."""
    import mlflow

    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.registry)
    _open_databases(settings.tracking_uri, settings.registry, settings.data_dir)
    return mlflow.MlflowClient(settings.tracking_uri, settings.registry)


@cache
def _open_databases(tracking_uri: str, registry_uri: str, data_dir: str) -> None:
    """Let MLflow make its tables, where it is no server that does so, in one process at a time.

    Of two that begin at once with an empty database MLflow's own migrations let one die.
    """
    import mlflow

    if tracking_uri.startswith("http") and registry_uri.startswith("http"):
        return
    folder = Path(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mlflow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mlflow.MlflowClient(tracking_uri, registry_uri)._get_registry_client()  # type: ignore[no-untyped-call]


@contextmanager
def mlflow_problems() -> Iterator[None]:
    """Turn what MLflow answers into ``not-found`` or ``upstream``.

    Raises:
        PromotionRefusedError: The registry's gate refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (Problem, RLRiskError):
        raise
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise Problem("not-found", without_paths(str(error.message))[:500]) from error
        if (refusal := _refusal(error)) is not None:
            raise refusal from error
        logger.warning("MLflow does not answer: %s", error)
        raise Problem("upstream", headers=RETRY) from error
    except Exception as error:
        logger.warning("MLflow answers nonsense: %s: %s", type(error).__name__, error)
        raise Problem("upstream", headers=RETRY) from error


def is_gone(error: Exception) -> bool:
    """Whether MLflow says that what it was asked about, or was to change, is not there any more."""
    from mlflow.exceptions import MlflowException

    cause = error if isinstance(error, MlflowException) else error.__cause__
    return isinstance(cause, MlflowException) and cause.error_code == "RESOURCE_DOES_NOT_EXIST"


class AwayError(Exception):
    """MLflow did not answer as it should; the argument says what it did. Later it may."""


@contextmanager
def mlflow_may_be_away() -> Iterator[None]:
    """Tell an MLflow that has a thing not from one that is away or talks nonsense.

    Raises:
        AwayError: The latter. What MLflow says of the thing itself passes.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (RLRiskError, MlflowException) as error:
        cause = error if isinstance(error, MlflowException) else error.__cause__
        if isinstance(cause, MlflowException) and not _is_about_the_thing(cause):
            raise AwayError(str(cause.message)) from error
        raise
    except OSError as error:  # those of `requests` have no number; others are of this machine
        if error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            raise
        raise AwayError(str(error)) from error
    except Exception as error:  # a body of another kind fails anywhere in MLflow's client
        raise AwayError(f"it talks nonsense: {type(error).__name__}: {error}") from error


def _refusal(error: "MlflowException") -> PromotionRefusedError | None:
    """What the registry's gate decided, if it did; of one that cannot decide more can be hoped."""
    found = PromotionRefusedError.told_by(error)
    return None if found is None or found.reason == "undecided" else found


def _is_about_the_thing(error: "MlflowException") -> bool:
    """Whether MLflow itself refuses; a page that is missing says the same, but in no JSON."""
    if _refusal(error) is not None:
        return True
    is_page = error.message.startswith("API request to ") and not hasattr(error, "json")
    return error.error_code in _ABSENT and not is_page


def in_time(
    call: Callable[[], _T], limit_s: float, *, keep_waiting: Callable[[], None] = lambda: None
) -> _T:
    """What ``call`` gives, as `bounded` has it, told as `mlflow_may_be_away` does.

    Args:
        call: Asks MLflow once.
        limit_s: For the whole of it, retries included.
        keep_waiting: Called every second; what it raises ends the wait.

    Raises:
        AwayError: It was late, too many that were are still under way, or as
            `mlflow_may_be_away` says. What MLflow says of the thing itself passes.
    """

    def ask() -> _T:
        with mlflow_may_be_away():
            return call()

    try:
        return bounded(ask, limit_s, keep_waiting=keep_waiting)
    except LateError as error:
        raise AwayError(str(error)) from error


def wait_briefly() -> None:
    """Let a request wait seconds for MLflow; its own limits are minutes. What is set stays."""
    for name, value in WAITS.items():
        os.environ.setdefault(name, value)
