"""Follows what webhooks told and looks for what they did not, in one worker at a time.

MLflow keeps undelivered webhooks in memory and gives up after a few seconds, so every event may be
lost. The look asks what is there: versions made since the last one, holders of aliases, carriers
of tags; page by page, so that a registry of any size is read in bounded pieces.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache
from sqlalchemy.exc import SQLAlchemyError

from service.commit_points import CommitPoint, reached
from service.problems import Problem
from service.registry.bounded_calls import timed
from service.registry.upstream import point_mlflow
from service.settings import ServiceSettings
from service.tables.assessment_rows import QueueFullError
from service.tables.assessments import AssessmentTable
from service.tables.deliveries import DeliveryTable, Hint
from service.tables.poller_state import PollerState
from service.triggering.registration import tell_state
from service.triggering.triggers import load_triggers, start
from service.triggering.webhooks import CREATED

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

TICK_S = 0.5
REST_S = 5.0
"""After a turn that failed: MLflow was away, or the queue is full."""
PAGE = 200
MAX_HINTS = 50
OVERLAP_MS = 10 * 60 * 1000
"""Looked at again each time: clocks differ, and a version may be committed late."""
SETTLED_S = 600.0
MAX_SETTLED = 50_000


class _LostTurnError(Exception):
    """Another worker looks; what was not seen yet is its to see."""


class Poller:
    """Looks at one registry for one worker."""

    def __init__(self, settings: ServiceSettings, jobs: AssessmentTable, name: str) -> None:
        """Bind to a registry.

        Raises:
            ConfigError: A trigger is unusable.
        """
        self._settings, self._jobs = settings, jobs
        self._triggers = load_triggers(settings)
        self._state = PollerState(jobs.engine, name)
        self._deliveries = DeliveryTable(jobs.engine)
        self._client = timed(point_mlflow(settings))
        self._look_at = self._rest_until = 0.0
        self._settled: TTLCache[tuple[str, ...], bool] = TTLCache(MAX_SETTLED, SETTLED_S)
        """Triggers and versions, or versions and aliases, that need no second thought."""

    def run(self, wait: Callable[[float], bool]) -> None:
        """Look until ``wait`` returns true; without triggers there is nothing to look for."""
        tell_state(self._settings)
        while self._triggers and not wait(TICK_S):
            self.turn()

    def turn(self) -> None:
        """Follow the hints that wait, and look where it is due; what fails is tried again."""
        from mlflow.exceptions import MlflowException

        try:
            if time.monotonic() < self._rest_until or not self._state.is_mine():
                return
            self._rest_until = time.monotonic() + REST_S  # unless all goes well
            for hint in self._deliveries.waiting(MAX_HINTS):
                self._follow(hint)
                reached(CommitPoint.HINT_FOLLOWED)
                self._deliveries.handled(hint.id)
                reached(CommitPoint.HINT_HANDLED)
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + self._settings.poll_interval_s
                self.look()
            self._rest_until = 0.0
        except _LostTurnError:
            logger.info("another worker looks at the registry")
        except QueueFullError:
            logger.warning("versions wait for their assessment: too many are open")
        except (SQLAlchemyError, MlflowException, OSError) as error:
            logger.warning("the registry is looked at again later: %s", error)
        except Exception:  # a fault of ours must not end the looking for good
            logger.exception("looking at the registry failed")

    def look(self) -> None:
        """Start what the registry holds and no webhook told of."""
        looked_until = time.time_ns() // 1_000_000
        if any(trigger.settings.created for trigger in self._triggers):
            looked_until = self._look_at_new(looked_until)
        for name, number in self._alias_holders():
            self._visit(name, number, is_new=False)
        for version in self._tag_carriers():
            self._consider(version, (), is_new=False)
        reached(CommitPoint.REGISTRY_LOOKED)
        self._state.looked_until(looked_until)
        reached(CommitPoint.WATERMARK_RAISED)
        self._deliveries.forget_old()

    def _follow(self, hint: Hint) -> None:
        is_new = hint.event == CREATED
        self._visit(hint.model, hint.version, is_new=is_new, delivery_id=hint.id)

    def _visit(
        self, name: str, number: str, *, is_new: bool, delivery_id: str | None = None
    ) -> None:
        """Read a version and its aliases anew, then consider it."""
        from mlflow.exceptions import MlflowException

        try:
            version = self._client.get_model_version(name, number)
            aliases = self._client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.get_http_status_code() >= 500:  # type: ignore[no-untyped-call]
                raise
            logger.info("%s/%s is not looked at: %s", name, number, error.error_code)
            return  # deleted meanwhile, out of our reach, or the example of MLflow's own test
        held = tuple(each for each, at in aliases.items() if str(at) == str(version.version))
        self._consider(version, held, is_new=is_new, delivery_id=delivery_id)

    def _consider(
        self,
        version: "ModelVersion",
        aliases: tuple[str, ...],
        *,
        is_new: bool,
        delivery_id: str | None = None,
    ) -> None:
        """Start what the triggers want of a version; what was settled is not asked again."""
        about = f"{version.name}/{version.version}"
        for trigger in self._triggers:
            cause = trigger.cause(version, aliases, is_new=is_new)
            settled = (trigger.name, about, f"{version.creation_timestamp} {version.source}")
            if cause is None or settled in self._settled:
                continue
            try:
                job, is_started = start(
                    self._jobs, self._settings, trigger, version, cause, delivery_id
                )
            except Problem as problem:
                logger.warning("%s is not assessed: %s", about, problem.detail)
            else:
                if is_started:
                    logger.info("%s: trigger %s starts %s", about, trigger.name, job.id)
            self._settled[settled] = True

    def _look_at_new(self, now: int) -> int:
        """Consider what was made since the last look; returns until when that is done with.

        By the registry's clock where ours is ahead of it: what it makes then looks old to us.
        """
        watermark, until = self._state.watermark(), now
        oldest = (now if watermark is None else min(watermark, now)) - OVERLAP_MS
        for number, version in enumerate(self._versions(None, ["creation_timestamp DESC"])):
            if number == 0:
                until = min(now, version.creation_timestamp)
            if version.creation_timestamp < oldest:
                break
            self._consider(version, (), is_new=True)
        return until

    def _tag_carriers(self) -> Iterator["ModelVersion"]:
        keys = {key for trigger in self._triggers for key in trigger.settings.tags}
        for key in sorted(keys):
            yield from self._versions(f"tags.`{key}` LIKE '%'", None)

    def _alias_holders(self) -> Iterator[tuple[str, str]]:
        """Versions that hold an alias of a trigger; one that did a while ago not again."""
        if not any(trigger.settings.aliases for trigger in self._triggers):
            return
        for model in self._pages(self._client.search_registered_models, order_by=["name"]):
            for alias, number in (model.aliases or {}).items():
                held = (model.name, alias, str(number))
                fits = any(
                    alias in trigger.settings.aliases and trigger.names(model.name)
                    for trigger in self._triggers
                )
                if fits and held not in self._settled:
                    yield model.name, str(number)
                    self._settled[held] = True

    def _versions(self, query: str | None, order: list[str] | None) -> Iterator["ModelVersion"]:
        yield from self._pages(
            self._client.search_model_versions, filter_string=query, order_by=order
        )

    def _pages(self, search: Callable[..., Any], **asked: Any) -> Iterator[Any]:
        token = None
        while True:
            if not self._state.is_mine():
                raise _LostTurnError
            page = search(max_results=PAGE, page_token=token, **asked)
            yield from page
            if not (token := page.token):
                return
