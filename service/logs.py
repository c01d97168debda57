"""One JSON object a line on standard error, with the request it belongs to."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from flask import g, has_request_context

_ENCODER = json.JSONEncoder(default=str)
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as JSON; values given as ``extra`` become keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if has_request_context() and "request_id" in g:
            line["request_id"] = g.request_id
        extra = vars(record).keys() - _KNOWN
        line |= {name: getattr(record, name) for name in sorted(extra)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def log_as_json(level: str) -> None:
    """Send the whole process's log to standard error as JSON.

    What a line does not show is not looked up for it (``Optimization`` in Python's logging howto).
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
    for noisy in ("urllib3", "alembic", "dbos", "mlflow"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
