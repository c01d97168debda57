"""Figures of reports, lineages and runs as SVG text: arrays in, markup out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FloatArray, IntArray
from mlflow_rlrisk.sinks.svg import ACCENT, MUTED, SATURATED, STARVED, figure_of, one_figure

_LABEL_SHARE = 0.07  # of the width, for one rule
_MAX_RATE_STEPS = 32  # more bars than that are thinner than the gaps between them


def pass_at_k_figure(
    ks: Sequence[int], values: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> str:
    """Draw pass@k over k with the band of its intervals.

    Args:
        ks: Numbers of attempts, ascending.
        values: pass@k, one per ``k``.
        low: Lower ends of the intervals.
        high: Upper ends.
    """
    alt = f"pass@k rises from {values[0]:.2f} at k={ks[0]} to {values[-1]:.2f} at k={ks[-1]}."

    def draw(axes: Any) -> None:
        axes.set_xscale("log", base=2)
        axes.fill_between(ks, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(ks, values, color=ACCENT, linewidth=2, marker="o", markersize=4.5)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("attempts k")
        axes.set_ylabel("chance of a correct one")
        axes.grid(axis="y")

    return one_figure("pass-at-k", alt, draw)


def solve_rate_figure(
    num_correct: IntArray, num_scored: IntArray, group_size: int, critical: float
) -> str:
    """Draw how many prompts are solved how often, with the zones that starve a group.

    Args:
        num_correct: Correct rollouts per prompt, shape ``[P]``.
        num_scored: Scored rollouts per prompt, shape ``[P]``, each at least 1.
        group_size: Rollouts per prompt and step of the RL run.
        critical: Success rate ``p*`` at which half of such groups are all wrong or all right.
    """
    steps = min(int(num_scored.max()), _MAX_RATE_STEPS)
    rates = num_correct / num_scored
    nearest = np.rint(rates * steps).astype(np.int64)  # one bar per c of n where n is the same
    share = np.bincount(nearest, minlength=steps + 1) / rates.size
    starved, saturated = float((rates < critical).mean()), float((rates > 1 - critical).mean())
    alt = (
        f"Of {counted(rates.size, 'prompt')} {starved:.0%} were solved less often than "
        f"{critical:.2f} "
        f"(starved zone) and {saturated:.0%} more often than {1 - critical:.2f} (saturated zone "
        f"for groups of {group_size})."
    )

    def draw(axes: Any) -> None:
        edge = 0.5 / steps
        axes.axvspan(-edge, critical, color=STARVED, alpha=0.14, linewidth=0)
        axes.axvspan(1 - critical, 1 + edge, color=SATURATED, alpha=0.14, linewidth=0)
        at = np.arange(steps + 1) / steps
        axes.bar(at, share, 0.84 / steps, color=[_zone_colour(x, critical) for x in at])
        axes.set_xlim(-edge, 1 + edge)
        top = max(float(share.max()) * 1.2, 0.05)
        axes.set_ylim(0, top)
        label = {"y": top * 0.975, "va": "top", "fontweight": "bold"}
        axes.text(-edge * 0.6, s="starved", color=STARVED, **label)
        axes.text(1 + edge * 0.6, s="saturated", color=SATURATED, ha="right", **label)
        axes.set_xlabel("share of correct rollouts")
        axes.set_ylabel("share of prompts")
        axes.grid(axis="y")

    return one_figure("solve-rate", alt, draw)


def _zone_colour(rate: float, critical: float) -> str:
    if rate < critical:
        return STARVED
    return SATURATED if rate > 1 - critical else ACCENT


def entropy_histogram_figure(edges: FloatArray, counts: IntArray, mean: float | None) -> str:
    """Draw how the generated tokens spread over their entropy, on a logarithmic axis.

    Args:
        edges: Bin edges in nats, shape ``[B + 1]``; the first is 0, the others grow by one ratio.
        counts: Tokens per bin, shape ``[B]``, at least one token in all.
        mean: The canonical mean entropy (nats), marked by a line; ``None`` draws none.
    """
    total = int(counts.sum())
    share = counts / total
    at = np.log10(edges[1:])
    width = float(at[1] - at[0])
    alt = (
        f"Of {total:,} generated tokens {share[0]:.0%} have an entropy below {edges[1]:g} nats and "
        f"{share[edges[1:] > 1.0].sum():.0%} one of about 1 nat and more."
    )

    def draw(axes: Any) -> None:
        first = at[0] - 2 * width  # set apart: its true left edge is log 0
        axes.bar(first, share[0], 1.6 * width, color=MUTED)
        axes.bar(at[:-1] + width / 2, share[1:], 0.88 * width, color=ACCENT)
        if mean is not None and mean > edges[1]:
            axes.axvline(np.log10(mean), color=STARVED, linewidth=1.6, linestyle=(0, (4, 2)))
            axes.text(
                np.log10(mean) - 0.05,
                0.97,
                f"mean {mean:.2g}",
                color=STARVED,
                ha="right",
                va="top",
                transform=axes.get_xaxis_transform(),
            )
        axes.set_xlim(first - 1.2 * width, at[-1])
        axes.set_ylim(0, max(float(share.max()) * 1.12, 0.01))
        axes.set_xticks([first, -2, -1, 0, 1], [f"<{edges[1]:g}", "0.01", "0.1", "1", "10"])
        axes.set_xlabel("token entropy (nats, log scale)")
        axes.set_ylabel("share of tokens")
        axes.grid(axis="y")

    return one_figure("entropy-histogram", alt, draw)


def entropy_by_position_figure(positions: FloatArray, means: FloatArray, alive: FloatArray) -> str:
    """Draw the mean entropy along the completion and how many rollouts are that long.

    Args:
        positions: Token positions, counted from 1, shape ``[L]``.
        means: Mean entropy of the tokens at each position (nats), shape ``[L]``.
        alive: Share of rollouts that have a token there, shape ``[L]``.
    """
    alt = (
        f"Mean entropy goes from {means[0]:.2g} nats at the first token to {means[-1]:.2g} at "
        f"token {positions[-1]:.0f}, which {alive[-1]:.0%} of the rollouts reach."
    )

    def draw(axes: Any) -> None:
        side = axes.twinx()
        side.patch.set_alpha(0.0)
        side.fill_between(positions, alive, step="mid", color=MUTED, alpha=0.14, linewidth=0)
        side.set_ylim(0, 1.02)
        side.set_ylabel("rollouts that long")
        side.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set_zorder(side.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.plot(
            positions,
            means,
            color=ACCENT,
            linewidth=2,
            marker="o" if positions.size < 40 else "",
            markersize=3.5,
        )
        axes.set_ylim(0, max(float(means.max()) * 1.12, 0.05))
        axes.set_xlim(1, max(float(positions[-1]), 2.0))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("token of the completion")
        axes.set_ylabel("mean entropy (nats)")
        axes.grid(axis="y")

    return one_figure("entropy-position", alt, draw)


_MAX_VERSION_TICKS = 16  # more labels than that overlap
_LADDER_STYLES = (
    (ACCENT, "o", "-"),
    (STARVED, "s", "--"),
    (SATURATED, "^", "-."),
    (MUTED, "D", ":"),
)


def ladder_figure(
    name: str,
    versions: Sequence[str],
    series: Mapping[str, Sequence[float]],
    unit: str,
    *,
    are_short: bool = False,
) -> str:
    """Draw measures over the versions of a lineage, in their order.

    Args:
        name: Name of the figure, unique on its page.
        versions: Names of the versions; only their places are drawn.
        series: Values of each measure, one for each version, at most four measures.
        unit: What the vertical axis counts.
        are_short: True where the names fit below the axis and are drawn in place of the places.
    """
    places = np.arange(1, len(versions) + 1)
    alt = "; ".join(
        f"{label} goes from {values[0]:.2f} to {values[-1]:.2f}" for label, values in series.items()
    )

    def draw(axes: Any) -> None:
        top = max(max(values) for values in series.values())
        for (colour, marker, line), (label, values) in zip(
            _LADDER_STYLES, series.items(), strict=False
        ):
            axes.plot(
                places,
                values,
                color=colour,
                marker=marker,
                linestyle=line,
                linewidth=2,
                label=label,
            )
        axes.set_ylim(0, max(top * 1.12, 0.05))
        step = -(-len(versions) // _MAX_VERSION_TICKS)
        labels = versions if are_short else [str(place) for place in places]
        axes.set_xticks(places[::step], labels[::step])
        axes.set_xlabel("version" if are_short else "version, in the order of the table")
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, loc="best")

    return one_figure(name, alt, draw)


def run_figure(
    curves: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    alarms: Sequence[tuple[int, str]],
) -> str:
    """Draw the course of an RL run, one panel a curve, with its alarms.

    Args:
        curves: ``(title, steps, values)`` of each, at least one.
        alarms: ``(step, rule)`` of each alarm, ascending.
    """
    raised = ", ".join(f"{rule} at step {step}" for step, rule in alarms) or "no alarm"
    first = min(steps[0] for _, steps, _ in curves)
    last = max(steps[-1] for _, steps, _ in curves)
    alt = f"The run from step {first} to {last}: {raised}."

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
        for axes, (title, steps, values) in zip(panels, curves, strict=True):
            axes.patch.set_alpha(0.0)
            axes.plot(steps, values, color=ACCENT, linewidth=1.6)
            axes.set_ylim(0, max(max(values) * 1.15, 1e-6))
            axes.set_ylabel(title)
            axes.grid(axis="y")
            for step, _ in alarms:
                axes.axvline(step, color=STARVED, linewidth=1.2, linestyle=(0, (4, 2)))
        for step, rules, height in _labels(alarms, last - first):
            panels[0].text(
                step,
                1.02 + 0.14 * height,
                " ".join(rules),
                color=STARVED,
                ha="center",
                transform=panels[0].get_xaxis_transform(),
            )
        panels[-1].set_xlabel("step")

    return figure_of("rl-run", alt, draw, height=0.6 + 1.3 * len(curves))


def _labels(alarms: Sequence[tuple[int, str]], span: int) -> list[tuple[int, list[str], int]]:
    """Rules of each step, and how high its label stands so that it clears its neighbour's."""
    found: dict[int, list[str]] = {}
    for step, rule in alarms:
        found.setdefault(step, []).append(rule)
    labels: list[tuple[int, list[str], int]] = []
    for step, rules in found.items():
        is_close = bool(labels) and step - labels[-1][0] < _LABEL_SHARE * span * len(rules)
        labels.append((step, rules, labels[-1][2] + 1 if is_close else 0))
    return labels
