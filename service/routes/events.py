"""Progress as server-sent events: the assessment again whenever it changed, until its end.

A stream holds a thread for as long as it is open, so that there is room for some of them only: the
other threads answer everybody else.
"""

import threading
import time
from collections.abc import Iterator

from flask import Blueprint
from werkzeug.wrappers import Response

from service.auth import dependencies, requires
from service.openapi import API
from service.problems import Problem
from service.routes.assessments import visible
from service.schemas import AssessmentView
from service.streams import stopping
from service.tables.assessments import AssessmentTable
from service.tables.tokens import Scope

POLL_S = 0.5
BEAT_S = 5.0
"""A comment this often keeps proxies from closing a silent connection, and finds out who left."""
RETRY_S = 10
MAX_S = 600.0
"""Then the stream ends; a browser's EventSource comes again by itself."""


def blueprint(max_streams: int) -> Blueprint:
    """The stream of one assessment; ``max_streams`` of them at once in this process."""
    routes = Blueprint("events", __name__, url_prefix="/v1/assessments")
    room = threading.BoundedSemaphore(max_streams)

    @routes.get("/<assessment_id>/events")
    @requires(Scope.READ)
    @API.validate(tags=["assessments"])
    def stream(assessment_id: str) -> Response:
        """Events named ``progress``, at the end one named ``done``; data as of the assessment."""
        found = visible(assessment_id)
        if not room.acquire(blocking=False):
            retry = {"Retry-After": str(RETRY_S)}
            raise Problem("quota", "too many streams are open: poll the assessment", headers=retry)
        # spectree reads a response of Flask's own class to its end before anything leaves.
        answer = Response(_events(dependencies().jobs, found.id), mimetype="text/event-stream")
        answer.call_on_close(room.release)
        answer.headers["X-Accel-Buffering"] = "no"
        return answer

    return routes


def _events(jobs: AssessmentTable, assessment_id: str) -> Iterator[str]:
    said, last_beat = "", time.monotonic()
    end = last_beat + MAX_S
    while time.monotonic() < end and not stopping.is_set():
        found = jobs.find(assessment_id)
        if found is None:
            return
        data = AssessmentView.of(found).model_dump_json()
        if data != said:
            said, last_beat = data, time.monotonic()
            yield f"event: {'done' if found.state.is_final else 'progress'}\ndata: {data}\n\n"
        if found.state.is_final:
            return
        if time.monotonic() - last_beat > BEAT_S:
            last_beat = time.monotonic()
            yield ": still here\n\n"
        stopping.wait(POLL_S)
