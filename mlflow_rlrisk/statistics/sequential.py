"""How sure an interval must be when the data are looked at several times.

Whoever looks again and again, and stops at the first look that decides, errs at any of them. So
the error rate is shared out over the looks before the first one (alpha spending), by the union
bound: it asks nothing of how the looks depend on each other, so one share serves every metric,
whether a look adds prompts or samples. The intervals are then repeated confidence intervals
(Jennison and Turnbull 1989, doi:10.1111/j.2517-6161.1989.tb01763.x): all of them hold together,
whatever rule stops.
"""

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.statistics.counts import check_at_least, check_open_unit

FINAL_SHARE = 0.5
"""Share of the error rate kept for the last look, where the hard cases end up."""

TAIL_DRAWS = 10
"""Bootstrap draws wanted beyond each end of an interval; a quantile of fewer is mostly noise."""


def look_confidences(num_looks: int, confidence: float = 0.95) -> tuple[float, ...]:
    """Confidence of the interval at each look, so that all together hold at ``confidence``.

    One look keeps the level. Else half of the error rate is for the last look and the rest is
    split evenly over those before it.

    Args:
        num_looks: Looks that are planned, at least 1.
        confidence: Level that all intervals reach together, strictly between 0 and 1.

    Returns:
        One level a look.

    Raises:
        ConfigError: An argument is out of range.

    >>> [round(level, 4) for level in look_confidences(3, 0.95)]
    [0.9875, 0.9875, 0.975]
    """
    looks = check_at_least("num_looks", num_looks, 1)
    error = 1.0 - check_open_unit("confidence", confidence)
    if looks == 1:
        return (confidence,)
    early = (1.0 - FINAL_SHARE) * error / (looks - 1)
    return (*(1.0 - early for _ in range(looks - 1)), 1.0 - FINAL_SHARE * error)


def resamples_needed(confidence: float, at_least: int) -> int:
    """Bootstrap resamples that leave `TAIL_DRAWS` draws beyond each end of an interval.

    Raises:
        ConfigError: ``confidence`` is not strictly between 0 and 1.

    >>> resamples_needed(0.95, 200), resamples_needed(0.995, 2000)
    (400, 4000)
    """
    tail = (1.0 - check_open_unit("confidence", confidence)) / 2.0
    return max(at_least, round(TAIL_DRAWS / tail))


def look_sizes(
    *, num_prompts: int, num_samples: int, first_prompts: int, first_samples: int
) -> tuple[tuple[int, int], ...]:
    """Prompts and samples per prompt at each look: prompts double, then samples.

    Prompts come first, for their number dominates the error of every mean over prompts. The last
    look is the whole budget.

    Args:
        num_prompts: Prompts of the whole budget.
        num_samples: Samples per prompt of the whole budget.
        first_prompts: Prompts at the first look; all where there are fewer.
        first_samples: Samples per prompt until all prompts are in; at most ``num_samples``.

    Returns:
        ``(prompts, samples)`` a look, growing.

    Raises:
        ConfigError: A size is below 1, or ``first_samples`` exceeds ``num_samples``.

    >>> look_sizes(num_prompts=200, num_samples=16, first_prompts=64, first_samples=8)
    ((64, 8), (128, 8), (200, 8), (200, 16))
    """
    prompts = check_at_least("num_prompts", num_prompts, 1)
    samples = check_at_least("num_samples", num_samples, 1)
    wanted = check_at_least("first_prompts", first_prompts, 1)
    few = check_at_least("first_samples", first_samples, 1)
    if few > samples:
        raise ConfigError("first_samples", few, f"at most num_samples={samples}")
    sizes = []
    while wanted < prompts:
        sizes.append((wanted, few))
        wanted *= 2
    sizes.append((prompts, few))
    return tuple(sizes) if few == samples else (*sizes, (prompts, samples))
