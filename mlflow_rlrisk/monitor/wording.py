"""A judgement as text: the live line, a sparkline, the table at the end."""

from collections.abc import Sequence
from itertools import pairwise

from mlflow_rlrisk.monitor.alarms import Alarm
from mlflow_rlrisk.monitor.judgement import Judgement
from mlflow_rlrisk.monitor.tracks import Track

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40
_SHORT = 8


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The course of a column in one line of text, from 0 to its highest value.

    >>> sparkline([0.0, 1.0, 2.0, 4.0])
    '▁▂▄█'
    """
    if not values:
        return ""
    count = min(len(values), width)
    edges = [i * len(values) // count for i in range(count + 1)]
    parts = [values[start:end] for start, end in pairwise(edges)]
    means = [max(sum(part) / len(part), 0.0) for part in parts]
    top = max(means) or 1.0
    return "".join(BARS[int(mean / top * (len(BARS) - 1))] for mean in means)


def live_line(judgement: Judgement) -> str:
    """Where the run is: entropy against its start, dead groups, success, the projected crossing."""
    if judgement.steps is None:
        return "no step is logged yet"
    parts = [f"step {judgement.steps[1]}"]
    entropy = judgement.curves.get("entropy")
    if entropy is not None:
        start, now = entropy.start(10), entropy.values[-1]
        change = f" ({now / start - 1.0:+.0%} of {start:.3g})" if start > 0.0 else ""
        parts.append(f"H {now:.3g}{change} {sparkline(entropy.values, 16)}")
    dead = judgement.curves.get("zero_variance")
    if dead is not None:
        parts.append(f"dead groups {dead.values[-1]:.0%}")
    success = judgement.curves.get("success")
    if success is not None:
        parts.append(f"success {success.values[-1]:.2f} {_arrow(success)}")
    parts += [
        f"{state.rule} {state.title} projected at step {state.projected_step}"
        for state in judgement.rules
        if state.projected_step is not None
    ]
    if judgement.alarms:
        parts.append("alarms " + ", ".join(f"{a.rule}@{a.step}" for a in judgement.alarms))
    return " | ".join(parts)


def alarm_line(alarm: Alarm) -> str:
    """One alarm in one line."""
    sure = "" if alarm.confirmed_step == alarm.step else f", sure at step {alarm.confirmed_step}"
    return (
        f"{str(alarm.severity).upper()} {alarm.rule} at step {alarm.step}{sure}: {alarm.message} "
        f"(line {alarm.threshold:.3g}) [{alarm.evidence['source']}]"
    )


def judgement_lines(judgement: Judgement) -> list[str]:
    """The whole judgement: alarms first, then where every rule stands, then what follows."""
    lines = [alarm_line(alarm) for alarm in judgement.alarms]
    judged = [state.rule for state in judgement.rules if state.state != "missing"]
    if not lines:
        lines.append(
            f"no alarm among the rules that could be judged ({', '.join(judged)})"
            if judged
            else "nothing could be judged"
        )
    entropy = judgement.curves.get("entropy")
    if entropy is not None:
        lines += ["", f"entropy  {sparkline(entropy.values)}"]
    lines += ["", *_rule_table(judgement), ""]
    lines += [f"missing  {each.rule}: {each.input}; {each.needs}" for each in judgement.missing]
    lines += [f"note     {note}" for note in judgement.notes]
    lines += _law_lines(judgement)
    outcome = judgement.outcome
    if outcome is not None:
        lines.append(
            f"outcome  {outcome.quantity} {outcome.start:.3f} -> {outcome.final:.3f}, peak "
            f"{outcome.peak:.3f} at step {outcome.step_of_peak}, "
            f"{outcome.regression_from_peak:.3f} below it at the end"
            + (" (collapsed)" if outcome.collapsed else "")
        )
    step = judgement.stop.step
    if step is not None:
        lines.append(f"advice   stop (from step {step} on): {judgement.stop.reason}")
    elif judged:
        lines.append("advice   go on: no alarm stops the run")
    for each in judgement.advice:
        lines.append(f"try      {each.name}, when {each.when} [{each.source}]")
        lines.append(f"           TRL   {each.trl}")
        lines.append(f"           verl  {each.verl}")
        lines.append(f"           but   {each.limits}")
    if judgement.advice:
        lines.append(f"caution  {judgement.advice[0].to_dict()['caution']}")
    return lines


def no_outcome(judgement: Judgement) -> str:
    """Why a run has no outcome."""
    lacks = [f"{each.input}: {each.needs}" for each in judgement.missing if each.rule == "R10"]
    return f"no outcome can be read of its rewards ({'; '.join(lacks)})"


def _rule_table(judgement: Judgement) -> list[str]:
    rows = []
    for state in judgement.rules:
        figures = ""
        if state.value is not None and state.threshold is not None:
            figures = f"{state.value:>9.3g}  line {state.threshold:<9.3g}"
            if state.projected_step is not None:
                figures += f" crosses at step {state.projected_step}"
        rows.append(f"  {state.rule:<3} {state.title:<24} {state.state:<8}{figures}".rstrip())
    return rows


def _law_lines(judgement: Judgement) -> list[str]:
    law = judgement.entropy_law
    if law is None:
        return [f"law      R = -a e^H + b is not fitted: {judgement.entropy_law_refused}"]
    sign = "-" if law.b < 0 else "+"
    return [
        f"law      R = {-law.a:.3g} e^H {sign} {abs(law.b):.3g}: ceiling {law.ceiling:.3g} "
        f"[{law.ceiling_low:.3g}, {law.ceiling_high:.3g}] at no entropy ({law.num_points} logs)"
    ]


def _arrow(track: Track) -> str:
    """Which way the last logs went, noise aside."""
    if len(track.values) < 2 * _SHORT:
        return "→"
    before = sum(track.values[-2 * _SHORT : -_SHORT]) / _SHORT
    after = sum(track.values[-_SHORT:]) / _SHORT
    margin = 2.0 * track.noise() * (2.0 / _SHORT) ** 0.5
    if abs(after - before) <= margin:
        return "→"
    return "↑" if after > before else "↓"
