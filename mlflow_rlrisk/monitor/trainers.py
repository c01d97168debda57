"""Ten trainers: metric names, units, what their entropy is, and which setting brings a metric.

Names and units follow the trainers' sources of 2026 (TRL 1.16, verl 0.9, OpenRLHF 0.11, prime-rl,
NeMo-RL, slime, SkyRL, rLLM, tinker-cookbook, ms-swift).
"""

from collections.abc import Iterable, Mapping

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.adapters import Adapter, EntropyKind, Input, Reading


def _as_is(value: float) -> float:
    return value


def _percent_total(*values: float) -> float:
    return sum(values) / 100.0


def _share_total(*values: float) -> float:
    return sum(values)


def _rest(mixed: float) -> float:
    return 1.0 - mixed


def _dropped(kept: float) -> float:
    """OpenRLHF logs percent; at most 1 is a share, for under 1 % no run would go on."""
    return 1.0 - (kept if kept <= 1.0 else kept / 100.0)


def _share_of(none: float, every: float, partial: float) -> float | None:
    """Shares, percent or counts alike: the three parts are everything."""
    total = none + every + partial
    return (none + every) / total if total > 0.0 else None


def _all_equal(group_std: float) -> float | None:
    """A mean of group spreads that is 0 has every group at 0; another says nothing of the share."""
    return 1.0 if abs(group_std) < 1e-8 else None


def _names(*names: str) -> tuple[Reading, ...]:
    return tuple(Reading((name,), _as_is) for name in names)


_EXACT = EntropyKind(estimator="exact", temperature="rollout", aggregation="token mean")
_TRL_READINGS: Mapping[Input, tuple[Reading, ...]] = {
    "entropy": _names("entropy"),
    "reward": _names("reward"),
    "reward_std": _names("reward_std"),
    "zero_variance": _names("frac_reward_zero_std"),
    "grad_norm": _names("grad_norm"),
    "truncated": _names("completions/clipped_ratio"),
    "length": _names("completions/mean_length", "completion_length"),  # the latter in early TRL
    "reference_kl": _names("kl"),
    "entropy_coef": _names("entropy_coef"),
    "is_mean": _names("sampling/importance_sampling_ratio/mean"),
}
_TRL_HINTS: Mapping[Input, str] = {
    "entropy": "GRPOTrainer logs `entropy`: set logging_steps=1 and report_to",
    "zero_variance": "GRPOTrainer logs `frac_reward_zero_std`: set logging_steps=1",
    "is_mean": "GRPOConfig(use_vllm=True, vllm_importance_sampling_correction=True)",
    "grad_norm": "`grad_norm` is logged by the transformers Trainer when max_grad_norm > 0",
}
_VERL_READINGS: Mapping[Input, tuple[Reading, ...]] = {
    "entropy": _names("actor/entropy", "actor/entropy_loss"),
    "reward": _names("critic/score/mean", "critic/rewards/mean"),
    "reward_min": _names("critic/score/min", "critic/rewards/min"),
    "reward_max": _names("critic/score/max", "critic/rewards/max"),
    "grad_norm": _names("actor/grad_norm"),
    "truncated": _names("response_length/clip_ratio"),
    "length": _names("response_length/mean"),
    "reference_kl": _names("actor/kl_loss"),
    # Below "mismatch" in verl 0.6, with the same definitions.
    "is_mean": _names("rollout_corr/rollout_is_mean", "mismatch/rollout_is_mean"),
    "is_ess": _names(
        "rollout_corr/rollout_is_eff_sample_size", "mismatch/rollout_is_eff_sample_size"
    ),
    "is_std": _names("rollout_corr/rollout_is_std", "mismatch/rollout_is_std"),
    "mismatch_kl": _names("rollout_corr/kl", "mismatch/mismatch_kl"),
    "chi2_token": _names("rollout_corr/chi2_token"),
}
_VERL_ENTROPY_FLAG = "actor_rollout_ref.actor.calculate_entropy=True"
_VERL_HINTS: Mapping[Input, str] = {
    "entropy": f"{_VERL_ENTROPY_FLAG} (needed when entropy_coeff is 0)",
    "zero_variance": "not logged by verl: dump rollouts with trainer.rollout_data_dir=DIR "
    "(algorithm.filter_groups.enable=True removes such groups instead)",
    "is_mean": "actor_rollout_ref.rollout.calculate_log_probs=True",
}

ADAPTERS: Mapping[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            name="trl",
            readings=_TRL_READINGS,
            entropy=_EXACT,
            hints=_TRL_HINTS,
            std_is_of_batch=True,
        ),
        Adapter(
            name="verl",
            readings=_VERL_READINGS,
            entropy=EntropyKind(
                estimator="exact", temperature="rollout", aggregation="loss_agg_mode"
            ),
            hints=_VERL_HINTS,
        ),
        Adapter(
            name="openrlhf",
            readings={
                "entropy": _names("entropy_loss"),
                "reward": _names("rollout/reward_mean", "reward"),
                "zero_variance": (
                    Reading(("dynamic_filtering_pass_rate",), _dropped),
                    Reading(("rollout/dynamic_filtering_pass_rate",), _dropped),
                    Reading(("group_reward_std",), _all_equal),
                ),
                "grad_norm": _names("actor_grad_norm", "grad_norm"),
                "truncated": _names("rollout/truncated_rate", "truncated_rate"),
                "length": _names("response_length", "rollout/response_length_mean"),
                "reference_kl": _names("kl"),
                "mismatch_kl": _names("vllm_kl"),
            },
            entropy=EntropyKind(estimator="exact", temperature="one", aggregation="token mean"),
            hints={
                "entropy": "--entropy_loss_coef 0 (logs the entropy without a bonus)",
                "zero_variance": "--dynamic_filtering --dynamic_filtering_reward_range 0 1",
                "mismatch_kl": "--enable_vllm_is_correction",
            },
        ),
        Adapter(
            name="prime-rl",
            readings={
                "entropy": _names("entropy/all/mean", "entropy/mean"),
                "reward": _names("reward/all/mean", "reward/mean"),
                "zero_variance": (
                    Reading(("solved_none", "solved_all", "solved_some"), _share_of),
                    Reading(("solved_none", "solved_all"), _share_total),
                    Reading(("solve_none", "solve_all"), _share_total),
                    Reading(("batch/solve_none", "batch/solve_all"), _share_total),
                ),
                "grad_norm": _names("optim/grad_norm"),
                "truncated": _names("is_truncated/all/mean", "is_truncated/mean"),
                "length": _names(
                    "decode_len/all/mean", "seq_len/all/mean", "num_total_tokens/mean"
                ),
                "mismatch_kl": _names("mismatch_kl/all/mean", "mismatch_kl/mean"),
            },
            entropy=_EXACT,
            hints={"entropy": "read the trainer's metrics.jsonl as well as the orchestrator's"},
            prefixes=("", "train/", "train/all/", "effective/all/", "all/"),
        ),
        Adapter(
            name="nemo-rl",
            readings={
                "entropy": _names("approx_entropy"),
                "reward": _names("reward"),
                "zero_variance": (
                    Reading(
                        (
                            "baseline_reward/pct_0",
                            "baseline_reward/pct_1",
                            "baseline_reward/pct_mixed",
                        ),
                        _share_of,
                    ),
                    Reading(("baseline_reward/pct_0", "baseline_reward/pct_1"), _percent_total),
                ),
                "grad_norm": _names("grad_norm"),
                "truncated": _names("truncation_rate"),
                "length": _names("mean_gen_tokens_per_sample"),
                "reference_kl": _names("kl_penalty"),
                "prob_error": _names("token_mult_prob_error"),
                "is_mean": _names("sampling_importance_ratio"),
            },
            entropy=EntropyKind(
                estimator="sampled", temperature="rollout", aggregation="token mean, IS weighted"
            ),
            hints={"zero_variance": "baseline_reward/pct_0 and pct_1: 0/1 rewards only"},
        ),
        Adapter(
            name="slime",
            readings={
                "entropy": _names("rollout/entropy"),
                "reward": _names("rollout/raw_reward", "rollout/rewards"),
                "grad_norm": _names("train/grad_norm"),
                "truncated": _names("rollout/truncated_ratio", "rollout/truncated"),
                "length": _names("rollout/response_len/mean", "rollout/response_lengths"),
                "reference_kl": _names("train/kl_loss"),
            },
            entropy=_EXACT,
            hints={
                "entropy": "--use-rollout-entropy",
                "zero_variance": "not logged by slime: --save-debug-rollout-data dumps rollouts",
            },
            prefixes=("",),
        ),
        Adapter(
            name="skyrl",
            readings={
                "entropy": _names("policy/policy_entropy"),
                "reward": _names("reward/avg_raw_reward"),
                "grad_norm": _names("policy/raw_grad_norm", "policy/grad_norm"),
                "length": _names("generate/avg_num_tokens"),
                "reference_kl": _names("loss/avg_kl"),
            },
            entropy=_EXACT,
            hints={"zero_variance": "not logged by SkyRL: trainer.dump_data_batch=true"},
            prefixes=("",),
        ),
        Adapter(
            name="rllm",
            readings={
                **_VERL_READINGS,
                "zero_variance": (
                    Reading(
                        ("batch/solve_none", "batch/solve_all", "batch/solve_partial"),
                        _share_of,
                    ),
                ),
                "reference_kl": _names("policy/kl", "actor/kl_loss"),
            },
            entropy=EntropyKind(
                estimator="exact", temperature="rollout", aggregation="loss_agg_mode"
            ),
            hints={"entropy": f"{_VERL_ENTROPY_FLAG} (needed when entropy_coeff is 0)"},
        ),
        Adapter(
            name="tinker",
            readings={
                "entropy": _names("optim/entropy"),
                "reward": _names("env/all/reward/total"),
                "success": _names("env/all/correct"),
                "zero_variance": (
                    Reading(
                        (
                            "env/all/by_group/frac_all_good",
                            "env/all/by_group/frac_all_bad",
                        ),
                        _share_total,
                    ),
                    Reading(("env/all/by_group/frac_mixed",), _rest),
                ),
                "length": _names("env/all/ac_tokens_per_turn"),
                "mismatch_kl": _names("optim/kl_sample_train_v1"),
            },
            entropy=EntropyKind(
                estimator="sampled", temperature="rollout", aggregation="token mean of -log p"
            ),
            hints={"grad_norm": "not logged by the tinker cookbook"},
            prefixes=("",),
        ),
        Adapter(
            name="ms-swift",
            readings={
                **_TRL_READINGS,
                "entropy": _names("entropy/mean"),
                "is_mean": _names("rollout_correction/rollout_is_mean"),
                "mismatch_kl": _names("rollout_correction/kl"),
                "chi2_token": _names("rollout_correction/chi2_token"),
            },
            entropy=_EXACT,
            hints={**_TRL_HINTS, "entropy": "--log_entropy true", "is_mean": "--use_vllm true"},
        ),
    )
}
"""The adapters by name, in the order in which an ambiguous log is ascribed to them."""

KNOWN = frozenset(name for adapter in ADAPTERS.values() for name in adapter.metric_names())
"""Every name that is read of any trainer's log."""

_INPUT_HINTS: Mapping[Input, str] = {
    "reward": "log the mean training reward of every step",
    "zero_variance": "log the share of groups whose rewards are all equal",
}


_ALIASES = {"nemo": "nemo-rl", "prime": "prime-rl", "swift": "ms-swift", "tinkercookbook": "tinker"}


def adapter_name(text: str) -> str:
    """The adapter that a user's spelling means.

    Raises:
        ConfigError: No trainer is called so.

    >>> adapter_name("NeMo_RL")
    'nemo-rl'
    """
    spelling = "".join(letter for letter in text.casefold() if letter.isalnum())
    known = {name.replace("-", ""): name for name in ADAPTERS} | _ALIASES
    if spelling not in known:
        raise ConfigError("trainer", text, f"unknown; known: {', '.join(ADAPTERS)}")
    return known[spelling]


def detect(names: Iterable[str]) -> Adapter | None:
    """The trainer whose names explain most inputs; ``None`` where no name is known."""
    known = set(names)
    scores = {
        adapter.name: sum(adapter.series_of(name, known) is not None for name in adapter.readings)
        for adapter in ADAPTERS.values()
    }
    best = max(ADAPTERS, key=lambda name: scores[name])
    return ADAPTERS[best] if scores[best] else None


def hint(adapter: Adapter, name: Input) -> str:
    """Which setting of the trainer brings a missing input, or under which name it is logged."""
    if own := adapter.hints.get(name) or _INPUT_HINTS.get(name):
        return own
    names = " or ".join(" and ".join(reading.names) for reading in adapter.readings.get(name, ()))
    if not names:
        return f"{adapter.name} does not log it"
    return f"{adapter.name} logs it as {names}, which this log does not have"
