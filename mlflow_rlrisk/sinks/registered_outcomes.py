"""Outcomes as users recorded them (`rlrisk outcome`) beside the reports of the same versions.

A version whose outcome cannot be used is told with its reason; none is dropped in silence. Copies
of a version are one checkpoint: MLflow copies the tags too, and as members of two lineages each
would be predicted by itself.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.calibration.formula import formula_digest
from mlflow_rlrisk.calibration.rows import LeftOut, OutcomeRow, merged
from mlflow_rlrisk.config import ComponentConfig
from mlflow_rlrisk.errors import HistoryError, ModelReferenceError, ReportError, SinkError
from mlflow_rlrisk.model_reference import (
    all_versions,
    original_of,
    registered_version,
    versions_of,
)
from mlflow_rlrisk.monitor.outcome import is_same_run, recorded_outcomes
from mlflow_rlrisk.risk.components import reading_of
from mlflow_rlrisk.sinks.mlflow_store import mlflow_errors
from mlflow_rlrisk.sinks.version_outcome import OUTCOME_TAG
from mlflow_rlrisk.sinks.version_report import report_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_rlrisk.report_record import RiskReport

_MILLISECONDS_PER_HOUR = 3_600_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    reference: str
    original: str
    lineage: str
    runs: list[dict[str, Any]]


def registered_outcomes(
    models: Sequence[str],
    components: Mapping[str, ComponentConfig],
    *,
    min_gain: float | None,
    lineage_tag: str | None,
) -> tuple[list[OutcomeRow], list[LeftOut], str]:
    """Every version with a recorded outcome.

    Args:
        models: References; ``models:/name`` stands for all its versions. None takes every
            registered model.
        components: Lines of the index that is calibrated; a report that was judged under others
            is left out.
        min_gain: A run that gains no more than this failed.
        lineage_tag: Version tag that names the lineage; without it, or where a version has none,
            the registered model is the lineage.

    Returns:
        Rows, what was left out, and the quantity of the outcomes, the commonest there is.

    Raises:
        ModelReferenceError: A reference answers to nothing.
        SinkError: The registry refuses.
    """
    import mlflow

    client = mlflow.MlflowClient()
    references, left_out = _references(client, models)
    by_version: dict[str, _Recorded] = {}  # a version may be named by number and by alias
    for reference in references:
        try:
            if (found := _recorded(reference, lineage_tag)) is not None:
                by_version[found.reference] = found
        except HistoryError as error:
            left_out.append(LeftOut(checkpoint=reference, reason=str(error)))
    recorded, copies = _without_copies(list(by_version.values()))
    left_out += copies
    quantities = Counter(run.get("quantity") for each in recorded for run in each.runs)
    quantity = str(quantities.most_common(1)[0][0]) if quantities else "pass_at_1"
    rows: list[OutcomeRow] = []
    for each in recorded:
        try:
            rows.append(_row(client, each, quantity, components, min_gain))
        except (SinkError, ReportError, ModelReferenceError) as error:
            left_out.append(LeftOut(checkpoint=each.reference, reason=str(error)))
    return rows, left_out, quantity


def _row(
    client: "MlflowClient",
    recorded: _Recorded,
    quantity: str,
    components: Mapping[str, ComponentConfig],
    min_gain: float | None,
) -> OutcomeRow:
    """One checkpoint with its runs; what it raises says why it cannot be used."""
    runs = [run for run in recorded.runs if run.get("quantity") == quantity]
    if not runs:
        raise ReportError(f"its outcome is no {quantity}, which most outcomes are")
    report = report_of(recorded.reference)
    if report.risk_index is None:
        raise ReportError("its report has no risk index")
    is_same = formula_digest(report.policy.components) == formula_digest(components)
    if not is_same or not is_of_present_formula(report):
        raise ReportError("its report was judged by another formula of the index: rlrisk rescore")
    return merged(
        recorded.lineage,
        recorded.reference,
        report.risk_index,
        {name: metric.value for name, metric in report.metrics.items()},
        [_run(client, run) for run in runs],
        min_gain=min_gain,
        is_preregistered=_is_older(report, runs),
    )


def is_of_present_formula(report: "RiskReport") -> bool:
    """Whether starvation was read as `index_of` reads it: a policy does not say how."""
    metrics = {name: metric.value for name, metric in report.metrics.items()}
    return all(
        math.isclose(part.x, reading, abs_tol=1e-9)
        for part in report.components
        if part.name == "starvation" and (reading := reading_of(part.name, metrics)) is not None
    )


def _references(client: "MlflowClient", models: Sequence[str]) -> tuple[list[str], list[LeftOut]]:
    left_out: list[LeftOut] = []
    found: list[str] = []
    for model in models:
        found += all_versions(model) or [model]
    for name in [] if models else _registered_names(client):
        try:
            found += versions_of(name)
        except ModelReferenceError as error:  # somebody's model; the others have outcomes
            left_out.append(LeftOut(checkpoint=f"models:/{name}", reason=str(error)))
    return list(dict.fromkeys(found)), left_out


def _registered_names(client: "MlflowClient") -> list[str]:
    names: list[str] = []
    with mlflow_errors("the registered models cannot be listed"):
        token = None
        while True:
            page = client.search_registered_models(page_token=token)
            names += [model.name for model in page if model.latest_versions]
            token = page.token
            if not token:
                return names


def _recorded(reference: str, lineage_tag: str | None) -> _Recorded | None:
    version = registered_version(reference)
    if version is None:
        need = "models:/name or models:/name/version is needed"
        raise SinkError(f"{reference}: outcomes are recorded on registered versions, {need}")
    runs = recorded_outcomes(version.tags.get(OUTCOME_TAG))
    if not runs:
        return None
    lineage = version.tags.get(lineage_tag) if lineage_tag is not None else None
    return _Recorded(
        reference=f"models:/{version.name}/{version.version}",
        original=original_of(version),
        lineage=str(lineage or version.name),
        runs=runs,
    )


def _without_copies(recorded: list[_Recorded]) -> tuple[list[_Recorded], list[LeftOut]]:
    """Each checkpoint once, with the runs of all its copies, in the original's lineage."""
    kept: dict[str, _Recorded] = {}
    left_out: list[LeftOut] = []
    for each in sorted(recorded, key=lambda each: each.reference != each.original):
        first = kept.setdefault(each.original, each)
        if first is each:
            continue
        more = [run for run in each.runs if not _is_among(run, first.runs)]
        kept[each.original] = replace(first, runs=[*first.runs, *more])
        reason = f"is a copy, or has the same original: it counts with {first.reference}"
        left_out.append(LeftOut(checkpoint=each.reference, reason=reason))
    return list(kept.values()), left_out


def _is_among(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> bool:
    return any(is_same_run(run["run"], known["run"]) for known in runs)


def _run(client: "MlflowClient", run: dict[str, Any]) -> dict[str, Any]:
    final = float(run["final"])
    return {
        "final": final,
        "gain": final - float(run.get("start", final)),
        "failed": bool(run.get("collapsed")),
        "hours": _hours(client, str(run.get("run", ""))),
    }


def _hours(client: "MlflowClient", run_id: str) -> float | None:
    """Length of a run that MLflow timed; an outcome from a file or an assessment has none."""
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(run_id).info
    except MlflowException:
        return None
    if info.end_time is None or info.end_time <= info.start_time:
        return None
    return float(info.end_time - info.start_time) / _MILLISECONDS_PER_HOUR


def _is_older(report: "RiskReport", runs: Sequence[dict[str, Any]]) -> bool | None:
    try:
        made = datetime.fromisoformat(report.provenance.finished_at)
        return all(made < datetime.fromisoformat(str(run["recorded_at"])) for run in runs)
    except (KeyError, ValueError, TypeError):
        return None
