"""GradedGroup -> PromptStatistics: everything a report needs of one prompt, as counts and sums.

It runs beside sampling for every group, so all work on tokens is vectorised over the group. It
judges nothing: truncated rollouts are graded as they are and counted, failed verifications are
counted and never become a wrong answer.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.records import (
    UNKNOWN_TOKEN,
    EntropyBounds,
    FinishReason,
    FloatArray,
    Grade,
    GradedGroup,
    GradeStatus,
    IntArray,
    PromptStatistics,
    Rollout,
)
from mlflow_rlrisk.statistics.groups import REWARD_TOLERANCE
from mlflow_rlrisk.statistics.pressure import entropy_pressure
from mlflow_rlrisk.verifiers import ATTACK_NOTE, PROGRAM_NOTE

__all__ = ["LOW_ENTROPY_NATS", "EntropyProfile", "ends_in_loop", "measure", "successes"]

LOW_ENTROPY_NATS = 0.01
"""Below it a token is as good as decided: its likeliest alternative has under 0.2 %."""
MAX_LOOP_PERIOD = 32
"""Longest repeated phrase, in tokens, that counts as a loop."""
LOOP_REPEATS = 4
"""A loop says its phrase at least this often ..."""
MIN_LOOP_TOKENS = 32
"""... and goes on for at least this many tokens, so that ``000000`` in a number is none."""

_FAILURES = (GradeStatus.FAILED, GradeStatus.TIMED_OUT)


def measure(group: GradedGroup, success_threshold: float | None) -> PromptStatistics:
    """Count one prompt.

    Args:
        group: All rollouts of the prompt with one grade each.
        success_threshold: Rewards at or above it are correct. ``None`` accepts rewards 0 and 1
            only; with any other reward success is undefined and ``num_correct`` is ``None``.

    Returns:
        The counts. ``answer_counts`` and ``num_unparsed`` are ``None`` when no rollout of the
        group has an answer: whether the verifier reads answers at all shows only over all
        prompts, and is settled there.
    """
    scored = [
        (rollout, grade)
        for rollout, grade in zip(group.rollouts, group.grades, strict=True)
        if grade.is_scored
    ]
    rewards = tuple(float(grade.reward) for _, grade in scored if grade.reward is not None)
    correct = successes(rewards, success_threshold)
    answers = [grade.answer for _, grade in scored if grade.answer is not None]
    texts = [_normalised(rollout.completion) for rollout in group.rollouts]
    right = list(compress(scored, correct or ()))
    correct_texts = [_normalised(rollout.completion) for rollout, _ in right]
    right_answers = [grade.answer for _, grade in right if grade.answer is not None]
    entropy_sum, sequence_entropy, num_low = _entropy(group.rollouts)
    bounds = _bounds(group.rollouts)
    return PromptStatistics(
        prompt_id=group.prompt.id,
        num_samples=len(group.rollouts),
        num_scored=len(scored),
        num_correct=None if correct is None else sum(correct),
        num_failed=sum(grade.status in _FAILURES for grade in group.grades),
        num_truncated=sum(rollout.is_truncated for rollout in group.rollouts),
        rewards=rewards,
        num_tokens=sum(rollout.token_ids.size for rollout in group.rollouts),
        entropy_sum=entropy_sum,
        sequence_entropy=sequence_entropy,
        num_low_entropy=num_low,
        nll_sum=_nll(group.rollouts),
        answer_counts=_multiplicities(answers) if answers else None,
        correct_counts=None if correct is None else _multiplicities(correct_texts),
        text_counts=_multiplicities(texts),
        num_loops=_num_loops(group.rollouts),
        num_unparsed=len(scored) - len(answers) if answers else None,
        sequence_entropy_lower=_sequence_mean([each.lower for each in bounds]),
        sequence_entropy_upper=_sequence_mean([each.upper for each in bounds]),
        sequence_entropy_estimate=_sequence_mean([each.estimate for each in bounds]),
        entropy_pressure=_pressure([rollout for rollout, _ in scored], rewards),
        num_attacks=_num_attacks([grade for _, grade in scored]),
        right_answer_counts=(
            _multiplicities(right_answers) if answers and correct is not None else None
        ),
        scored_text_counts=(
            _multiplicities([_normalised(rollout.completion) for rollout, _ in scored])
            if len(scored) < len(group.rollouts)
            else None
        ),
    )


def _num_attacks(grades: Sequence[Grade]) -> int | None:
    """Programs that attacked the judge, where a judge of programs graded."""
    notes = [grade.reason for grade in grades if (grade.reason or "").startswith(PROGRAM_NOTE)]
    return sum(ATTACK_NOTE in (note or "") for note in notes) if notes else None


def successes(rewards: Sequence[float], threshold: float | None) -> list[bool] | None:
    """Which rewards are right answers; ``None`` where success is not defined, as in `measure`."""
    if threshold is not None:
        return [reward >= threshold for reward in rewards]
    if all(reward in (0.0, 1.0) for reward in rewards):
        return [reward == 1.0 for reward in rewards]
    return None


def _normalised(completion: str) -> str:
    """The text with runs of white space made one space: layout is no diversity."""
    return " ".join(completion.split())


def _multiplicities(values: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted(Counter(values).values(), reverse=True))


def _entropy(
    rollouts: Sequence[Rollout],
) -> tuple[float | None, float | None, int | None]:
    """Entropy sum, mean of per-rollout means, tokens below `LOW_ENTROPY_NATS`; or no value."""
    parts = [rollout.entropies for rollout in rollouts if rollout.entropies is not None]
    if not parts or len(parts) < len(rollouts):
        return None, None, None
    lengths = np.array([part.size for part in parts])
    entropies = np.concatenate(parts).astype(np.float64, copy=False)
    sums = np.add.reduceat(entropies, np.cumsum(lengths) - lengths)
    num_low = int(np.count_nonzero(entropies < LOW_ENTROPY_NATS))
    return float(sums.sum()), float((sums / lengths).mean()), num_low


def _bounds(rollouts: Sequence[Rollout]) -> list[EntropyBounds]:
    """The bounds of every rollout, or none where one of them has none."""
    found = [each.entropy_bounds for each in rollouts if each.entropy_bounds is not None]
    return found if len(found) == len(rollouts) else []


def _sequence_mean(parts: Sequence[FloatArray | None]) -> float | None:
    """Mean over rollouts of their means ``[T]``; no value where one of them has none."""
    means = [float(part.mean(dtype=np.float64)) for part in parts if part is not None]
    return sum(means) / len(means) if means and len(means) == len(parts) else None


def _num_loops(rollouts: Sequence[Rollout]) -> int | None:
    """Rollouts that end in a loop; tokens that were counted only cannot tell."""
    if any((rollout.token_ids == UNKNOWN_TOKEN).any() for rollout in rollouts):
        return None
    return int(ends_in_loop(rollouts).sum())


def _nll(rollouts: Sequence[Rollout]) -> float | None:
    parts = [rollout.logprobs for rollout in rollouts if rollout.logprobs is not None]
    if not parts or len(parts) < len(rollouts):
        return None
    return -float(np.concatenate(parts).sum(dtype=np.float64))


def _pressure(rollouts: Sequence[Rollout], rewards: Sequence[float]) -> float | None:
    """Entropy pressure of the prompt; no value where its rewards are all equal."""
    parts = [each.logprobs for each in rollouts if each.logprobs is not None]
    is_equal = max(rewards, default=0.0) - min(rewards, default=0.0) <= REWARD_TOLERANCE
    if is_equal or len(parts) < len(rollouts):
        return None
    return entropy_pressure([float(part.mean(dtype=np.float64)) for part in parts], rewards)


def ends_in_loop(rollouts: Sequence[Rollout]) -> npt.NDArray[np.bool_]:
    """Which rollouts end by repeating a phrase of at most `MAX_LOOP_PERIOD` tokens.

    A tail is a loop of period q when its last ``max(LOOP_REPEATS * q, MIN_LOOP_TOKENS)`` tokens
    (a stop token left out) repeat with that period. Shape ``[G]``.
    """
    window = LOOP_REPEATS * MAX_LOOP_PERIOD
    found = np.zeros(len(rollouts), dtype=np.bool_)
    bodies = enumerate(_without_stop_token(rollout) for rollout in rollouts)
    long = [(row, body) for row, body in bodies if body.size >= MIN_LOOP_TOKENS]
    if not long:
        return found
    # Padding differs from every token and from each other, so a short rollout never matches.
    tails = np.tile(-1 - np.arange(window), (len(long), 1))
    for line, (_, body) in enumerate(long):
        tail = body[-window:]
        tails[line, window - tail.size :] = tail
    loops = np.zeros(len(long), dtype=np.bool_)
    for period in range(1, MAX_LOOP_PERIOD + 1):
        span = max(LOOP_REPEATS * period, MIN_LOOP_TOKENS)
        later = tails[:, window - span + period :]
        earlier = tails[:, window - span : window - period]
        loops |= (later == earlier).all(axis=1)
    found[[row for row, _ in long]] = loops
    return found


def _without_stop_token(rollout: Rollout) -> IntArray:
    is_stopped = rollout.finish_reason is FinishReason.STOP
    return rollout.token_ids[:-1] if is_stopped else rollout.token_ids
