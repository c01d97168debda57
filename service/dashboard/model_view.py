"""What the page of a model shows: the choice in words, the figures, the table of versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_rlrisk.report import RiskLevel
from mlflow_rlrisk.sinks.plots import ladder_figure
from mlflow_rlrisk.sinks.wording import estimate, interval
from service.dashboard.ladder import INDEX, PASS_AT_1, SIGNAL, Ladder, Rung
from service.dashboard.page import own_figure
from service.registry.reader import ASSESSED_TAG
from service.registry.stored_lineage import StoredLineage

_SINGLE = (
    "Each interval is that version's alone; rlrisk compare pairs the prompts and says which "
    "differences they resolve."
)
_PAIRED = "From the lineage run, where the prompts are paired."
_TABLE = (
    "Ascending, the newest last; intervals resample prompts. A version that was measured otherwise "
    "stands apart and is not ranked."
)


def model_values(ladder: Ladder, lineage: StoredLineage | None, name: str) -> dict[str, Any]:
    """Values of ``model.html.j2``, but for the name and what went wrong."""
    reasons, note = _reasons(ladder, lineage, name)
    columns = _columns(ladder)
    return {
        "pick": {
            "version": ladder.pick,
            "level": str(ladder.pick_level or RiskLevel.UNKNOWN),
            "label": _label(ladder),
        },
        "best": ladder.best,
        "reasons": reasons,
        "reasons_note": note,
        "next_steps": _next_steps(ladder),
        "figures": _figures(ladder),
        "columns": list(columns),
        "rungs": [_row(rung, ladder, columns) for rung in ladder.rungs],
        "table_note": _TABLE,
        "apart": [
            f"Version {rung.version.version}: {rung.apart or rung.stored.problem}"
            for rung in ladder.rungs
            if rung.apart or (rung.stored.report and rung.stored.problem)
        ],
        "lineage": lineage,
        "lineage_is_older": lineage is not None and _is_older(ladder, lineage, name),
    }


def _label(ladder: Ladder) -> str:
    if not ladder.compared:
        return "No version can be judged yet"
    if ladder.pick is None or ladder.pick_level is RiskLevel.LOW:
        return "Start RL from"
    return f"Least risk of these, but {ladder.pick_level}"


def _columns(ladder: Ladder) -> dict[str, str | None]:
    """Metric by column title; every column stands, a version may lack its value."""
    columns: dict[str, str | None] = {"Risk index": INDEX, "pass@1": PASS_AT_1}
    if ladder.deep is not None:
        columns[_deep_label(ladder.deep)] = ladder.deep
    if ladder.entropy is not None:
        columns["Entropy (nats)"] = ladder.entropy
    columns["Group signal"] = SIGNAL
    return columns


def _deep_label(name: str) -> str:
    return f"pass@{name.rpartition('_')[2]}"


def _row(rung: Rung, ladder: Ladder, columns: Mapping[str, str | None]) -> dict[str, Any]:
    version, report = rung.version, rung.stored.report
    marks = ["start here"] if version.version == ladder.pick else []
    marks += ["best pass@1"] if version.version == ladder.best else []
    marks += [f"alias {alias}" for alias in version.aliases]
    cells = []
    for name in columns.values() if report is not None else ():
        metric = rung.metric(name)
        cells.append(
            {
                "value": "undefined" if metric is None else estimate(metric.value),
                "interval": "" if metric is None else interval(metric.ci_low, metric.ci_high),
            }
        )
    return {
        "version": version.version,
        "marks": marks,
        "level": None if report is None else str(report.risk_level),
        "on_ladder": rung.on_ladder,
        "cells": cells,
        "why": rung.stored.problem or "",
        "is_assessed": rung.stored.is_assessed,
        "assessed_at": version.tags.get(ASSESSED_TAG, "") if rung.stored.is_assessed else "",
    }


def _figures(ladder: Ladder) -> list[dict[str, Any]]:
    names = [rung.version.version for rung in ladder.compared]
    if len(names) < 2:
        return []
    figures = []
    wanted: dict[str, str | None] = {"pass@1": PASS_AT_1}
    if ladder.deep is not None:
        wanted[_deep_label(ladder.deep)] = ladder.deep
    shares = ladder.series({**wanted, "group signal": SIGNAL})
    if shares:
        figures.append(
            {
                "title": "Success and signal",
                "svg": own_figure(ladder_figure("shares", names, shares, "share", are_short=True)),
                "caption": "pass@1 may rise while deep pass@k and the signal fall: then it "
                "misleads.",
            }
        )
    entropy = ladder.series({"token entropy": ladder.entropy})
    if entropy:
        svg = ladder_figure("entropy", names, entropy, "nats per token", are_short=True)
        figures.append(
            {
                "title": "Token entropy",
                "svg": own_figure(svg),
                "caption": "A fall says that the policy has less to choose from. A high entropy "
                "alone is not useful: flattened sampling raises it without raising pass@k.",
            }
        )
    return figures


def _reasons(ladder: Ladder, lineage: StoredLineage | None, name: str) -> tuple[Sequence[str], str]:
    """What sets the pick apart from the best pass@1; paired where a lineage run says so."""
    if ladder.pick is None or ladder.best in (None, ladder.pick):
        return [], ""
    pair = (f"models:/{name}/{ladder.pick}", f"models:/{name}/{ladder.best}")
    choice = None if lineage is None else lineage.choice
    if choice and choice.reasons and (choice.start_from, choice.best_pass_at_1) == pair:
        return choice.reasons, _PAIRED
    by_version = {rung.version.version: rung for rung in ladder.compared}
    pick, best = by_version[ladder.pick], by_version[str(ladder.best)]
    words = {"risk index": INDEX, "token entropy (nats)": ladder.entropy, "group signal": SIGNAL}
    if ladder.deep is not None:
        words = {_deep_label(ladder.deep): ladder.deep, **words}
    sentences = []
    for word, metric_name in words.items():
        ours, theirs = pick.metric(metric_name), best.metric(metric_name)
        if ours is not None and theirs is not None:
            sentences.append(
                f"{word}: {estimate(ours.value)} {interval(ours.ci_low, ours.ci_high)} for version "
                f"{ladder.pick}, {estimate(theirs.value)} "
                f"{interval(theirs.ci_low, theirs.ci_high)} for version {ladder.best}"
            )
    return sentences, _SINGLE


def _next_steps(ladder: Ladder) -> list[str]:
    if not ladder.compared:
        is_new = not any(rung.stored.is_assessed for rung in ladder.rungs)
        again = "" if is_new else " again, all alike: the table says why the reports do not serve"
        return [
            f"Assess the versions{again}: rlrisk assess models:/NAME/VERSION --prompts FILE "
            "--verifier VERIFIER --register"
        ]
    if ladder.pick is None:
        return ["No version can be chosen: the level of every one is unknown; see its reasons."]
    chosen = next(r for r in ladder.compared if r.version.version == ladder.pick)
    if ladder.pick_level is RiskLevel.LOW:
        equals = ladder.num_equals
        why = f": the highest pass@1 of {equals} versions of equal risk" if equals > 1 else ""
        steps = [f"Start RL from version {ladder.pick}{why}."]
    else:
        steps = [f"Mend version {ladder.pick} before RL: its level is {ladder.pick_level}."]
        report = chosen.stored.report
        steps += list(report.next_steps) if report is not None else []
    if ladder.best not in (None, ladder.pick):
        steps.append(f"Do not start from version {ladder.best} because of its pass@1 alone.")
    return steps


def _is_older(ladder: Ladder, lineage: StoredLineage, name: str) -> bool:
    known = set(lineage.names)
    return any(f"models:/{name}/{rung.version.version}" not in known for rung in ladder.compared)
