"""How a trainer calls what the rules need: metric names, units, and what its entropy is.

A name that is not listed is never read, so a held-out metric (``eval_reward``, ``val-core/...``)
is never taken for a training one. Entropies are of different kinds; each adapter says which, and
a line drawn in nats is applied to an exact entropy at the rollout temperature only.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Input = Literal[
    "entropy",
    "reward",
    "reward_std",
    "reward_min",
    "reward_max",
    "success",
    "zero_variance",
    "grad_norm",
    "truncated",
    "length",
    "reference_kl",
    "entropy_coef",
    "is_mean",
    "is_ess",
    "is_std",
    "mismatch_kl",
    "chi2_token",
    "prob_error",
]
"""The inputs of the rules, by one name whatever the trainer."""


class Reading(NamedTuple):
    """One way to read an input: metric names that occur together, and how they are combined."""

    names: tuple[str, ...]
    combine: Callable[..., float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyKind:
    """What a trainer's entropy is.

    Attributes:
        estimator: ``exact`` over the full softmax, or ``sampled`` from log probabilities.
        temperature: ``rollout`` where logits are divided by the sampling temperature, else ``one``.
        aggregation: Over what it is averaged.
    """

    estimator: Literal["exact", "sampled"]
    temperature: Literal["rollout", "one"]
    aggregation: str

    @property
    def levels_compare(self) -> bool:
        """Whether a line in nats, such as 0.18, may be applied to it."""
        return self.estimator == "exact" and self.temperature == "rollout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One trainer.

    Attributes:
        name: As ``--trainer`` takes it.
        readings: For every input the ways to read it, the preferred one first.
        entropy: What its entropy is.
        hints: For inputs that need a setting, the setting.
        prefixes: Prefixes that its logs put before a name.
        std_is_of_batch: ``reward_std`` is that of all rewards of a batch, not of groups.
    """

    name: str
    readings: Mapping[Input, tuple[Reading, ...]]
    entropy: EntropyKind
    hints: Mapping[Input, str]
    prefixes: tuple[str, ...] = ("", "train/")
    std_is_of_batch: bool = False

    def read(self, metrics: Mapping[str, float]) -> dict[Input, float]:
        """The inputs that one row holds; NaN where all that it has of an input is NaN."""
        values: dict[Input, float] = {}
        for name, readings in self.readings.items():
            found = [v for r in readings if (v := self._read(r, metrics)) is not None]
            if found:
                values[name] = next((v for v in found if not math.isnan(v)), math.nan)
        return values

    def series_of(self, name: Input, names: Iterable[str]) -> str | None:
        """The trainer's own name of an input, as it occurs among ``names``."""
        known = set(names)
        for reading in self.readings.get(name, ()):
            for prefix in self.prefixes:
                if all(prefix + part in known for part in reading.names):
                    return " + ".join(prefix + part for part in reading.names)
        return None

    def metric_names(self) -> set[str]:
        """Every name that is read, with every prefix."""
        return {
            prefix + name
            for readings in self.readings.values()
            for reading in readings
            for name in reading.names
            for prefix in self.prefixes
        }

    def _read(self, reading: Reading, metrics: Mapping[str, float]) -> float | None:
        for prefix in self.prefixes:
            values = [metrics[each] for name in reading.names if (each := prefix + name) in metrics]
            if len(values) == len(reading.names):
                return math.nan if any(map(math.isnan, values)) else reading.combine(*values)
        return None
