"""What the page of a version shows beside its report: attestation, warnings, tags."""

import logging
import threading
from typing import Any

from cachetools import LRUCache
from markupsafe import Markup

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.sinks.html import render_body
from service.dashboard.page import own_figure
from service.problems import without_paths
from service.registry.gate_evidence import AttestationState
from service.registry.records import StoredReport, VersionRecord

logger = logging.getLogger(__name__)

MAX_BODIES = 32
_WORDS = {
    "none": "none",
    "unchecked": "not checked",
    "proven": "proven",
    "expired": "expired",
    "refused": "refused",
}
_SHOWN_ELSEWHERE = ("rlrisk.reasons", "rlrisk.next_steps", ATTESTATION_TAG)

_bodies: LRUCache[str, Markup] = LRUCache(MAX_BODIES)
_lock = threading.Lock()


def report_body(report: RiskReport) -> Markup | None:
    """The report as the page shows it; ``None`` where its values cannot be drawn.

    A stored report is foreign: one that parses may still hold counts that no rollouts could give.
    """
    digest = report.digest
    with _lock:
        if digest in _bodies:
            return _bodies[digest]
    try:
        body = own_figure(render_body(report))
    except Exception:  # whatever a foreign report breaks, the page has to say so
        logger.warning("report %s cannot be drawn", digest, exc_info=True)
        return None
    with _lock:
        _bodies[digest] = body
    return body


def attestation_values(state: AttestationState) -> dict[str, Any]:
    """The attestation in words and rows."""
    rows: list[tuple[str, str]] = []
    if (found := state.statement) is not None:
        rows = [
            ("Attested level", found.risk_level),
            ("Issued", found.issued_at),
            ("Expires", found.expires_at),
            ("Signed by", ", ".join(state.signers)),
            ("Policy", found.policy),
            ("Content (SHA-256)", found.content_digest),
            ("Report (SHA-256)", found.report_digest),
        ]
    sentence = without_paths(state.sentence)
    return {"state": state.state, "word": _WORDS[state.state], "sentence": sentence, "rows": rows}


def warnings(record: VersionRecord, stored: StoredReport, state: AttestationState) -> list[str]:
    """What does not fit together: tag and report, report and attestation."""
    report = stored.report
    if report is None:
        return []
    found = [stored.problem] if stored.problem else []
    if record.level is not None and record.level is not report.risk_level:
        found.append(
            f"The tag of the version says {record.level}, its stored report {report.risk_level}: "
            "one of them was changed."
        )
    if state.statement is not None and state.statement.report_digest != report.digest:
        found.append("The attestation is about another report than the one that is stored.")
    return found


def registry_tags(record: VersionRecord) -> list[tuple[str, str]]:
    """Tags that the page does not show in a better form."""
    return [
        (key, without_paths(value))
        for key, value in sorted(record.tags.items())
        if key not in _SHOWN_ELSEWHERE and value
    ]
