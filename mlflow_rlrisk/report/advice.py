"""What to do next: concrete, with figures, and without promises.

Each step answers one finding. Where the evidence does not suffice, the step says which evidence
is missing and how much of it.
"""

from collections.abc import Mapping, Sequence

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.metrics.catalogue import PREFIX
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report.prompts_needed import prompts_needed
from mlflow_rlrisk.report.signal_steps import SHALLOWER, signal_steps
from mlflow_rlrisk.report_record import Component, Metric, RiskLevel
from mlflow_rlrisk.risk import Judgement, Veto
from mlflow_rlrisk.risk.components import HEADROOM, NO_LOOKAHEAD, SIGNAL, AssessedComponents
from mlflow_rlrisk.risk.gaps import Gap, GapKind
from mlflow_rlrisk.risk.luck import AGREEMENT
from mlflow_rlrisk.statistics.groups import (
    critical_success,
)
from mlflow_rlrisk.statistics.severity import ramp

_NO_STEP_UP_TO = {"uncovered": 0.05}
"""Graded to its very end; so little of it is no finding to act on."""

MOST_SOLVED = "assess the sibling with the best pass@64 as the starting point"
LEAST_LOSS = "assess the sibling with the lowest held-out SFT loss"
"""A lineage knows the siblings and names them instead."""


def next_steps(
    judgement: Judgement,
    assessed: AssessedComponents,
    metrics: Mapping[str, Metric],
    statistics: Sequence[PromptStatistics],
    *,
    config: AssessmentConfig,
    policy: PolicyConfig,
) -> tuple[str, ...]:
    """Steps, most decisive first; at least one unless the level is ``low``."""
    if judgement.level is RiskLevel.LOW:
        return ()
    steps: list[str] = []
    for gap in judgement.gaps:
        steps += _for_gap(gap, statistics, config, policy)
    steps += [_to_assess(name, assessed.not_assessed[name]) for name in judgement.lacking]
    severe = sorted(assessed.components, key=lambda part: part.order)
    if Veto.SIGNAL in judgement.vetoes:
        steps += signal_steps(metrics, statistics, config)
    if Veto.VERIFIER in judgement.vetoes:
        steps.append(_AUDIT)
    short = judgement.short_of
    if short is not None and short.name == AGREEMENT:
        steps.append(_KNOWLEDGE)
    elif short is not None:
        steps.append(_to_assess("lookahead", assessed.not_assessed.get("lookahead", NO_LOOKAHEAD)))
    for part in severe:
        is_rare = part.name == "headroom" and short is not None and short.name == HEADROOM
        if is_rare or part.q > _NO_STEP_UP_TO.get(part.name, 0.0):
            steps += _for_component(part, metrics, statistics, config, policy)
    if SIGNAL in metrics and metrics[SIGNAL].ci_low < policy.low_signal_from:
        steps += signal_steps(metrics, statistics, config)
    if judgement.level is RiskLevel.MEDIUM and judgement.index is not None:
        steps += prompts_needed(judgement.index, short, severe, metrics[SIGNAL], policy)
    if not steps:
        steps.append("assess more prompts: the intervals decide the level, not the estimates")
    return tuple(dict.fromkeys(steps))


_OTHER_RUN = (
    "change what the run is taught with before it starts (learning rate, prompts a step, steps, "
    "reward) or begin from a sibling: tried on these rollouts, its first updates hardly help on "
    "prompts that they did not see"
)

_KNOWLEDGE = (
    "teach more of the task before RL (supervised, on right answers to more prompts), or take a "
    "reward that chance does not earn: the answers that rollouts agree on are not shown to be "
    "right more often than wrong"
)

_AUDIT = (
    "audit the verifier on at least 100 accepted and 100 rejected answers before any RL: "
    "a reward that is not better than chance teaches noise"
)


def _to_assess(name: str, why: str) -> str:
    if name == "lookahead" and why != NO_LOOKAHEAD:
        return f"try the run's first updates where they can speak (rlrisk lookahead FOLDER): {why}"
    if name == "lookahead":
        return (
            "try the run's first updates on these rollouts: rlrisk lookahead FOLDER "
            "--learning-rate R --run-steps N, with the run's own R and N, then rlrisk rescore"
        )
    return f"supply what {name} needs: {why}"


def _for_gap(
    gap: Gap,
    statistics: Sequence[PromptStatistics],
    config: AssessmentConfig,
    policy: PolicyConfig,
) -> list[str]:
    if gap.kind is GapKind.PROMPTS:
        more = policy.min_prompts - len(statistics)
        least = counted(policy.min_prompts, "prompt")
        return [f"assess at least {least} of the RL set ({more} more)"]
    if gap.kind is GapKind.OTHER_PROMPTS:
        return ["assess the checkpoint on the prompt set that the RL run will use"]
    if gap.kind is GapKind.TRUNCATED:
        return [_longer(config)]
    if gap.kind is GapKind.FAILED:
        return [
            "mend the verifier: the examples show its errors; --verifier-timeout-s is "
            f"{config.verifier_timeout_s:g} s; rlrisk rescore grades the stored rollouts again"
        ]
    if gap.kind is GapKind.ABSTAINED:
        return [
            "give every completion a reward (None is for prompts of other reward functions; TRL "
            "makes it 0 where no other function judges), then rlrisk rescore"
        ]
    return _for_undefined(gap, statistics, config)


def _for_undefined(
    gap: Gap, statistics: Sequence[PromptStatistics], config: AssessmentConfig
) -> list[str]:
    if gap.subject == PREFIX + "token_entropy":
        return ["sample with a backend that records exact entropies (--backend transformers)"]
    steps = []
    short = sum(each.num_scored < config.group_size for each in statistics)
    silent = sum(each.num_scored == 0 for each in statistics)
    if short:
        unjudged = f"; the verifier scored nothing of {silent}" if silent else ""
        steps.append(
            f"get at least {config.group_size} scored rollouts for every prompt "
            f"({short} of {len(statistics)} have fewer{unjudged}): --num-samples "
            f"{2 * config.group_size} is advised for groups of {config.group_size}"
        )
    if any(each.num_correct is None for each in statistics):
        steps.append("state from which reward on a rollout is correct: --success-threshold")
    return steps or [f"supply what {gap.subject or 'the verdict'} needs: {gap.reason}"]


def _for_component(
    part: Component,
    metrics: Mapping[str, Metric],
    statistics: Sequence[PromptStatistics],
    config: AssessmentConfig,
    policy: PolicyConfig,
) -> list[str]:
    if part.name == "starvation":
        return signal_steps(metrics, statistics, config)
    if part.name == "truncation":
        return [_longer(config)]
    if part.name == "lookahead":
        return [_for_lookahead(part, metrics, policy)]
    if part.name == "headroom":
        harmless = max(part.ok, policy.low_headroom_from)
        wanted = harmless * critical_success(config.group_size)
        if wanted > 1.0:
            return [
                f"train with larger groups: at groups of {config.group_size} even pass@1 = 1 "
                f"would be a headroom of {harmless / wanted:.3g}, and {harmless:g} counts as no "
                "risk"
            ]
        return [
            f"mix in easier prompts: pass@1 of {wanted:.2f} is where headroom at groups of "
            f"{config.group_size} no longer counts as risk"
        ]
    return [
        {
            "entropy_abs": SHALLOWER,
            "entropy_rel": SHALLOWER,
            "uncovered": f"mix in easier prompts: {1.0 - part.x:.0%} of these are not solved in "
            f"{part.measure.removeprefix('pass@')} tries",
            "coverage": MOST_SOLVED,
            "gen_loss": LEAST_LOSS,
            "verifier": _AUDIT,
            "overlap": "take prompts out of the RL set that the SFT data already hold",
            "mismatch": "compare log probabilities of trainer and sampler on the same tokens",
        }[part.name]
    ]


def _for_lookahead(part: Component, metrics: Mapping[str, Metric], policy: PolicyConfig) -> str:
    """The component reads the lower end: a wide interval is another finding than a slow pace."""
    reach = metrics.get(PREFIX + "lookahead_reach")
    if reach is None or ramp(reach.value, part.ok, part.bad) > policy.max_component:
        return _OTHER_RUN
    return (
        "try the first updates on more prompts or rollouts (--num-samples): at their pace the run "
        f"would close {reach.value:.2f} of the gap, but the interval begins at {reach.ci_low:.2f}"
    )


def _longer(config: AssessmentConfig) -> str:
    limit = config.sampling.max_new_tokens
    return (
        f"raise --max-new-tokens above {limit} here and in the RL run, or find out why answers "
        "do not end (stop token, template, loops)"
    )
