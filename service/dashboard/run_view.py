"""What the page of an RL run shows: advice, alarms, curves, where each rule stands."""

from typing import Any

from mlflow_rlrisk.monitor import Judgement, Severity
from mlflow_rlrisk.monitor.alarms import TITLES
from mlflow_rlrisk.monitor.wording import live_line
from mlflow_rlrisk.sinks.monitor_run import judgement_chart
from mlflow_rlrisk.sinks.wording import estimate
from service.dashboard.page import own_figure
from service.registry.records import WatchedRun


def run_values(run: WatchedRun) -> dict[str, Any]:
    """Values of ``run.html.j2``."""
    judgement = run.judgement
    chart = judgement_chart(judgement)
    return {
        "run": run,
        "steps": judgement.steps,
        "num_logs": judgement.num_logs,
        "trainer": judgement.trainer,
        "stop": _stop(judgement),
        "alarms": [
            {
                "rule": alarm.rule,
                "title": TITLES[alarm.rule],
                "step": alarm.step,
                "severity": str(alarm.severity),
                "message": alarm.message,
                "source": str(alarm.evidence.get("source", "")),
            }
            for alarm in judgement.alarms
        ],
        "judged": [rule.rule for rule in judgement.rules if rule.state != "missing"],
        "line": live_line(judgement) if judgement.steps else "",
        "chart": None if chart is None else own_figure(chart),
        "rules": _rules(judgement),
        "advice": judgement.advice,
        "outcome": _outcome(judgement),
        "notes": judgement.notes,
    }


def _stop(judgement: Judgement) -> dict[str, str]:
    stop = judgement.stop
    if stop.step is not None:
        return {"level": "high", "word": f"Stop (step {stop.step})", "reason": stop.reason}
    if judgement.steps is None:
        text = "No step of a known trainer is logged yet."
        return {"level": "unknown", "word": "Nothing to judge", "reason": text}
    if judgement.trainer is None:
        text = "The metrics are not those of a known trainer; the notes say more."
        return {"level": "unknown", "word": "Not judged", "reason": text}
    is_warned = any(alarm.severity is Severity.WARN for alarm in judgement.alarms)
    level = "medium" if is_warned else "low"
    return {"level": level, "word": "Go on", "reason": f"{stop.reason.capitalize()}."}


def _rules(judgement: Judgement) -> list[dict[str, Any]]:
    lacks = {each.rule: f"lacks {each.input}; {each.needs}" for each in judgement.missing}
    return [
        {
            "rule": rule.rule,
            "title": rule.title,
            "state": rule.state,
            "value": "–" if rule.value is None else estimate(rule.value),
            "line": "–" if rule.threshold is None else estimate(rule.threshold),
            "crossing": "–" if rule.projected_step is None else f"step {rule.projected_step}",
            "missing": lacks.get(rule.rule, "") if rule.state == "missing" else "",
        }
        for rule in judgement.rules
    ]


def _outcome(judgement: Judgement) -> str:
    outcome = judgement.outcome
    if outcome is None:
        return ""
    return (
        f"{outcome.quantity} from {outcome.start:.3f} to {outcome.final:.3f}; peak "
        f"{outcome.peak:.3f} at step {outcome.step_of_peak}, "
        f"{outcome.regression_from_peak:.3f} below it at the end."
    )
