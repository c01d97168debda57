"""The drift page: what a training stage changed, step by step from weights to rewards.

One HTML file without scripts, as the other pages. Every step has its own unit, so bars are drawn
to the scale of their group (shares, nats, relative change of weights) and carry their figures.
"""

from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk import __version__
from mlflow_rlrisk.lineage.drift import Divergence, DriftReport
from mlflow_rlrisk.lineage.measures import Estimate
from mlflow_rlrisk.lineage.table import DISTINCT, ENTROPY, HELDOUT, LENGTH, SIGNAL, TRAIN
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.sinks.svg import ACCENT, INK, LINE, MUTED, SATURATED, STARVED, one_figure
from mlflow_rlrisk.sinks.templating import own_markup, template
from mlflow_rlrisk.sinks.wording import estimate, interval, number, shown

_ROW_IN = 0.4
"""Height of one step of the figure."""
_WORDS = {
    ENTROPY: "token entropy",
    SIGNAL: "groups with signal",
    DISTINCT: "distinct answers",
    LENGTH: "tokens per answer",
    HELDOUT: "loss on held-out expert data",
    TRAIN: "loss on training examples",
}
_NATS = (ENTROPY, HELDOUT, TRAIN)
_NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the waterfall.

    Attributes:
        stage: Stage it belongs to.
        label: What changed.
        text: What it came to, for people.
        ends: Its interval, for people.
        change: The change with its interval, where it is a number.
        scale: Steps of one scale are drawn alike; empty where there is no bar.
        limit: Largest change either way that another step allows.
    """

    stage: str
    label: str
    text: str
    ends: str = ""
    change: Estimate | None = None
    scale: str = ""
    limit: float | None = None


def render_drift(report: DriftReport) -> str:
    """Render the page; a pure function of the report."""
    steps = drift_steps(report)
    page: str = template("drift.html.j2").render(
        before=shown(report.before, 200),
        after=shown(report.after, 200),
        num_prompts=report.num_prompts,
        level="high" if report.is_reward_lower or report.is_bound_kept is False else "unknown",
        headline=_headline(report),
        alarms=_alarms(report),
        facts=_facts(report),
        figure=own_markup(_waterfall(steps)),
        steps=[
            {"stage": s.stage, "label": shown(s.label), "text": shown(s.text), "ends": s.ends}
            for s in steps
        ],
        notes=[shown(note) for note in report.notes],
        version=__version__,
    )
    return page


def drift_steps(report: DriftReport) -> list[Step]:
    """The steps in the order in which a training stage acts: weights first, reward last."""
    return [
        *_weights(report),
        _same("tokenizer", report.is_tokenizer_equal),
        _same("chat template", report.is_template_equal),
        _generation(report),
        *_data(report),
        _divergence("KL(after ‖ before)", report.reverse),
        _divergence("KL(before ‖ after)", report.forward),
        *_samples(report),
        _changed("reward", "mean reward", report.reward_change, "share", limit=report.reward_bound),
    ]


def _weights(report: DriftReport) -> list[Step]:
    if report.weights is None:
        return [Step(stage="weights", label="weights", text=_NOT_MEASURED)]
    are_all = not (report.weights.only_before or report.weights.only_after)
    label = "all weights" if are_all else "weights of both"
    found = {label: report.weights.total, **report.weights.by_part}
    return [
        Step(
            stage="weights",
            label=label,
            text=f"moved by {value:.2%}" if value else "unchanged",
            change=Estimate(value=value, ci_low=value, ci_high=value),
            scale="weights",
        )
        for label, value in found.items()
    ]


def _same(label: str, is_equal: bool) -> Step:
    return Step(stage="inputs", label=label, text="same" if is_equal else "differs")


def _generation(report: DriftReport) -> Step:
    changes = [
        f"{key}: {_value(old)} → {_value(new)}"
        for key, (old, new) in report.generation_config.items()
    ]
    return Step(stage="inputs", label="generation config", text="; ".join(changes) or "same")


def _value(value: Any) -> str:
    return "unset" if value is None else str(value)


def _data(report: DriftReport) -> list[Step]:
    found = [
        _changed("data", _WORDS[name], report.changes[name], "nats", "nats/token")
        for name in (HELDOUT, TRAIN)
        if name in report.changes
    ]
    if report.forget_ratio is not None:
        low, high = report.forget_ratio_ci or (report.forget_ratio, report.forget_ratio)
        found.append(
            Step(
                stage="data",
                label="of SFT's gain given back",
                text=f"{report.forget_ratio:.0%}",
                ends=f"[{low:.0%}, {high:.0%}]",
            )
        )
    missing = Step(
        stage="data", label="loss on expert data", text=f"{_NOT_MEASURED}: --expert-data"
    )
    return found or [missing]


def _divergence(label: str, found: Divergence | None) -> Step:
    if found is None:
        return Step(stage="policy", label=label, text=_NOT_MEASURED)
    return _changed("policy", label, found.per_token, "nats", "nats/token")


def _samples(report: DriftReport) -> list[Step]:
    steps = []
    for name, change in report.changes.items():
        if name in (HELDOUT, TRAIN):
            continue
        label = _WORDS.get(name)
        if label is None:
            label = f"pass@{name.rpartition('_')[2]}" if f"{PREFIX}pass_at_" in name else name
        scale, unit = ("nats", "nats/token") if name in _NATS else ("share", "")
        if name in (DISTINCT, LENGTH):
            scale, unit = name, ""
        steps.append(_changed("samples", label, change, scale, unit))
    if report.modes is not None:
        modes = report.modes
        lost = f"answers lost, per prompt (by chance {estimate(modes.lost_by_chance)})"
        new = f"answers new, per prompt (by chance {estimate(modes.new_by_chance)})"
        steps += [
            _changed("samples", lost, modes.lost, "answers"),
            _changed("samples", new, modes.new, "answers"),
        ]
    return steps


def _changed(
    stage: str,
    label: str,
    change: Estimate,
    scale: str,
    unit: str = "",
    *,
    limit: float | None = None,
) -> Step:
    sign = "+" if change.value > 0.0 else ""
    return Step(
        stage=stage,
        label=label,
        text=f"{sign}{estimate(change.value)}{' ' if unit else ''}{unit}",
        ends=interval(change.ci_low, change.ci_high),
        change=change,
        scale=scale,
        limit=limit,
    )


def _waterfall(steps: list[Step]) -> str:
    """All steps in one figure, each bar to the largest change of its scale."""
    largest: dict[str, float] = {}
    for step in steps:
        if step.change is not None:
            ends = (abs(step.change.ci_low), abs(step.change.ci_high))
            largest[step.scale] = max(largest.get(step.scale, 0.0), *ends)
    alt = shown("; ".join(f"{step.label}: {step.text}" for step in steps))

    def draw(axes: Any) -> None:
        axes.axvline(0.0, color=LINE, linewidth=1.0)
        for place, step in enumerate(steps):
            figures = shown(f"{_short(step.text)} {step.ends}".strip())
            literal = {"va": "center", "parse_math": False}
            axes.text(-1.0, place - 0.24, shown(step.label), color=INK, fontsize=8.5, **literal)
            axes.text(1.0, place - 0.24, figures, color=MUTED, fontsize=8, ha="right", **literal)
            _draw_bar(axes, place, step, largest)
            if place and steps[place - 1].stage != step.stage:
                axes.axhline(place - 0.5, color=LINE, linewidth=0.7)
        axes.set_xlim(-1.02, 1.02)
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.set_axis_off()

    return one_figure("drift-waterfall", alt, draw, height=_ROW_IN * len(steps))


def _draw_bar(axes: Any, place: int, step: Step, largest: dict[str, float]) -> None:
    if step.change is None:
        is_news = step.text not in ("same", _NOT_MEASURED) and step.stage == "inputs"
        axes.plot(
            [0.0], [place + 0.17], marker="o", markersize=4, color=STARVED if is_news else LINE
        )
        return
    scale = largest[step.scale] or 1.0
    value, low, high = (
        x / scale for x in (step.change.value, step.change.ci_low, step.change.ci_high)
    )
    colour = {"weights": MUTED, "policy": SATURATED}.get(step.stage, ACCENT)
    axes.barh(place + 0.17, value, 0.26, color=colour, alpha=0.55)
    if high > low:
        axes.plot([low, high], [place + 0.17] * 2, color=INK, linewidth=1.3)
    if step.limit is not None:
        for side in (-1.0, 1.0):
            if (at := side * step.limit / scale) and abs(at) <= 1.0:
                axes.plot([at, at], [place, place + 0.34], color=STARVED, linewidth=1.6)


def _short(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _headline(report: DriftReport) -> str:
    course = _course(report.reward_change, "rose", "fell", "did not change beyond chance")
    reward = f"The mean reward {course}"
    signal = report.changes.get(SIGNAL)
    if signal is None:
        return reward
    course = _course(signal, "became more", "became fewer", "stayed as many")
    return f"{reward}, groups with signal {course}"


def _course(change: Estimate, up: str, down: str, neither: str) -> str:
    if change.ci_low > 0.0:
        return up
    return down if change.ci_high < 0.0 else neither


def _alarms(report: DriftReport) -> list[str]:
    found = []
    if report.is_reward_lower:
        found.append("The mean reward fell, and the prompts resolve it.")
    if report.is_bound_kept is False:
        found.append("The reward moved further than the divergence allows: a figure is wrong.")
    if not report.is_tokenizer_equal:
        found.append("The tokenizer differs: losses and entropies are of other tokens.")
    if not report.is_template_equal:
        found.append("The chat template differs: prompts of chats are not the same text.")
    return found


def _facts(report: DriftReport) -> list[tuple[str, str, str]]:
    """What the first screen says: reward with its bound, signal, divergence, entropy."""
    reward = report.reward_change
    ends = interval(reward.ci_low, reward.ci_high)
    if report.reward_bound is not None:
        ends += f"; the divergence allows ±{number(report.reward_bound)}"
    facts = [("mean reward", f"{reward.value:+.3f}", ends)]
    if (change := report.changes.get(SIGNAL)) is not None:
        facts.append(
            (_WORDS[SIGNAL], f"{change.value:+.3f}", interval(change.ci_low, change.ci_high))
        )
    if report.reverse is not None:
        kl = report.reverse.per_token
        ends = f"nats/token {interval(kl.ci_low, kl.ci_high)}"
        facts.append(("KL(after ‖ before)", estimate(kl.value), ends))
    if (change := report.changes.get(ENTROPY)) is not None:
        ends = f"nats/token {interval(change.ci_low, change.ci_high)}"
        facts.append(("token entropy", f"{change.value:+.3f}", ends))
    return facts
