"""What the page of assessments shows of each: state, progress, time left."""

from typing import Any

from mlflow_rlrisk.sinks.wording import estimate
from service.schemas import AssessmentView
from service.tables.assessment_rows import Assessment


def job_row(row: Assessment) -> dict[str, Any]:
    """One row of the table; a value that is not known yet is a dash."""
    view = AssessmentView.of(row)
    progress = view.progress
    done = progress.num_samples_done if progress else 0
    total = progress.num_samples if progress else None
    is_running = view.state == "running"
    return {
        "id": view.id,
        "model": view.pinned or view.model,
        "link": (row.model_name, row.model_version) if view.pinned else None,
        "state": view.state,
        "stage": "" if view.stage in (view.state, "done") else view.stage,  # the state says more
        "level": view.risk_level,
        "why": _why(view),
        "done": min(done, total) if total else done,
        "total": total if is_running else None,
        "percent": f"{100 * done / total:.0f}" if total else "",
        "progress": f"{done:,} of {total:,} samples" if total else "",
        "pass_at_1": _figure(progress.pass_at_1 if progress else None),
        "speed": _whole(progress.tokens_per_s if progress else None),
        "left": _duration(progress.eta_s if progress and is_running else None),
        "created_at": view.created_at,
        "trigger": f"trigger {view.trigger.name}: {view.trigger.cause} ({view.trigger.by})"
        if view.trigger
        else "",
        "runs": ", ".join(
            f"{what} {run}"
            for what, run in (("as", view.rl_config), ("lookahead", view.lookahead))
            if run
        ),
    }


def _why(view: AssessmentView) -> str:
    if view.error is not None:
        return f"{view.error.code}: {view.error.detail}"
    if view.publish_error is None or view.published_at is not None:
        return view.publish_error or ""
    return f"not published yet: {view.publish_error}"


def _figure(value: float | None) -> str:
    return "–" if value is None else estimate(value)


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    """Seconds as a person says them.

    >>> [_duration(x) for x in (None, 42.4, 200.0, 7500.0)]
    ['–', '42 s', '3 min', '2.1 h']
    """
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
