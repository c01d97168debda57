"""The lines of `PolicyConfig`'s fields, part of the registry in `thresholds`."""

from mlflow_rlrisk.threshold_line import line

POLICY_LINES = (
    line(
        "policy.low_below",
        "upper end of the index's interval",
        "ours",
        "drawn where no failed run of our study lies below; convention until calibrated",
        "`low` needs less",
        value=0.25,
    ),
    line(
        "policy.high_from",
        "lower end of the index's interval",
        "ours",
        "convention until calibrated on outcomes",
        "`high` from here on",
        value=0.66,
    ),
    line(
        "policy.min_prompts",
        "prompts below which intervals mean little",
        "ours",
        "convention; the standard error of pass@1 is 0.05 at 50 prompts of Beta(1/2, 1/2)",
        "`unknown` below",
        value=50,
    ),
    line(
        "policy.max_truncated_share",
        "share of truncated rollouts",
        "ours",
        "convention: the majority of answers was never finished",
        "`unknown` above",
        value=0.5,
    ),
    line(
        "policy.veto_signal_below",
        "upper end of the group signal",
        "definition: the majority of groups is degenerate",
        "exact",
        "`high` below",
        value=0.5,
    ),
    line(
        "policy.low_signal_from",
        "lower end of the group signal",
        "ours",
        "drawn where no failed run of our study lies above; convention until calibrated",
        "`low` needs at least this",
        value=0.75,
    ),
    line(
        "policy.low_headroom_from",
        "lower end of the headroom, pass@1 over p*(g)",
        "arXiv:2606.18487: 4.2 and more all improved; ours: 46 of 65 `low` below it failed, 14 of "
        "114 above",
        "two model families, and our study of small models, all at groups of 8",
        "`low` needs at least this where the run's first updates were not tried",
        value=4.0,
    ),
    line(
        "policy.veto_starved_above",
        "lower end of the starved share",
        "ours",
        "convention",
        "`high` above",
        value=0.7,
    ),
    line(
        "policy.max_component",
        "severity of a single component",
        "ours",
        "convention",
        "`low` needs at most this of every component",
        value=0.5,
    ),
    line(
        "policy.max_fail_probability",
        "calibrated chance that RL fails",
        "ours",
        "convention; read only where a policy names a calibration record that may be used",
        "`low` needs at most this",
        value=0.5,
    ),
)
