"""Every number that draws a line, with where it comes from and how far that reaches.

The registry is data: the report prints source and scope beside each line it applies, so that a
reader can tell a definition from a fit to one model. Most lines are conventions or come from one
study; none is calibrated on outcomes of the reader's own runs.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.thresholds.line import Threshold, line
from mlflow_rlrisk.thresholds.policy_lines import POLICY_LINES

_COMPONENT = "component of the index"
_GUARD = "no part of the index; withholds `low` where severe"
_APHALE = "arXiv:2606.18487"
_KANG = "arXiv:2510.01624"

_ALL = (
    line(
        "component.starvation",
        "share, of the groups not all right, that carry a reward difference",
        "definition: a group without a reward difference has no gradient",
        "0 is exact: none carries any; 0.05, next to nothing of it, is a convention",
        _COMPONENT,
        ok=0.05,
        bad=0.0,
        weight=1.0,
    ),
    line(
        "component.uncovered",
        "pass@64, or pass@k at the most attempts sampled",
        f"{_KANG}: pass@64 ranks checkpoints (Spearman 0.92-0.98)",
        "more than 100 models of two families, mathematics; the study in the README",
        _COMPONENT,
        ok=1.0,
        bad=0.0,
        weight=1.0,
    ),
    line(
        "component.headroom",
        "pass@1 over the critical success p*(g)",
        f"{_APHALE}: 1.8-2.3 all degraded, 4.2 and more all improved",
        "two model families; rises with depth inside the failing one",
        _GUARD,
        ok=4.0,
        bad=1.0,
        weight=0.0,
    ),
    line(
        "component.entropy_abs",
        "token entropy before RL (nats)",
        f"{_APHALE}: flag below 0.18",
        "one SFT ladder, 40 prompts; misses one of its two worst rungs on one seed",
        _GUARD,
        ok=0.24,
        bad=0.18,
        weight=0.0,
    ),
    line(
        "component.entropy_rel",
        "token entropy over that of a reference checkpoint",
        f"{_APHALE}: 0.53 failed, 0.46 of another family did not",
        "two ladders that disagree",
        _COMPONENT,
        ok=0.9,
        bad=0.3,
        weight=0.3,
    ),
    line(
        "component.coverage",
        "pass@64 less that of the best sibling",
        f"{_KANG}: pass@64 ranks checkpoints (Spearman 0.92-0.98)",
        "more than 100 models of two families, mathematics; the ends are a convention",
        _COMPONENT,
        ok=0.0,
        bad=-0.10,
        weight=0.5,
    ),
    line(
        "component.gen_loss",
        "held-out SFT loss above the lineage's minimum, relative",
        f"{_KANG}, arXiv:2512.11470",
        "only among checkpoints of the same SFT data",
        _COMPONENT,
        ok=0.0,
        bad=0.10,
        weight=0.4,
    ),
    line(
        "component.verifier",
        "lower end of the verifier's J = TPR - FPR",
        "arXiv:2601.04411 (J > 0 learns), 0.8 is ours",
        "theory for 0, a convention for 0.8",
        _COMPONENT,
        ok=0.8,
        bad=0.0,
        weight=0.9,
    ),
    line(
        "component.truncation",
        "share of rollouts ended by the token limit",
        "a public RL pilot's stop rule (more than 10 % for 5 updates)",
        "two runs; what was cut off is graded wrong, so coverage holds it already",
        _GUARD,
        ok=0.02,
        bad=0.25,
        weight=0.0,
    ),
    line(
        "component.overlap",
        "share of RL prompts that are in the SFT data",
        "arXiv:2604.13515: full overlap made GRPO redundant",
        "one task, one model",
        _COMPONENT,
        ok=0.0,
        bad=1.0,
        weight=0.5,
    ),
    line(
        "component.mismatch",
        "KL between trainer and sampler on the same tokens",
        "verl's rollout-correction documentation (|KL| <= 0.1)",
        "heuristic",
        _COMPONENT,
        ok=0.01,
        bad=0.1,
        weight=0.4,
    ),
    line(
        "component.lookahead",
        "share of the gap to certain success closed by the whole RL run at its first pace",
        "ours: half severe at 0.25; runs closed about 0.4 of their first pace, failed below 0.15",
        "drawn on six lineages of small models whose outcomes were known",
        _GUARD,
        ok=0.5,
        bad=0.0,
        weight=0.0,
    ),
    *POLICY_LINES,
    line(
        "verifier.veto",
        "upper end of the verifier's J",
        "arXiv:2601.04411: J <= 0 cannot learn",
        "theory",
        "`high` at or below",
        value=0.0,
    ),
    line(
        "group_size.target_signal",
        "group signal that the advice on the group size aims at",
        "ours",
        "convention: a quarter of the groups is lost",
        "next steps",
        value=0.75,
    ),
    line(
        "tau_H",
        "entropy flag before RL (nats)",
        _APHALE,
        "Qwen2.5-Coder-3B, HumanEval+ probe, T = 1; misses one of two worst rungs on seed 42",
        "`bad` end of component.entropy_abs",
        value=0.18,
    ),
    line(
        "tau_2",
        "relative entropy drop between RL steps 10 and 150",
        _APHALE,
        "same ladder; a series named entropy_min",
        "during RL only",
        value=0.5,
    ),
    line(
        "p_star_8",
        "critical success at g = 8: half of all groups are all equal",
        "definition: root of p^g + (1-p)^g = 1/2",
        "exact for one common success rate",
        "headroom, starved_share, saturated_share (computed for the group size in use)",
        value=0.0829959573,
    ),
    line(
        "acr",
        "zero-variance groups: published baselines, and a dead run",
        "arXiv:2605.21125; a public RL pilot",
        "Qwen2.5, mathematics; one run",
        "during RL only",
        baseline_low=0.28,
        baseline_high=0.45,
        dead=0.9,
    ),
    line(
        "entropy_target",
        "entropy that adaptive controllers aim at (nats)",
        "TRL documentation",
        "trainer default",
        "context",
        value=0.2,
    ),
    line(
        "entropy_surge",
        "entropy over its baseline during RL",
        "a public RL pilot",
        "one run",
        "during RL only",
        value=2.0,
    ),
    line(
        "clip_share",
        "truncated completions over 5 updates of RL",
        "a public RL pilot's pre-registration",
        "two runs",
        "during RL only",
        value=0.10,
    ),
    line(
        "pass_at_64",
        "rank among siblings by pass@64",
        _KANG,
        "Llama3-8B and NeMo-12B, mathematics",
        "ranking within a lineage; component.coverage",
        k=64,
    ),
    line(
        "verl_health",
        "trainer-sampler mismatch",
        "verl documentation",
        "heuristic",
        "during RL only",
        importance_low=0.5,
        importance_high=2.0,
        ess=0.3,
        std=1.0,
        kl=0.1,
        chi2=1.0,
    ),
    line(
        "zero_variance",
        "share of groups of an RL run whose rewards are all equal",
        "definition (0.5: majority degenerate); a public RL pilot (0.9: dead)",
        "0.5 is exact, 0.9 is one run; TRL's share is of the batch under scale_rewards='batch'",
        "during RL only: R4",
        warn=0.5,
        critical=0.9,
    ),
    line(
        "zero_gradient",
        "gradient norm that is none",
        "definition: equal rewards in every group leave no gradient",
        "exact without a KL bonus; steps of one or two groups reach it in healthy runs too",
        "during RL only: R5",
        value=1e-8,
    ),
    line(
        "length_growth",
        "mean completion length over its start while success falls",
        "ours, after reports of length explosions",
        "convention",
        "during RL only: R8",
        value=2.0,
    ),
    line(
        "entropy_law",
        "fit of R = -a e^H + b",
        "arXiv:2505.22617",
        "Qwen2.5, mathematics and code, no entropy or KL bonus; the minima of the fit are ours",
        "during RL only: R9",
        min_points=8,
        min_ratio=1.5,
    ),
    line(
        "nemo_health",
        "trainer-sampler mismatch",
        "NeMo-RL documentation",
        "heuristic",
        "during RL only",
        prob_error=1.05,
    ),
    line(
        "entropy_covariance",
        "covariance of log p and advantage on the tokens that drive entropy",
        "arXiv:2505.22617",
        "Qwen2.5-7B",
        "context",
        low=1.0,
        high=5.0,
        top_share=0.002,
    ),
)

REGISTRY: Mapping[str, Threshold] = MappingProxyType({each.id: each for each in _ALL})


def threshold(name: str) -> Threshold:
    """The registry entry called ``name``; raises `ConfigError` for an unknown one."""
    if name not in REGISTRY:
        raise ConfigError("threshold", name, f"unknown; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]
