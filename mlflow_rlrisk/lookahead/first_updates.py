"""Does a checkpoint learn from its own signal? A few GRPO updates, tried on stored rollouts.

Pass@k and group signal say what the rollouts hold, not whether the weights take it up at the run's
learning rate, nor whether what is learned on some prompts helps on others. So the first updates of
the run are made on half of the prompts, with rollouts that are there already, and the other half's
rollouts are weighted by how much likelier the updated weights make them. Then the halves change
places. Nothing is sampled, and the weights are put back.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.errors import ConfigError, StatisticsError
from mlflow_rlrisk.evidence import Evidence
from mlflow_rlrisk.forward.teacher_forced import TeacherForcedScorer
from mlflow_rlrisk.lookahead.grpo_updates import Answer, make_update, trainable
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.statistics.counts import FloatVector
from mlflow_rlrisk.statistics.reweighting import (
    GapClosed,
    gap_closed,
    reweighted_success,
)

if TYPE_CHECKING:
    from mlflow_rlrisk.forward.teacher_forced import TokenScores

LEAST_EFFECTIVE_SHARE = 0.1
"""Below it the updated policy is too far from the rollouts for them to speak of it."""

OnStep = Callable[[int, int], None]
Group = tuple[int, slice]
"""Place of a prompt, and which of its rollouts."""

BACKWARD_PASSES = 3
"""Passes that an update costs a rollout, forward and backward; to score it is one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedPrompt:
    """A prompt with its scored rollouts as a trainer sees them.

    Attributes:
        prompt_ids: Tokens of the prompt.
        completions: Tokens of each rollout.
        rewards: Reward of each.
        correct: Whether each is right.
    """

    prompt_ids: Sequence[int]
    completions: Sequence[Sequence[int]]
    rewards: Sequence[float]
    correct: Sequence[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookahead:
    """What the first updates of a run change on prompts that they did not see.

    Attributes:
        closed: Share of the gap to certain success closed by them.
        reach: The same, extended to the length of the run at this pace; higher is safer. An RL run
            slows down, so it is a pace and no forecast.
        pass_at_1: Success before and after, means over prompts.
        effective_share: Mean effective sample size of the weights over the number of rollouts.
        num_prompts: Prompts, half of which teach the other half and the reverse.
        settings: What was tried.
        notes: What the reader has to know.
    """

    closed: GapClosed
    reach: GapClosed
    pass_at_1: tuple[float, float]
    effective_share: float
    num_prompts: int
    settings: LookaheadConfig
    notes: tuple[str, ...] = ()

    def evidence(self) -> Evidence:
        """What the risk component ``lookahead`` reads."""
        tried = self.settings
        return Evidence(
            value=self.reach.value,
            ci_low=self.reach.low,
            ci_high=self.reach.high,
            source=f"{tried.steps} of {counted(tried.run_steps, 'update')} at learning rate "
            f"{tried.learning_rate:g} tried on stored rollouts of "
            f"{counted(self.num_prompts, 'prompt')}",
            num_prompts=self.num_prompts,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"settings": self.settings.model_dump(mode="json")}


def look_ahead(
    model: Any,
    prompts: Sequence[GradedPrompt],
    settings: LookaheadConfig,
    *,
    group_size: int,
    temperature: float,
    seed: int = 0,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    on_step: OnStep | None = None,
) -> Lookahead:
    """Try the first updates on each half of the prompts and weigh the rollouts of the other.

    That is repeated in other halves, for a few updates depend on the order of their groups.

    The objective is GRPO's with the ratio clipped against the policy that drew the rollouts,
    advantages scaled by the group's standard deviation and the mean over the step's tokens
    (arXiv:2402.03300, eq. 3, without KL; token mean as in DAPO, arXiv:2503.14476), under AdamW
    without decay: TRL's defaults.

    Args:
        model: Causal transformers model, on its device, in float32: updates of a small rate vanish
            in 16 bits. It is put back as it was.
        prompts: Prompts with rollouts that this model drew.
        settings: The run.
        group_size: Rollouts of a group.
        temperature: The rollouts' own.
        seed: Of the halves and of the order of groups.
        num_resamples: Resamples of the prompts.
        confidence: Level of the intervals. They hold over prompts and over what the repeats differ
            by: halves, and the order of their groups (`gap_closed`).
        on_step: Told of the passes over rollouts that are done, and of all.

    Raises:
        InsufficientRolloutsError: A half has too few groups for the updates.
        ConfigError: The model is not in float32.
        SamplerError: Logits or gradients are not finite, or there is no memory.
        StatisticsError: Every rollout is right, or the updates went too far to be weighed.
    """
    weights = trainable(model)
    scorer = TeacherForcedScorer(model)
    work = _Work(prompts, settings, group_size, on_step)

    def scored(prompt: GradedPrompt) -> list["TokenScores"]:
        found = scorer.score(_pairs(prompt), temperature=temperature)
        work.did(len(found))
        return found

    lessons = _lessons(prompts, settings, group_size, seed)
    old = [scored(each) for each in prompts]
    initial = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
    tries: list[list[FloatVector]] = [[] for _ in prompts]
    try:
        for batches, held_out in lessons:
            optimizer = _optimizer(weights, settings)
            for groups in batches:
                batch = [a for at, rows in groups for a in _group(prompts[at], old[at], rows)]
                make_update(model, optimizer, batch, settings, temperature=temperature)
                work.did(BACKWARD_PASSES * len(batch))
            for place in held_out:
                tries[place].append(_log_ratios(scored(prompts[place]), old[place]))
            _put_back(weights, initial)
    finally:
        _put_back(weights, initial)
    correct = [np.asarray(each.correct, float) for each in prompts]
    found = [reweighted_success(correct, list(one)) for one in zip(*tries, strict=True)]
    effective = float(np.mean([each.effective_share for each in found]))
    if effective < LEAST_EFFECTIVE_SHARE:
        raise StatisticsError(
            f"after {settings.steps} updates at learning rate {settings.learning_rate:g} the "
            f"rollouts count as {effective:.1%} of their number: too few to weigh; try fewer steps"
        )
    closed = gap_closed(found, num_resamples=num_resamples, seed=seed, confidence=confidence)
    longer = settings.run_steps / settings.steps
    return Lookahead(
        closed=closed,
        reach=GapClosed(
            value=closed.value * longer, low=closed.low * longer, high=closed.high * longer
        ),
        pass_at_1=(
            float(found[0].before.mean()),
            float(np.mean([each.after for each in found])),
        ),
        effective_share=effective,
        num_prompts=len(prompts),
        settings=settings,
    )


class _Work:
    """Counts passes over rollouts, of which all are known before the first."""

    def __init__(
        self,
        prompts: Sequence[GradedPrompt],
        settings: LookaheadConfig,
        group_size: int,
        on_step: OnStep | None,
    ) -> None:
        rollouts = sum(len(each.completions) for each in prompts)
        taught = 2 * settings.repeats * settings.steps * settings.prompts_per_step * group_size
        self._total = rollouts * (1 + settings.repeats) + BACKWARD_PASSES * taught
        self._done, self._on_step = 0, on_step

    def did(self, passes: int) -> None:
        """Tell that so many more are done."""
        self._done += passes
        if self._on_step is not None:
            self._on_step(self._done, self._total)


def _pairs(prompt: GradedPrompt) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [(prompt.prompt_ids, completion) for completion in prompt.completions]


def _log_ratios(new: Sequence["TokenScores"], old: Sequence["TokenScores"]) -> FloatVector:
    """Log probability of each rollout now less before, nats, ``[n]``."""
    pairs = zip(new, old, strict=True)
    return np.array([float((n.logprobs - o.logprobs).sum(dtype=np.float64)) for n, o in pairs])


def _lessons(
    prompts: Sequence[GradedPrompt], settings: LookaheadConfig, group_size: int, seed: int
) -> list[tuple[list[list[Group]], list[int]]]:
    """What is taught in each run of updates, and the prompts that are looked at after it."""
    lessons = []
    for turn in range(settings.repeats):
        halves = _halves(len(prompts), [seed, turn])
        for place, half in enumerate(halves):
            batches = _batches(prompts, half, settings, group_size, [seed, turn, place])
            lessons.append((batches, halves[1 - place]))
    return lessons


def _halves(num_prompts: int, seed: list[int]) -> tuple[list[int], list[int]]:
    if num_prompts < 2:
        need = "one half teaches, the other is looked at: at least 2 are needed"
        raise ConfigError("prompts", num_prompts, need)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num_prompts)
    return sorted(order[::2].tolist()), sorted(order[1::2].tolist())


def _batches(
    prompts: Sequence[GradedPrompt],
    half: Sequence[int],
    settings: LookaheadConfig,
    group_size: int,
    seed: list[int],
) -> list[list[Group]]:
    """The groups of each update: every prompt once before any comes again."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = [len(each.completions) for each in prompts]
    groups: list[Group] = []
    for end in range(group_size, max(sizes[place] for place in half) + 1, group_size):
        rows = slice(end - group_size, end)
        groups += [(place, rows) for place in rng.permutation(half).tolist() if sizes[place] >= end]
    needed = settings.steps * settings.prompts_per_step
    settings.require_groups(len(groups), group_size)
    return [
        groups[first : first + settings.prompts_per_step]
        for first in range(0, needed, settings.prompts_per_step)
    ]


def _group(prompt: GradedPrompt, old: Sequence["TokenScores"], rows: slice) -> list[Answer]:
    rewards = np.array(prompt.rewards[rows], dtype=np.float64)
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)  # TRL's epsilon
    columns = zip(prompt.completions[rows], advantages, old[rows], strict=True)
    return [
        Answer(
            prompt_ids=prompt.prompt_ids,
            completion=completion,
            advantage=float(advantage),
            old_logprobs=scores.logprobs,
        )
        for completion, advantage, scores in columns
    ]


def _optimizer(weights: dict[str, Any], settings: LookaheadConfig) -> Any:
    import torch

    return torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=0.0)


def _put_back(weights: dict[str, Any], initial: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(initial[name])
            weight.grad = None
