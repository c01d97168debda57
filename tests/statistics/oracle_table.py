"""Reference values of ``oracles.json``, each computed by the function that claims it."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk import statistics as st
from tests.statistics.dynamics_oracles import DYNAMICS_TABLE

ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text())
VALUES: dict[str, Any] = {key: entry["value"] for key, entry in ORACLES["values"].items()}

# Aphale and Liu, arXiv:2606.18487: SFT depth ladders, 3-seed means (H in nats).
DEPTHS = ["1.0", "1.9", "2.9", "3.8", "5.8"]
H = np.array([0.227, 0.163, 0.156, 0.171, 0.120])
PASS1 = np.array([0.151, 0.163, 0.159, 0.173, 0.187])
PEAK = np.array([0.806, 0.750, 0.671, 0.608, 0.481])
DELTA = np.array([-0.067, -0.017, -0.061, -0.110, -0.148])
DS_DEPTHS = ["1.0", "1.9", "3.8", "5.8"]
DS_H = np.array([0.399, 0.274, 0.285, 0.185])
DS_DELTA = np.array([0.003, 0.024, 0.017, 0.021])
# Published to two digits as headroom 4.2, 4.6, 5.0, 5.0; only "far above 4" is used of them.
DS_PASS1 = np.array([0.351, 0.384, 0.415, 0.413])
POOLED_H = np.concatenate([H, DS_H])
POOLED_PASS1 = np.concatenate([PASS1, DS_PASS1])
POOLED_DELTA = np.concatenate([DELTA, DS_DELTA])
FAMILY = [0] * 5 + [1] * 4

# The reference keeps results, not inputs: kl, k3, chi2_token and the perplexities fix the log
# ratios (the only ones on a grid of 0.01) and each rollout's sums; the other six are checks.
MISMATCH = st.logprob_mismatch(
    [[-1.5, -0.55, -0.3], [-0.8, -0.6, -0.4]],
    [[-1.0, -0.5, -0.3], [-0.6, -0.5, -0.42]],
)

# arXiv:2601.07389: three answers, RL's optimum under a KL penalty of weight 1/2.
SFT_POLICY, REWARDS = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 1.0])
RL_POLICY = st.tilted_policy(SFT_POLICY, REWARDS, 0.5)

P7 = np.array([0.5, 0.2, 0.1, 0.08, 0.05, 0.04, 0.03])
ANSWERS = [[8, 4, 2, 1, 1]]
TIED_REWARDS = [[0, 0, 0, 0.5, 0.5, 1, 1, 1]]
LOGITS = [2.0, 1.0, 0.0, -1.0]


def numbers(key: str) -> list[float]:
    return [float(text) for text in re.findall(r"=\s*(-?\d*\.?\d+)", key)]


def integers(key: str) -> list[int]:
    return [int(value) for value in numbers(key)]


def hybrid_moments(probs: np.ndarray, num_top: int) -> tuple[float, float]:
    """Mean and variance of the control-variate estimate over the sampled token, enumerated."""
    estimates = st.control_variate_entropy(
        np.tile(probs[:num_top], (probs.size, 1)),
        np.arange(probs.size) < num_top,
        np.log(probs),
        probs.size,
    )
    mean = float(probs @ estimates)
    return mean, float(probs @ (estimates - mean) ** 2)


def surprisal_variance(probs: np.ndarray) -> float:
    surprisal = -np.log(probs)
    return float(probs @ surprisal**2 - (probs @ surprisal) ** 2)


def without_control_variate(probs: np.ndarray, num_top: int) -> float:
    """Variance of the hybrid with a = 0, from the formula: not offered by the package."""
    tail = probs[num_top:]
    first = float(tail @ -np.log(tail))
    return float(tail @ np.log(tail) ** 2) - first**2


def zipf(key: str) -> dict[str, float]:
    vocab_size, exponent, num_top = numbers(key)
    weights = np.arange(1, int(vocab_size) + 1) ** -exponent
    probs, k = weights / weights.sum(), int(num_top)
    lower, upper = st.token_entropy_bounds(probs[:k], probs.size)
    return {
        "H": float(st.entropy_from_logits(np.log(probs))),
        "lo": float(lower),
        "up": float(upper),
        "tail": float(1.0 - probs[:k].sum()),
        "var_cv": _blockwise_hybrid_variance(probs, k),
        "var_surprisal": surprisal_variance(probs),
        "var_naive": without_control_variate(probs, k),
    }


def _blockwise_hybrid_variance(probs: np.ndarray, num_top: int) -> float:
    moments = np.zeros(2)
    for part in np.array_split(np.arange(probs.size), 20):
        estimates = st.control_variate_entropy(
            np.tile(probs[:num_top], (part.size, 1)),
            part < num_top,
            np.log(probs[part]),
            probs.size,
        )
        moments += [probs[part] @ estimates, probs[part] @ estimates**2]
    return float(moments[1] - moments[0] ** 2)


def binomial_mean(success: float, scored: int, values: np.ndarray) -> float:
    weights = [
        math.comb(scored, c) * success**c * (1 - success) ** (scored - c) for c in range(scored + 1)
    ]
    return float(np.dot(weights, values))


def plug_in_signal(key: str) -> float:
    success, scored, size = numbers(key)
    rates = np.arange(scored + 1) / scored
    return binomial_mean(success, int(scored), st.true_signal(rates, int(size)))


def plug_in_variance(key: str) -> float:
    success, scored = numbers(key)
    rates = np.arange(scored + 1) / scored
    return binomial_mean(success, int(scored), rates * (1 - rates))


def plug_in_pass(key: str) -> float:
    success, scored, attempts = numbers(key)
    rates = np.arange(scored + 1) / scored
    return binomial_mean(success, int(scored), 1 - (1 - rates) ** attempts)


def posterior(key: str) -> float:
    correct, scored = integers(key)
    if "[.1,.9]" in key:
        return float(st.band_probability([correct], [scored], 0.1, 0.9)[0])
    # The reference took the closed form of p*, which is 5e-10 off the root for g = 8; that the
    # root itself is used by starved_probability is tested in test_groups.py.
    return float(st.posterior_below([correct], [scored], 1 - 2 ** (-1 / 8))[0])


def risk_index(key: str) -> float:
    _, family, depth = key.split()
    depths, entropy, solved = (
        (DEPTHS, H, PASS1) if family == "qwen" else (DS_DEPTHS, DS_H, DS_PASS1)
    )
    return float(published_index(entropy, solved)[depths.index(depth)])


def published_index(entropy: np.ndarray, solved: np.ndarray) -> np.ndarray:
    severities = np.stack(
        [
            st.ramp(st.true_signal(solved, 8), 0.75, 0.25),  # published as a plug-in
            st.ramp(solved / st.critical_success(8), 4.0, 1.0),
            st.ramp(entropy, 0.24, 0.12),
            st.ramp(entropy / entropy[0], 0.9, 0.3),
        ],
        axis=-1,
    )
    return st.noisy_or(severities, [0.9, 0.6, 0.4, 0.3])


POOLED_INDEX = np.concatenate([published_index(H, PASS1), published_index(DS_H, DS_PASS1)])


def permutations_with_squared_distance(total: int) -> list[tuple[int, ...]]:
    identity = np.arange(6)
    return [
        order
        for order in itertools.permutations(range(6))
        if int(((np.array(order) - identity) ** 2).sum()) == total
    ]


def partial_from_published_correlations() -> float:
    """Six points whose three rank correlations are 29/35, 31/35 and 17/35, searched for."""
    x = np.arange(6)
    for y in permutations_with_squared_distance(6):
        for z in permutations_with_squared_distance(4):
            if int(((np.array(y) - np.array(z)) ** 2).sum()) == 18:
                return st.partial_spearman(x, y, z)
    raise AssertionError("no six points have these correlations")


def parse_list(key: str) -> list[float]:
    return json.loads(re.search(r"topK=(\[.*?\])", key).group(1))  # type: ignore[union-attr]


def audit(_: str) -> list[float]:
    rates = st.audit_rates(0.3, 0.98, 0.10)
    return [rates.true_positive, rates.false_positive, rates.youden_j]


def family_measure(key: str) -> tuple[np.ndarray, np.ndarray]:
    name, outcome = re.search(r"\((.*),(\w+)_pass", key).groups()  # type: ignore[union-attr]
    measure = {"entropy": H, "pass@1": PASS1}[name]
    return measure, {"peak": PEAK, "delta": DELTA}[outcome]


Case = tuple[str, Callable[[str], Any]]
TABLE: list[Case] = [
    (
        r"pass_at_k\(n",
        lambda key: (lambda n, c, k: st.pass_at_k([c], [n], k)[0])(*integers(key)),
    ),
    (
        r"signal_hat\(n",
        lambda key: (lambda n, c, g: st.group_signal([c], [n], g)[0])(*integers(key)),
    ),
    (
        r"group_var_hat_ddof0\(",
        lambda key: (lambda n, c, g: st.expected_group_variance([c], [n], g)[0])(*integers(key)),
    ),
    (r"s_true\(", lambda key: st.true_signal(numbers(key)[0], integers(key)[1])),
    (
        r"(degenerate|guru_plugin_degenerate)\(",
        lambda key: 1 - st.true_signal(numbers(key)[0], integers(key)[1]),
    ),
    (
        r"E_var_ddof0\(",
        lambda key: (lambda p, g: st.true_group_variance(p, int(g)))(*numbers(key)),
    ),
    (
        r"E_var_ddof0 from mean pass@1 \(qwen\)",
        lambda _: st.true_group_variance(PASS1, 8),
    ),
    (r"p_star_exact\(", lambda key: st.critical_success(integers(key)[0])),
    (
        r"g_min\(",
        lambda key: (lambda p, q: st.smallest_group_size(lambda g: float(st.true_signal(p, g)), q))(
            *numbers(key)
        ),
    ),
    (r"hetero_mean_p", lambda _: HETEROGENEOUS.mean()),
    (r"hetero_signal_true", lambda _: st.true_signal(HETEROGENEOUS, 8).mean()),
    (r"hetero_signal_plugin", lambda _: st.true_signal(HETEROGENEOUS.mean(), 8)),
    (r"hetero_var_true", lambda _: st.true_group_variance(HETEROGENEOUS, 8).mean()),
    (r"hetero_var_plugin", lambda _: st.true_group_variance(HETEROGENEOUS.mean(), 8)),
    (
        r"betabin_signal\(a",
        lambda key: (lambda a, b, g: st.beta_signal(a, b, int(g)))(*numbers(key)),
    ),
    (
        r"betabin_signal\(\.2,\.8",
        lambda key: st.beta_signal(0.2, 0.8, integers(key)[0]),
    ),
    (
        r"betabin_passk\(",
        lambda key: (lambda a, b, k: st.beta_pass_at_k(a, b, int(k)))(*numbers(key)),
    ),
    (r"grpo_A_plus", lambda key: st.group_advantages(integers(key)[1], integers(key)[0])[0]),
    (r"grpo_A_minus", lambda key: st.group_advantages(integers(key)[1], integers(key)[0])[1]),
    (r"clopper_pearson95", lambda key: st.clopper_pearson(*integers(key))),
    (r"wilson95", lambda key: st.wilson(*integers(key))),
    (r"jeffreys95", lambda key: st.jeffreys(*integers(key))),
    (r"rule_of_three_upper", lambda key: st.rule_of_three_upper(*integers(key))),
    (r"H\(softmax", lambda key: st.entropy_from_logits(LOGITS, numbers(key)[-1])),
    (r"softmax\(\[", lambda _: np.exp(LOGITS) / np.exp(LOGITS).sum()),
    (r"H top_p", lambda key: st.entropy_from_logits(LOGITS, top_p=numbers(key)[0])),
    (r"H top_k", lambda key: st.entropy_from_logits(LOGITS, top_k=integers(key)[0])),
    (r"H uniform", lambda key: st.entropy_from_logits(np.zeros(integers(key)[0]))),
    (r"dH/dT", lambda _: st.entropy_temperature_slope(LOGITS)),
    (
        r"entropy_bounds\(",
        lambda key: st.token_entropy_bounds(parse_list(key), integers(key.split("],")[1])[0]),
    ),
    (r"hybrid_entropy exact H", lambda _: st.entropy_from_logits(np.log(P7))),
    (r"cv_hybrid a", lambda _: control_variate_of_p7()),
    (r"cv_hybrid var", lambda _: hybrid_moments(P7, 3)[1]),
    (r"hybrid var per token|naive hybrid var", lambda _: without_control_variate(P7, 3)),
    (r"surprisal var", lambda _: surprisal_variance(P7)),
    (
        r"variance ratio surprisal/hybrid",
        lambda _: surprisal_variance(P7) / without_control_variate(P7, 3),
    ),
    (r"zipf\(", zipf),
    (r"token_mean of", lambda _: st.token_mean([[1, 1], [0] * 8])),
    (r"seq_mean of", lambda _: st.sequence_mean([[1, 1], [0] * 8])),
    (r"answer_entropy_plugin", lambda _: st.answer_entropy(ANSWERS, "plugin")[0]),
    (r"answer_entropy_miller", lambda _: st.answer_entropy(ANSWERS, "miller_madow")[0]),
    (r"answer_entropy_chao_shen", lambda _: st.answer_entropy(ANSWERS, "chao_shen")[0]),
    (r"collision_prob_unbiased", lambda _: st.collision(ANSWERS)[0]),
    (r"simpson_effective_answers", lambda _: 1 / st.collision(ANSWERS)[0]),
    (r"rarefied_distinct", lambda key: st.rarefied_distinct(ANSWERS, integers(key)[0])[0]),
    (r"good_turing_coverage", lambda _: st.answer_coverage(ANSWERS)[0]),
    (r"passk_mean\(p", lambda _: np.mean(1 - (1 - np.array([0.1, 0.3, 0.9, 0.0])) ** 8)),
    (r"dang_upper_bound", lambda _: st.pass_at_k_bound(0.325, float(np.var(DANG)), 8)),
    (r"noisy_observed_p", lambda key: st.observed_success(*numbers(key))),
    (
        r"noisy_signal_g8",
        lambda key: st.true_signal(st.observed_success(numbers(key)[0], 0.62, 0.02), 8),
    ),
    (r"phi2", lambda key: st.usable_signal(numbers(key)[0], 0.62, 0.02)),
    (r"rogan_gladen", lambda key: st.rogan_gladen(numbers(key)[0], 0.62, 0.02)),
    (r"youden_J", lambda key: st.youden_j(*numbers(key))),
    (r"noise_only_signal", lambda _: st.true_signal(st.observed_success(0.0, 1.0, 0.1), 8)),
    (r"audit TPR", audit),
    (r"P\(p in \[\.1|P\(p<p\*", posterior),
    (r"share c in \[1,14\]", lambda _: st.band_share(BAND, [16] * 8, 1 / 16, 14 / 16).mean()),
    (
        r"qwen5 spearman\((entropy|pass@1),(peak|delta)",
        lambda key: st.spearman(*family_measure(key)),
    ),
    (
        r"qwen5 kendall\((entropy|pass@1),(peak|delta)",
        lambda key: st.kendall_tau_b(*family_measure(key)),
    ),
    (r"top1_regret\(select max pass@1; outcome peak", lambda _: st.top1_regret(PASS1, PEAK)),
    (r"top1_regret\(select max entropy; outcome peak", lambda _: st.top1_regret(H, PEAK)),
    (r"spearman\(E_var,peak", lambda _: st.spearman(st.true_group_variance(PASS1, 8), PEAK)),
    (
        r"headroom exact",
        lambda _: np.append(PASS1, [0.351, 0.413]) / st.critical_success(8),
    ),
    (r"headroom rounded", lambda _: np.append(PASS1, [0.351, 0.413]) / 0.083),
    (r"pairs\(C,D,T\) pass@1", lambda _: st.pair_counts(PASS1, PEAK)),
    (r"pairs entropy", lambda _: st.pair_counts(H, PEAK)),
    (r"inversion_rate", lambda _: st.pair_counts(PASS1, PEAK).inversion_rate),
    (r"pooled9 AUROC\(-H; delta<-\.05", lambda _: st.auroc(-POOLED_H, POOLED_DELTA < -0.05)),
    (r"pooled9 AUROC\(-H; delta<0", lambda _: st.auroc(-POOLED_H, POOLED_DELTA < 0)),
    (
        r"pooled9 AUROC\(-pass@1; delta<-\.05",
        lambda _: st.auroc(-POOLED_PASS1, POOLED_DELTA < -0.05),
    ),
    (r"pooled9 AUROC\(-pass@1; delta<0", lambda _: st.auroc(-POOLED_PASS1, POOLED_DELTA < 0)),
    (r"pooled9 spearman\(H", lambda _: st.spearman(POOLED_H, POOLED_DELTA)),
    (r"within-qwen spearman\(pass@1", lambda _: st.spearman(PASS1, DELTA)),
    (r"within-ds spearman\(H", lambda _: st.spearman(DS_H, DS_DELTA)),
    (
        r"family-demeaned spearman\(H",
        lambda _: st.spearman(POOLED_H, POOLED_DELTA, strata=FAMILY),
    ),
    (
        r"stratified perm p",
        lambda _: st.stratified_permutation_p(POOLED_H, POOLED_DELTA, FAMILY),
    ),
    (r"AESL spearman\(entropy", lambda _: st.spearman([0.326, 0.530, 0.553], AESL_OUTCOME)),
    (r"AESL spearman\(selfBLEU", lambda _: st.spearman([0.710, 0.696, 0.694], AESL_OUTCOME)),
    (r"risk_index (qwen|deepseek)", risk_index),
    (r"AUROC\(risk_index; delta<-\.05", lambda _: st.auroc(POOLED_INDEX, POOLED_DELTA < -0.05)),
    (r"AUROC\(risk_index; delta<0", lambda _: st.auroc(POOLED_INDEX, POOLED_DELTA < 0)),
    (r"spearman\(risk,peak", lambda _: st.spearman(POOLED_INDEX[:5], PEAK)),
    (r"spearman\(risk,delta", lambda _: st.spearman(POOLED_INDEX[:5], DELTA)),
    (r"noisy_or", lambda _: st.noisy_or([0.5, 0.25, 0.0], [0.9, 0.6, 0.4])),
    (r"plug-in E\[s_g", plug_in_signal),
    (r"plug-in E\[phat", plug_in_variance),
    (r"plug-in E\[1-", plug_in_pass),
    (
        r"signal_multivalue",
        lambda key: st.group_signal_from_values(TIED_REWARDS, integers(key)[-1])[0],
    ),
    (r"sample var ddof1 of V", lambda _: st.reward_variance(TIED_REWARDS, 8, ddof=1)[0]),
    (r"partial_spearman", lambda _: partial_from_published_correlations()),
    (
        r"min two-sided exact p",
        lambda key: st.exact_permutation_p(*[np.arange(integers(key)[-1])] * 2),
    ),
    (
        r"Var\(signal_hat\)",
        lambda key: (lambda p, n, g: st.signal_sampling_variance(p, int(n), int(g)))(*numbers(key)),
    ),
    (r"nondecoupling dL_SFT", lambda _: st.sft_loss_rise(SFT_POLICY, REWARDS, 0.5)),
    (r"nondecoupling E_q", lambda _: RL_POLICY @ REWARDS),
    (r"nondecoupling reverse", lambda _: (SFT_POLICY - RL_POLICY) @ REWARDS),
    (
        r"pinsker bound",
        lambda _: st.reward_shift_bound(st.kl_divergence(SFT_POLICY, RL_POLICY), 0.0, 1.0),
    ),
    (r"sft_loss_forget_ratio", lambda key: st.forget_ratio(*numbers(key))),
    *(
        (rf"mm\.{name}", lambda _, name=name: getattr(MISMATCH, name))
        for name in (
            *("kl", "k3_kl", "chi2_token", "chi2_seq_product", "log_ppl_diff", "log_ppl_abs_diff"),
            *("ppl_ratio", "training_ppl", "rollout_ppl", "ess", "is_mean"),
        )
    ),
    (r"mm\.chi2_seq_geo", lambda _: MISMATCH.chi2_seq_geometric),
    *DYNAMICS_TABLE,
]

HETEROGENEOUS = np.array([0.0] * 50 + [1.0] * 20 + [0.5] * 30)
DANG = np.array([0.1, 0.3, 0.9, 0.0])
BAND = [0, 1, 3, 15, 16, 8, 14, 2]
AESL_OUTCOME = [40.19, 41.54, 42.26]


def control_variate_of_p7() -> float:
    """``a`` read off the estimate for the most likely token: head + r a."""
    estimate = st.control_variate_entropy(P7[:3], True, np.log(0.5), 7)
    head = -float(P7[:3] @ np.log(P7[:3]))
    return (float(estimate) - head) / float(P7[3:].sum())
