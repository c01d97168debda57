"""Histories of RL runs with known fates: healthy with realistic noise, and failing in known ways.

Group outcomes are drawn, not scripted: each step has ``num_prompts`` groups of 8, every prompt a
success rate from a Beta distribution whose mean drifts, so that reward and zero-variance share
have the noise and the dependence that a trainer's log has.
"""

from dataclasses import dataclass

import numpy as np

from mlflow_rlrisk.monitor import LogRow
from mlflow_rlrisk.statistics import beta_signal

GROUP_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class HealthyRun:
    """What a healthy run looks like.

    Attributes:
        num_steps: Length.
        num_prompts: Groups a step.
        start: Mean success at the start.
        end: Mean success at the end.
        spread: Beta concentration; small makes prompts polarised.
        entropy: Entropy at the start (nats).
        entropy_loss: Share of it that the whole run spends.
        entropy_noise: Relative standard deviation of a log.
        seed: Of all noise.
    """

    num_steps: int
    num_prompts: int
    start: float
    end: float
    spread: float
    entropy: float
    entropy_loss: float
    entropy_noise: float
    seed: int

    def zero_variance(self, mean: float) -> float:
        """Expected share of groups without a reward difference at a mean success."""
        return 1.0 - float(beta_signal(self.spread * mean, self.spread * (1.0 - mean), GROUP_SIZE))


HEALTHY_ZERO_VARIANCE = 0.45
"""Upper end of the shares that published GRPO runs start from (arXiv:2605.21125)."""


def random_healthy_run(rng: np.random.Generator) -> HealthyRun:
    """A healthy run of settings that are met in practice.

    Healthy means that the expected share of zero-variance groups stays within what published
    runs have; a run whose prompts are nearly all solved or all missed is none.
    """
    while True:
        start = float(rng.uniform(0.2, 0.6))
        run = HealthyRun(
            num_steps=int(rng.choice([150, 200, 400])),
            num_prompts=int(rng.choice([32, 64, 128])),
            start=start,
            end=float(min(start + rng.uniform(0.05, 0.3), 0.85)),
            spread=float(rng.uniform(1.0, 4.0)),
            entropy=float(rng.uniform(0.15, 0.8)),
            entropy_loss=float(rng.uniform(-0.2, 0.4)),
            entropy_noise=float(rng.uniform(0.02, 0.10)),
            seed=int(rng.integers(2**31)),
        )
        if max(map(run.zero_variance, (run.start, run.end))) <= HEALTHY_ZERO_VARIANCE:
            return run


def healthy_rows(run: HealthyRun) -> list[LogRow]:
    """The run's log under TRL's names."""
    rng = np.random.default_rng(run.seed)
    rows = []
    wander = 0.0
    for step in range(1, run.num_steps + 1):
        progress = 1.0 - np.exp(-3.0 * step / run.num_steps)
        mean = run.start + (run.end - run.start) * progress
        wander = 0.8 * wander + rng.normal(0.0, run.entropy_noise * 0.6)
        entropy = run.entropy * (1.0 - run.entropy_loss * progress) * max(1.0 + wander, 0.05)
        rows.append(
            LogRow(
                step,
                {
                    **_groups(rng, mean, run.spread, run.num_prompts),
                    "entropy": float(entropy),
                    "grad_norm": float(np.exp(rng.normal(-1.0, 0.3))),
                    "completions/clipped_ratio": float(rng.beta(1.0, 40.0)),
                    "completions/mean_length": float(300 * (1.0 + 0.4 * progress))
                    * float(np.exp(rng.normal(0.0, 0.06))),
                },
            )
        )
    return rows


def _groups(
    rng: np.random.Generator, mean: float, spread: float, num_prompts: int
) -> dict[str, float]:
    success = rng.beta(spread * mean, spread * (1.0 - mean), num_prompts)
    correct = rng.binomial(GROUP_SIZE, success)
    rewards = correct.sum() / (GROUP_SIZE * num_prompts)
    return {
        "reward": float(rewards),
        "reward_std": float(np.sqrt(rewards * (1.0 - rewards))),
        "frac_reward_zero_std": float(np.mean((correct == 0) | (correct == GROUP_SIZE))),
    }


def collapsing_rows(run: HealthyRun, onset: int, length: int) -> list[LogRow]:
    """The run with an entropy collapse: from ``onset`` over ``length`` steps down to a tenth.

    Success polarises with it: prompts end up solved always or never.
    """
    rng = np.random.default_rng(run.seed + 1)
    rows = []
    for row in healthy_rows(run):
        part = float(np.clip((row.step - onset) / length, 0.0, 1.0))
        if part == 0.0:
            rows.append(row)
            continue
        spread = run.spread * (1.0 - part) + 0.1 * part
        changed = {
            **row.metrics,
            **_groups(rng, run.start, spread, run.num_prompts),
            "entropy": row.metrics["entropy"] * 0.1**part,
        }
        rows.append(LogRow(row.step, changed))
    return rows


def surging_rows(run: HealthyRun, onset: int, length: int) -> list[LogRow]:
    """The run with an entropy surge: up to four times its start, success down to nothing."""
    rng = np.random.default_rng(run.seed + 2)
    rows = []
    for row in healthy_rows(run):
        part = float(np.clip((row.step - onset) / length, 0.0, 1.0))
        if part == 0.0:
            rows.append(row)
            continue
        mean = max(run.start * (1.0 - part), 1e-3)
        changed = {
            **row.metrics,
            **_groups(rng, mean, run.spread, run.num_prompts),
            "entropy": row.metrics["entropy"] * 4.0**part,
            "grad_norm": 0.0 if part == 1.0 else row.metrics["grad_norm"],
        }
        rows.append(LogRow(row.step, changed))
    return rows


def drop_history(drop: float, steps: list[int], start: float = 0.2) -> list[LogRow]:
    """Entropy that falls evenly by a share between steps 10 and 150, level before and after."""
    rows = []
    for step in steps:
        part = min(max((step - 10) / 140, 0.0), 1.0)
        metrics = {"entropy": start * (1.0 - drop * part), "reward": 0.4, "grad_norm": 0.3}
        rows.append(LogRow(step, {**metrics, "frac_reward_zero_std": 0.3}))
    return rows


PILOT = (
    # step, entropy, reward, zero-variance share, gradient norm, truncated share
    (5, 0.2195, 0.28, 0.34, 0.50, 0.02),
    (10, 0.2260, 0.27, 0.36, 0.48, 0.02),
    (15, 0.3410, 0.22, 0.40, 0.45, 0.03),
    (20, 0.5760, 0.16, 0.44, 0.40, 0.05),
    (25, 0.9100, 0.11, 0.48, 0.33, 0.07),
    (30, 1.3000, 0.06, 0.66, 0.12, 0.09),
    (35, 1.7000, 0.01, 0.94, 0.0, 0.31),
    (40, 1.9000, 0.00, 1.00, 0.0, 0.45),
)
"""A run that died by entropy rising to 2.6 times its start at step 20. Published are the entropies
at its start and at step 20, success below p*(8) at step 30 and no gradient at 35; the values
between are filled in."""


def pilot_rows() -> list[LogRow]:
    """`PILOT` under TRL's names."""
    names = ("entropy", "reward", "frac_reward_zero_std", "grad_norm", "completions/clipped_ratio")
    return [LogRow(step, dict(zip(names, rest, strict=True))) for step, *rest in PILOT]
