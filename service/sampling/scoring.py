"""One assessment from its row to its report: pin the model, fetch it, sample it, keep the report.

Whatever happens ends in the row. A death of this process leaves the row ``running`` and the
shards on disk; the next attempt goes on from them.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from mlflow_rlrisk import (
    ConfigError,
    ModelReferenceError,
    ModelSource,
    RiskReport,
    decide,
    resolve_reference,
)
from service.commit_points import CommitPoint, reached
from service.problems import without_paths
from service.registry.bounded_calls import call_limit_s
from service.registry.references import has_links, refusal_of_source, version_of
from service.registry.upstream import AwayError, in_time, point_mlflow
from service.sampling.child import DISK_FULL, NO_ROOM, OUT_OF_MEMORY
from service.sampling.gpu_claim import Claim, claimed
from service.sampling.intake import IntakeError, fetch
from service.sampling.process import (
    ChildLostError,
    StoppedError,
    WallLimitError,
    forget,
    free_memory_bytes,
    run_child,
)
from service.settings import ServiceSettings
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable

logger = logging.getLogger(__name__)

MAX_HALVINGS = 2
"""Times that the batch is halved where memory ran out."""
MAX_DETAIL = 2000
PROGRESS_S = 0.5
CHECK_S = 1.0
_ORIGIN = ("registered_name", "version", "model_id", "run_id")


class RefusedError(Exception):
    """The model is not taken; the assessment fails with a slug and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail


class Scorer:
    """Runs assessments for a worker."""

    def __init__(
        self, jobs: AssessmentTable, settings: ServiceSettings, is_stopping: Callable[[], bool]
    ) -> None:
        self._jobs, self._settings, self._is_stopping = jobs, settings, is_stopping
        self._waiting_since: dict[str, float] = {}
        """By `time.monotonic`: the row has times of a clock that may be set."""

    def score(self, assessment_id: str) -> bool:
        """Bring an assessment to its end.

        Returns:
            False where the attempt ended with nothing and another one is due.
        """
        job = None
        try:
            job = self._jobs.begin(assessment_id, max_attempts=self._settings.limits.max_attempts)
            reached(CommitPoint.ATTEMPT_BEGUN)
            if job is None or self._attempt(job):
                self._clear(assessment_id)
                return True
            return False
        except SQLAlchemyError as error:  # locked, full or away
            logger.error("%s waits for the database: %s", assessment_id, error)
            if job is not None:
                with contextlib.suppress(SQLAlchemyError):
                    self._jobs.put_back(job.id, job.fence)
            return False

    def _clear(self, assessment_id: str) -> None:
        """Remove the files of one that was cancelled or failed; nobody needs them any more."""
        found = self._jobs.find(assessment_id)
        if found is None or found.state is not State.QUEUED:
            self._waiting_since.pop(assessment_id, None)
        if found is not None and found.state in (State.CANCELLED, State.FAILED):
            forget(self.folder(assessment_id))

    def _attempt(self, job: Assessment) -> bool:
        try:
            return self._keep(job, self._sample(job))
        except StoppedError:
            if not self._is_stopping():
                return True
            self._jobs.put_back(job.id, job.fence)
            return False
        except AwayError as error:
            return self._put_off(job, "wait for MLflow", "upstream", str(error))
        except OSError as error:
            if error.errno not in NO_ROOM:
                logger.warning("%s: %s", job.id, error)
                return False
            return self._put_off(job, "wait for room", "disk_full", str(error))
        except ChildLostError as error:
            logger.warning("%s: %s", job.id, error)
            return False
        except WallLimitError:
            limit = f"it ran longer than {self._settings.limits.wall_s:g} s"
            return self._fail(job, "wall_limit", limit)
        except RefusedError as error:
            return self._fail(job, error.code, error.detail)
        except ConfigError as error:
            return self._fail(job, error.code, _shown(str(error)))
        except SQLAlchemyError:
            raise
        except Exception:  # a fault of ours must not leave the row running for ever
            logger.exception("%s failed", job.id)
            return self._fail(job, "internal", "the service failed; its log says how")

    def _put_off(self, job: Assessment, stage: str, code: str, why: str) -> bool:
        """Give the turn to others until what is missing is there, for as long as it may take."""
        logger.warning("%s: %s: %s", job.id, stage, why)
        limit_s = self._settings.limits.wall_s
        now = time.monotonic()
        if now - self._waiting_since.setdefault(job.id, now) > limit_s:
            return self._fail(job, code, f"waited longer than {limit_s:g} s: {_shown(why)}")
        self._jobs.put_back(job.id, job.fence, state=State.QUEUED, stage=stage)
        return True

    def folder(self, assessment_id: str) -> Path:
        """Where shards and download of an assessment are."""
        return Path(self._settings.data_dir, "assessments", assessment_id)

    def _sample(self, job: Assessment) -> dict[str, Any]:
        folder = self.folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_room(folder)
        self._tell(job, stage="fetch")
        path, origin = self._fetched(job, folder)
        reached(CommitPoint.MODEL_FETCHED)
        self._wait_for_memory(job)
        task = self._task(job, path, origin)

        def keep_waiting() -> None:
            self._tell(job, stage="wait for a GPU")

        with claimed(self._settings.base_config(), keep_waiting=keep_waiting) as claim:
            return self._sample_within_memory(job, folder, task, claim)

    def _sample_within_memory(
        self, job: Assessment, folder: Path, task: dict[str, Any], claim: Claim
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(1 + MAX_HALVINGS):
            on_line = _Listener(self, job)
            result = run_child(folder, task, self._settings, claim=claim, on_line=on_line)
            if result.get("error", {}).get("code") != OUT_OF_MEMORY:
                break
            task["config"]["batch_size"] = max(1, task["config"]["batch_size"] // 2)
        return result

    def _fetched(self, job: Assessment, folder: Path) -> tuple[Path, dict[str, Any]]:
        """The checkpoint as a local folder that passed the intake, and where it is from."""
        point_mlflow(self._settings)
        pinned = None if job.pinned is None else str(job.pinned["reference"])
        reference = pinned or str(job.request["model"])
        try:
            source = in_time(
                lambda: resolve_reference(reference),
                call_limit_s(),
                keep_waiting=lambda: self._tell(job, stage="fetch"),
            )
        except ModelReferenceError as error:
            raise RefusedError("invalid_model", _shown(str(error))) from error
        if version_of(reference) not in (None, (source.registered_name, source.version)):
            raise AwayError("it answers with another version")
        if (why := refusal_of_source(source, self._settings)) is not None:
            raise RefusedError("model_uri_refused", why)
        if pinned is None:
            self._pin(job, source)
        path = source.local_path or self._download(job, source, folder / "model")
        if has_links(path):
            raise RefusedError("checkpoint_refused", "the checkpoint has links or special files")
        origin = {name: getattr(source, name) for name in _ORIGIN}
        return path, origin | {"model_reference": pinned or _reference(job, source)}

    def _pin(self, job: Assessment, source: ModelSource) -> None:
        """Resolve an alias once: later attempts assess the same version."""
        pinned = {"reference": _reference(job, source)}
        self._tell(
            job,
            pinned=pinned,
            model_name=source.registered_name,
            model_version=source.version,
        )
        reached(CommitPoint.MODEL_PINNED)

    def _download(self, job: Assessment, source: ModelSource, folder: Path) -> Path:
        allowed = self._settings.base_config().allow_pickle
        limits = self._settings.limits
        try:
            return fetch(
                source,
                folder,
                limits=limits,
                is_pickle_allowed=allowed,
                keep_waiting=lambda: self._tell(job, stage="fetch"),
            )
        except (IntakeError, ModelReferenceError) as error:
            raise RefusedError(error.code, _shown(str(error))) from error

    def _check_room(self, folder: Path) -> None:
        """See that there is room for shards, before work is done that would be lost.

        Raises:
            OSError: There is not.
        """
        free, least = shutil.disk_usage(folder).free, self._settings.limits.min_free_disk_bytes
        if free < least:
            raise OSError(errno.ENOSPC, f"{free} bytes are free, {least} are needed")

    def _wait_for_memory(self, job: Assessment) -> None:
        least = self._settings.limits.min_free_memory_bytes
        while (free := free_memory_bytes()) is not None and free < least:
            self._tell(job, stage="wait for memory")
            time.sleep(CHECK_S)

    def _task(self, job: Assessment, path: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
        request, settings = job.request, self._settings
        prompts = settings.prompt_sets[request["prompt_set"]]
        run = settings.lookahead(request.get("lookahead"))
        config = settings.base_config().model_dump(mode="json")
        config |= {"sampling": request["sampling"], "group_size": request["group_size"]}
        return {
            "model_path": str(path),
            "origin": dict(origin),
            "prompts": prompts.path,
            "mapping": prompts.mapping,
            "verifier": settings.verifiers[request["verifier"]],
            "config": config,
            "policy": settings.policy(request["policy"]).model_dump(mode="json"),
            "lookahead": None if run is None else run.model_dump(mode="json"),
        }

    def _keep(self, job: Assessment, result: Mapping[str, Any]) -> bool:
        if "error" in result:
            error = result["error"]
            if error["code"] == DISK_FULL:
                raise OSError(errno.ENOSPC, error["message"])
            logger.warning("%s failed: %s", job.id, error["message"])
            return self._fail(job, error["code"], _shown(error["message"]))
        report = RiskReport.from_dict(result["report"])
        reached(CommitPoint.REPORT_UNCOMMITTED)
        self._jobs.finish(
            job.id,
            job.fence,
            State.SUCCEEDED,
            report=report.to_json(),
            risk_level=str(report.risk_level),
            outcome=str(decide(report, report.policy).outcome),
        )
        reached(CommitPoint.REPORT_COMMITTED)
        return True

    def _fail(self, job: Assessment, code: str, detail: str) -> bool:
        self._jobs.finish(
            job.id, job.fence, State.FAILED, error_code=code, error_detail=detail[:MAX_DETAIL]
        )
        return True

    def _tell(self, job: Assessment, **values: Any) -> None:
        """Write to the row; the attempt ends where the row is no longer ours."""
        if self._is_stopping() or not self._jobs.update(job.id, job.fence, **values):
            raise StoppedError


class _Listener:
    """Carries lines of the sampling process into the row, seldom enough for a small database."""

    def __init__(self, scorer: Scorer, job: Assessment) -> None:
        self._scorer, self._job = scorer, job
        self._pending: dict[str, Any] = {}
        self._last = 0.0
        self._num_done = (job.progress or {}).get("num_prompts_done", 0)

    def __call__(self, line: dict[str, Any]) -> bool:
        self._pending |= line
        is_due = time.monotonic() - self._last > PROGRESS_S
        if "stage" not in line and not is_due:
            return True
        self._last = time.monotonic()
        values, self._pending = self._pending, {}
        progress = values.get("progress")
        if progress is not None:
            num_done = progress["num_prompts_done"]
            if num_done > self._num_done:  # what an earlier attempt stored is told again
                self._num_done = num_done
                values["attempts"] = 0
        try:
            self._scorer._tell(self._job, **values)
        except StoppedError:
            return False
        except SQLAlchemyError as error:  # what was sampled so far is worth more than being told
            logger.warning("%s: its progress is not stored: %s", self._job.id, error)
            self._pending = values | self._pending
        return True


def _reference(job: Assessment, source: ModelSource) -> str:
    if source.registered_name is not None and source.version is not None:
        return f"models:/{source.registered_name}/{source.version}"
    return str(job.request["model"])


def _shown(message: str) -> str:
    """The message for a caller: without paths of this machine."""
    return without_paths(message.replace(os.getcwd(), "<path>"))[:MAX_DETAIL]
