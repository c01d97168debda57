"""What the registry says of a version at this moment: no decision to promote rests on memory.

Every answer comes of a reading that began after it was asked for, or at most ``max_age_s`` before
where the operator allows that. Whoever asks the same while a reading is under way waits for the
following one and shares it, so that many callers cost the registry one reading at a time. A
registry in a SQLite file is read again only after somebody wrote to it. A registry that does not
answer in `ANSWER_LIMIT_S`, or answers nonsense, is an error for everybody who waited for it.
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from mlflow_rlrisk import PromotionRefusedError
from service.problems import Problem
from service.registry.bounded_calls import bounded
from service.registry.upstream import mlflow_problems
from service.settings import ServiceSettings
from service.unchanged import MAX_KEPT, Unchanged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ANSWER_LIMIT_S = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A registered version as it stands.

    Attributes:
        is_ready: MLflow counts it as ready.
        source: Where its files lie.
        run_id: The run that logged it, if any.
        created_at: Seconds since the epoch, by the registry's clock.
    """

    is_ready: bool
    source: str
    run_id: str | None
    created_at: float


class RegistryStanding:
    """Asks one registry."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._unchanged = Unchanged(_database(settings.registry))
        is_watched = self._unchanged.is_watched
        self._shared = _SharedReadings(0.0 if is_watched else settings.decision_max_age_s)
        self._client: MlflowClient | None = None
        self._lock = threading.Lock()

    def of(self, name: str, version: str) -> Standing | None:
        """The version, or ``None`` where there is none.

        Raises:
            Problem: ``upstream``.
        """

        def read() -> Standing | None:
            try:
                found = self._asked(
                    lambda client: client.get_model_version(name, version), name, version
                )
            except Problem as problem:
                if problem.slug == "not-found":
                    return None
                raise
            return Standing(
                is_ready=found.status == "READY",
                source=found.source or "",
                run_id=found.run_id or None,
                created_at=found.creation_timestamp / 1000,
            )

        return self._current(("version", name, version), read)

    def version_of_alias(self, name: str, alias: str) -> str:
        """The version that an alias names.

        Raises:
            Problem: ``not-found`` or ``upstream``.
            PromotionRefusedError: The registry's gate does not hand it out.
        """

        def read() -> str:
            found = self._asked(lambda client: client.get_model_version_by_alias(name, alias), name)
            return str(found.version)

        return self._current(("alias", name, alias), read)

    def _current(self, key: Hashable, read: Callable[[], _T]) -> _T:
        return self._unchanged.get(key, lambda: self._shared.get(key, read))

    def _asked(
        self, ask: "Callable[[MlflowClient], ModelVersion]", name: str, version: str | None = None
    ) -> "ModelVersion":
        with mlflow_problems():
            found = self._in_time(ask)
            number = str(found.version)
            if found.name != name or not number.isdigit() or version not in (None, number):
                raise ValueError(f"asked for {name} {version}, got {found.name} {number}")
            return found

    def _in_time(self, ask: "Callable[[MlflowClient], ModelVersion]") -> "ModelVersion":
        if self._unchanged.is_watched:  # no network: a thread more would only cost
            return ask(self._own_client())
        return bounded(lambda: ask(self._own_client()), ANSWER_LIMIT_S)

    def _own_client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        with self._lock:
            if self._client is None:
                self._client = MlflowClient(self._settings.tracking_uri, self._settings.registry)
            return self._client


class _Reading:
    """The last reading of one thing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = float("-inf")
        self.value: Any = None
        self.problem: Problem | PromotionRefusedError | None = None


class _SharedReadings:
    """One reading at a time of each thing, shared by those who asked before it began."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._readings: dict[Hashable, _Reading] = {}

    def get(self, key: Hashable, read: Callable[[], _T]) -> _T:
        """What `read` gives; a failure is shared like a value and never kept beyond that."""
        asked = time.monotonic()
        with self._lock:
            if len(self._readings) >= MAX_KEPT:
                self._readings.clear()
            reading = self._readings.setdefault(key, _Reading())
        with reading.lock:
            oldest = asked if reading.problem is not None else asked - self._max_age_s
            if reading.began < oldest:
                _read(reading, read)
            if reading.problem is not None:
                raise reading.problem
            value: _T = reading.value
            return value


def _read(reading: _Reading, read: Callable[[], Any]) -> None:
    reading.began = time.monotonic()
    reading.value, reading.problem = None, None
    try:
        reading.value = read()
    except (Problem, PromotionRefusedError) as problem:
        reading.problem = problem


def _database(address: str) -> sa.URL:
    """The address without the gate's prefix; one that SQLAlchemy does not know is never watched."""
    return sa.make_url(address.removeprefix("rlrisk+") if "://" in address else "none://")
