"""The inputs of the rules as columns that only grow, and rewards turned into success rates.

A rule reads columns up to the newest row and nothing else, which is why a run judged while it
goes on and the same log judged afterwards give the same alarms.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.monitor.adapters import Adapter, Input
from mlflow_rlrisk.statistics.counts import check_at_least

MOVING_RANGE = 1.128
"""Mean distance of two neighbours over the standard deviation, for normal noise (d2 of Shewhart's
chart for individual values)."""
NOISE_LOGS = 20
"""Logs that the noise of a column is taken from."""
COIN = 0.5
"""Standard deviation of a fair coin."""
SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 2.0))
"""Rewards of a wrong and a right answer that are told apart by the rewards' spread."""
RANGES: Mapping[Input, tuple[float, float]] = {
    "entropy": (0.0, math.inf),
    "reward_std": (0.0, math.inf),
    "success": (0.0, 1.0),
    "zero_variance": (0.0, 1.0),
    "grad_norm": (0.0, math.inf),
    "truncated": (0.0, 1.0),
    "length": (0.0, math.inf),
}
"""What these inputs can be; anything else under their name is another quantity or in percent."""
FEW_GROUPS = 6
"""Of so many groups all are dead at once by chance, now and then, while a run is healthy."""
ROUNDING = 1e-6
LOG_ROUNDING = 1e-3
"""Of a share times `FEW_GROUPS`, where trainers log four digits."""
SPREAD_TOLERANCE = 0.1
SPREAD_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a log does not say of its run.

    Attributes:
        group_size: Rollouts a prompt and step; ``None`` is taken as `DEFAULT_GROUP_SIZE` and said.
        reward_scale: Rewards of a wrong and of a right answer; ``None`` infers or refuses.
        success_metric: The trainer's metric that is a success rate already.
        batch_scaled: Whether the zero-variance share is of the batch (`scales_by_batch`).
        regularised: Whether an entropy or KL bonus is active; ``None`` reads it off the log.
        loss_agg_mode: verl's aggregation; any but ``token-mean`` mixes length into the entropy.
    """

    group_size: int | None = None
    reward_scale: tuple[float, float] | None = None
    success_metric: str | None = None
    batch_scaled: bool = False
    regularised: bool | None = None
    loss_agg_mode: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no run can have.

        Raises:
            ConfigError: The rewards of the two answers are equal or no numbers, or the group is
                smaller than 2.
        """
        if self.group_size is not None:
            check_at_least("group_size", self.group_size, 2)
        scale: Sequence[float] | None = self.reward_scale
        if scale is not None and not (len(scale) == 2 and 0 < abs(scale[1] - scale[0]) < math.inf):
            need = "two different numbers are needed, such as -1,1"
            raise ConfigError("reward_scale", scale, need)


DEFAULT_GROUP_SIZE = 8


def scales_by_batch(settings: Mapping[str, object]) -> bool:
    """Whether these settings of TRL divide by the spread of the batch, whose share it logs then."""
    return (
        str(settings.get("scale_rewards")).lower() == "batch"
        or settings.get("multi_objective_aggregation") == "normalize_then_sum"
    )


class Track(NamedTuple):
    """One column: the steps that have the input, and its values."""

    steps: list[int]
    values: list[float]

    def start(self, until_step: int) -> float:
        """Median of what is logged up to a step; the first value where nothing is."""
        ordered = sorted(self.values[: max(bisect_right(self.steps, until_step), 1)])
        middle = len(ordered) // 2
        if len(ordered) % 2:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2.0

    def noise(self) -> float:
        """Standard deviation about the trend, from the mean distance of neighbours.

        A column of nothing but 0 and 1 is that of steps with a single group: chance alone makes
        long runs of either, so it is as noisy as a coin.
        """
        recent = self.values[-NOISE_LOGS - 1 :]
        if len(recent) < 2:
            return 0.0
        if all(value in (0.0, 1.0) for value in recent):
            return COIN
        distances = [abs(b - a) for a, b in pairwise(recent)]
        return sum(distances) / len(distances) / MOVING_RANGE


@dataclass(slots=True)
class Tracks:
    """Every column of a run so far.

    Attributes:
        adapter: Its trainer.
        facts: What the log does not say.
        columns: Finite values by input.
        out_of_range: How many values could not be what their name says.
        undefined: Inputs that are NaN at their newest logs, with the steps since the last finite
            one.
    """

    adapter: Adapter
    facts: RunFacts
    columns: dict[Input, Track] = field(default_factory=dict)
    out_of_range: dict[Input, int] = field(default_factory=dict)
    undefined: dict[Input, list[int]] = field(default_factory=dict)
    _success: Track = field(default_factory=lambda: Track([], []))
    _success_scale: tuple[float, float] | None = None
    _spread_hits: list[int] = field(default_factory=lambda: [0] * len(SCALES))
    _num_spreads: int = 0
    _lowest: float = math.inf
    _highest: float = -math.inf
    _least: float = math.inf
    _largest: float = -math.inf
    _num_overspread: int = 0
    _group_counts: list[int] = field(default_factory=lambda: list(range(1, FEW_GROUPS + 1)))

    def extend(self, step: int, values: dict[Input, float]) -> None:
        """Take the inputs of the next step, those that can be what their name says."""
        for name, value in values.items():
            if math.isnan(value):
                self.undefined.setdefault(name, []).append(step)
            else:
                self.undefined.pop(name, None)
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        for name in [name for name, value in values.items() if _is_beyond(name, value)]:
            self.out_of_range[name] = self.out_of_range.get(name, 0) + 1
            values = {other: value for other, value in values.items() if other != name}
        for name, value in values.items():
            track = self.columns.setdefault(name, Track([], []))
            track.steps.append(step)
            track.values.append(value)
        if (share := values.get("zero_variance")) is not None:
            self._group_counts = [n for n in self._group_counts if _is_share_of(share, n)]
        reward, std = values.get("reward"), values.get("reward_std")
        if reward is not None:
            self._lowest, self._highest = min(self._lowest, reward), max(self._highest, reward)
            self._least = min(self._least, values.get("reward_min", math.inf))
            self._largest = max(self._largest, values.get("reward_max", -math.inf))
            if std is not None and self.adapter.std_is_of_batch:
                self._count_spread(reward, std)
            self._extend_success(step, reward)

    def get(self, name: Input) -> Track | None:
        """A column, or ``None`` where nothing was logged."""
        return self.columns.get(name)

    def comparable_entropy(self) -> Track | None:
        """Entropy, unless it was aggregated so that it grows with the length of completions."""
        if self.facts.loss_agg_mode not in (None, "token-mean"):
            return None
        return self.columns.get("entropy")

    def success(self) -> Track | None:
        """The share of right answers, by the scale of the rewards; ``None`` where it is unknown.

        Where a metric was named for it, that one or nothing.
        """
        direct = self.columns.get("success")
        if direct is not None or self.facts.success_metric is not None:
            return direct
        return self._success if self._success_scale is not None else None

    @property
    def reward_input(self) -> Input:
        """What success is read from: a success rate where one is logged, else the rewards."""
        return "success" if "success" in self.columns else "reward"

    def scale(self) -> tuple[float, float] | None:
        """Rewards of a wrong and of a right answer: as stated, as the rewards say, or 0 and 1.

        A scale that a mean reward lies outside of is not that of the rewards. The least and the
        largest reward of the batches, where they are logged, are the ends of a usual scale.
        Two rewards with mean ``r`` have the variance ``(r - fail)(right - r)``; a batch's logged
        standard deviation tells the usual scales apart. Without it, means within 0 and 1 are taken
        for success rates; others are of an unknown scale.
        """
        if self.facts.reward_scale is not None:
            return self.facts.reward_scale if self._holds(self.facts.reward_scale) else None
        if (self._least, self._largest) in SCALES:
            return self._least, self._largest
        if self._least < 0.0 or self._largest > 1.0:
            return None
        likely = [
            scale
            for scale, hits in zip(SCALES, self._spread_hits, strict=True)
            if self._num_spreads and hits >= SPREAD_SHARE * self._num_spreads and self._holds(scale)
        ]
        if len(likely) == 1:
            return likely[0]
        is_overspread = 2 * self._num_overspread > self._num_spreads
        return (0.0, 1.0) if self._holds((0.0, 1.0)) and not is_overspread else None

    @property
    def group_size(self) -> int:
        """Rollouts a prompt and step, stated or assumed."""
        return self.facts.group_size or DEFAULT_GROUP_SIZE

    @property
    def few_groups(self) -> int | None:
        """Groups a log, at most `FEW_GROUPS` and the fewest that all shares of dead ones fit."""
        is_known = "zero_variance" in self.columns and not self.facts.batch_scaled
        return min(self._group_counts, default=None) if is_known else None

    @property
    def is_regularised(self) -> bool:
        """Whether an entropy or KL bonus is active, stated or read off the log."""
        if self.facts.regularised is not None:
            return self.facts.regularised
        bonuses = [self.columns.get("reference_kl"), self.columns.get("entropy_coef")]
        return any(any(v != 0.0 for v in track.values) for track in bonuses if track)

    def _holds(self, scale: tuple[float, float]) -> bool:
        """Whether every reward so far lies on a scale."""
        low, high = sorted(scale)
        slack = ROUNDING * (high - low)
        return low - slack <= self._lowest and self._highest <= high + slack

    def _count_spread(self, reward: float, std: float) -> None:
        self._num_spreads += 1
        for index, (fail, right) in enumerate(SCALES):
            wanted = (max(reward - fail, 0.0) * max(right - reward, 0.0)) ** 0.5
            if abs(std - wanted) <= SPREAD_TOLERANCE * max(wanted, 0.05):
                self._spread_hits[index] += 1
        share = min(max(reward, 0.0), 1.0)
        most = max(share * (1.0 - share), 0.01) ** 0.5
        # Twice the tolerance: the trainer divides by n - 1 and averages over logs.
        self._num_overspread += std > (1.0 + 2.0 * SPREAD_TOLERANCE) * most

    def _extend_success(self, step: int, reward: float) -> None:
        scale = self.scale()
        if scale == self._success_scale:
            steps, rewards = [step], [reward]
        else:
            track = self.columns["reward"]
            steps, rewards = track.steps, track.values
            self._success, self._success_scale = Track([], []), scale
        if scale is None:
            return
        fail, right = scale
        self._success.steps.extend(steps)
        self._success.values.extend((r - fail) / (right - fail) for r in rewards)


def _is_share_of(share: float, count: int) -> bool:
    return abs(share * count - round(share * count)) < LOG_ROUNDING


def _is_beyond(name: Input, value: float) -> bool:
    low, high = RANGES.get(name, (-math.inf, math.inf))
    return not low - ROUNDING <= value <= high + ROUNDING
