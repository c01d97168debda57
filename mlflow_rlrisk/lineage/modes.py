"""Which answers does a checkpoint no longer give, and which does it give instead?

A mode is an answer that one side gives to a prompt at least twice; it is lost where the other side
never gives it. With few rollouts an equal policy loses modes too: the rollouts of both sides, those
without an answer included, would lose so many if they were dealt out to them at random, which
stands beside every figure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from mlflow_rlrisk.lineage.measures import Estimate, FloatArray, mean_estimate
from mlflow_rlrisk.lineage.table import Answers, LineageMember
from mlflow_rlrisk.statistics.bootstrap import PromptBootstrap

Sample = tuple[int, Answers]
"""Scored rollouts of one prompt and the answers in them."""
MODE_SIZE = 2
"""An answer given once is mostly gone in the next sample of the same policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerModes:
    """Answers that a checkpoint gives at least twice to a prompt and the other never, per prompt.

    Attributes:
        lost: Given before and no more.
        new: Given now and not before.
        lost_correct: Lost ones that were correct.
        lost_by_chance: What ``lost`` would be if both were one policy: the rollouts of both,
            dealt out at random.
        new_by_chance: The same of ``new``.
    """

    lost: Estimate
    new: Estimate
    lost_correct: Estimate
    lost_by_chance: float
    new_by_chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChange:
    """The modes of a checkpoint beside those of a reference."""

    reference: str
    checkpoint: str
    modes: AnswerModes


def answer_modes(
    before: Sequence[Sample],
    after: Sequence[Sequence[Sample]],
    bootstrap: PromptBootstrap,
    confidence: float,
) -> list[AnswerModes]:
    """Count answers that were lost or are new.

    Args:
        before: For each prompt what the reference gave.
        after: For each checkpoint the same.
        bootstrap: Resamples of the prompts.
        confidence: Level of the intervals.

    Returns:
        One record a checkpoint.
    """
    if not after:
        return []
    counted = [[_counted(*pair) for pair in zip(before, own, strict=True)] for own in after]
    table = np.array(counted, dtype=float)  # [checkpoint, prompt, figure]
    figures = table[:, :, :3]
    # One pass over the resamples for all: drawing them costs more than the products.
    draws = bootstrap.means(np.concatenate(list(figures), axis=1))
    blocks = np.split(draws, len(after), axis=1)
    chances = table[:, :, 3:].mean(axis=1)
    given, right = _most_modes(before), _most_modes(before, is_correct=True)
    return [
        _modes(columns, block, chance, confidence, (given, _most_modes(own), right))
        for own, columns, block, chance in zip(after, figures, blocks, chances, strict=True)
    ]


def mode_changes(
    reference: LineageMember,
    checkpoints: Sequence[LineageMember],
    bootstrap: PromptBootstrap,
    *,
    confidence: float = 0.95,
) -> tuple[ModeChange, ...]:
    """The modes of checkpoints beside those of a reference.

    Args:
        reference: The base, or a sibling.
        checkpoints: Assessed on the same prompts.
        bootstrap: Resamples of these prompts, ordered by id.
        confidence: Level of the intervals.

    Returns:
        The change of every checkpoint; none where the verifier extracts no answers or they were
        not kept.
    """
    known = [each for each in checkpoints if each.answers is not None]
    if reference.answers is None or not any(each.answers for each in (reference, *known)):
        return ()
    prompt_ids = sorted(each.prompt_id for each in reference.statistics)
    before, *after = (_samples(member, prompt_ids) for member in (reference, *known))
    found = answer_modes(before, after, bootstrap, confidence)
    return tuple(
        ModeChange(reference=reference.name, checkpoint=member.name, modes=modes)
        for member, modes in zip(known, found, strict=True)
    )


def why_no_modes(reference: LineageMember, checkpoints: Sequence[LineageMember]) -> str | None:
    """Why `mode_changes` says nothing of some; ``None`` where it tells of all."""
    members = (reference, *checkpoints)
    unkept = [each.name for each in members if each.answers is None]
    if unkept:
        return f"the answers of {', '.join(unkept)} were not kept"
    if not any(each.answers for each in members):
        named = reference.report.provenance.verifier or "in use"
        return f"the verifier {named} gives rewards and extracts no answers"
    return None


def _samples(member: LineageMember, prompt_ids: Sequence[str]) -> list[Sample]:
    scored = {each.prompt_id: each.num_scored for each in member.statistics}
    answers = member.answers or {}
    return [(scored[prompt_id], answers.get(prompt_id, {})) for prompt_id in prompt_ids]


def _counted(before: Sample, after: Sample) -> tuple[float, ...]:
    """Lost, new, lost and correct; lost and new by chance."""
    (num_before, old), (num_after, now) = before, after
    gone = [is_correct for answer, (n, is_correct) in old.items() if _is_lost(answer, n, now)]
    new = sum(_is_lost(answer, n, old) for answer, (n, _) in now.items())
    together = Counter({answer: n for answer, (n, _) in old.items()})
    together.update({answer: n for answer, (n, _) in now.items()})
    # All copies of an answer fall to one side: hypergeometric.
    chances = [
        sum(
            comb(own, n) / comb(num_before + num_after, n)
            for n in together.values()
            if n >= MODE_SIZE
        )
        for own in (num_before, num_after)
    ]
    return (len(gone), new, sum(gone), *chances)


def _is_lost(answer: str, count: int, other: Answers) -> bool:
    return count >= MODE_SIZE and answer not in other


def _most_modes(samples: Sequence[Sample], *, is_correct: bool = False) -> float:
    """The most that one prompt could lose: modes of the prompt with most of them, at least 1."""
    counted = (
        sum(n >= MODE_SIZE and (right or not is_correct) for n, right in answers.values())
        for _, answers in samples
    )
    return float(max(1, *counted))


def _modes(
    columns: FloatArray,
    draws: FloatArray,
    chances: FloatArray,
    confidence: float,
    most: tuple[float, float, float],
) -> AnswerModes:
    """Where few prompts lost a mode, or none, the intervals allow for some that lose ``most``."""
    lost, new, correct = (
        mean_estimate(column, draw, confidence, (0.0, reach))
        for column, draw, reach in zip(columns.T, draws.T, most, strict=True)
    )
    return AnswerModes(
        lost=lost,
        new=new,
        lost_correct=correct,
        lost_by_chance=float(chances[0]),
        new_by_chance=float(chances[1]),
    )
