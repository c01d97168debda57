"""Before sampling: does the verifier accept the gold answers of the prompt set?

A verifier that rejects right answers makes every checkpoint look starved, and one that accepts
wrong ones makes every checkpoint look saturated. Both are cheap to see before any token is
sampled: gold answers must be accepted, mutated ones should be rejected.
"""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from mlflow_rlrisk.errors import GoldRejectedError, VerifierError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Grade, GradeStatus, Prompt
from mlflow_rlrisk.verifiers.builtin import truth_number, truth_text
from mlflow_rlrisk.verifiers.pool import VerifierPool

GOLD_COLUMN = "gold_completion"
"""A column of whole completions that the verifier must accept; nothing else is tried then."""
SOLUTION_COLUMNS = ("canonical_solution", "solution")
"""Columns that often hold a whole gold completion; the bare truth is tried as well."""
ANSWER_FORMATS = ("{}", "\\boxed{{{}}}", "#### {}", "<answer>{}</answer>")
"""Renderings of a truth that reward functions of RL runs look for."""

MAX_TIMED_OUT = 3
"""Gold answers on which the verifier may hang before the preflight has seen enough."""

_HASHES_AT_END = re.compile(r"####\s*(\S+)\s*\Z")
_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_SUCCESSORS = str.maketrans(
    "".join(_ALPHABETS), "".join(alphabet[1:] + alphabet[0] for alphabet in _ALPHABETS)
)
_SHOWN_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResult:
    """What the preflight showed.

    Attributes:
        status: ``passed``; ``not_possible`` where there was no gold answer to show; ``skipped``.
        num_gold: Prompts whose gold answer was shown.
        num_accepted: Of these, prompts whose gold answer was accepted.
        num_wrong: Prompts for which a deliberately wrong answer was shown.
        num_wrong_accepted: Of these, prompts for which it was accepted.
        warnings: What should be looked at before trusting the grades.
        detail: One sentence for people.
    """

    status: Literal["passed", "not_possible", "skipped"]
    num_gold: int = 0
    num_accepted: int = 0
    num_wrong: int = 0
    num_wrong_accepted: int = 0
    warnings: tuple[str, ...] = ()
    detail: str

    @classmethod
    def skipped(cls) -> Self:
        """The user asked for none; the report says so."""
        return cls(status="skipped", detail="the preflight of the verifier was skipped")


@dataclass(frozen=True, slots=True)
class _Trial:
    """One prompt and gold completions of which one must be accepted."""

    prompt: Prompt
    golds: tuple[str, ...]


def preflight(
    pool: VerifierPool,
    prompts: Iterable[Prompt],
    sample: int = 32,
    *,
    success_threshold: float | None = None,
    max_rejected_share: float = 0.0,
) -> PreflightResult:
    """Show the verifier gold answers and deliberately wrong ones.

    All prompts are first checked for what the verifier needs of them (a truth that is a number,
    a column). Then gold answers of ``sample`` prompts, spread evenly, are graded: the column
    ``gold_completion`` where there is one, else the truth in the usual renderings and the
    solution columns; one accepted rendering is enough.

    Args:
        pool: An open pool.
        prompts: The prompt set; not empty.
        sample: Prompts whose gold answers are shown, at least 1.
        success_threshold: Accepted from this reward on; ``None`` accepts every reward above 0.
        max_rejected_share: Tolerated share of rejected gold answers.

    Raises:
        VerifierError: Prompts that cannot be judged, or a verifier that fails on its first call.
        GoldRejectedError: More gold answers are rejected than tolerated.
    """
    prompts = tuple(prompts)
    _refuse_unjudgeable(pool, prompts)
    name = pool.verifier.name
    if not pool.verifier.grades_texts:
        return PreflightResult(
            status="not_possible",
            detail=f"{name} reads completion_ids, which gold answers do not have",
        )
    chosen = spread(prompts, sample)
    trials = [_Trial(p, golds) for p in chosen if (golds := gold_completions(pool, p))]
    if not trials:
        _refuse_failing(name, pool.grade_completions(chosen[0], ["0"]))
        return PreflightResult(
            status="not_possible", detail="the prompts carry no gold answer to show the verifier"
        )
    judge = _Judge(pool, success_threshold)
    _refuse_failing(name, judge.show(trials[0]))
    for trial in trials[1:]:
        if judge.num_timed_out >= MAX_TIMED_OUT:
            break
        judge.show(trial)
    judge.refuse_rejection(max_rejected_share)
    return judge.result()


class _Judge:
    """Counts what the verifier accepts."""

    def __init__(self, pool: VerifierPool, threshold: float | None) -> None:
        self.pool, self.threshold = pool, threshold
        self.rejected: list[tuple[_Trial, str]] = []
        self.gold_rewards: set[float] = set()
        self.num_gold = self.num_wrong = self.num_wrong_accepted = self.num_timed_out = 0

    def show(self, trial: _Trial) -> list[Grade]:
        """Show the gold answers of one prompt, then one answer made wrong in the same form."""
        grades = self.pool.grade_completions(trial.prompt, trial.golds)
        if all(grade.status is GradeStatus.NOT_APPLICABLE for grade in grades):
            return grades
        self.num_gold += 1
        self.num_timed_out += all(grade.status is GradeStatus.TIMED_OUT for grade in grades)
        accepted = [g for g, grade in zip(trial.golds, grades, strict=True) if self._accepts(grade)]
        if not accepted:
            self.rejected.append((trial, _best(grades)))
            return grades
        self.gold_rewards.add(max(grade.reward for grade in grades if grade.reward is not None))
        (wrong,) = self.pool.grade_completions(
            trial.prompt, [wrong_completion(accepted[0], trial.prompt.truth)]
        )
        self.num_wrong += wrong.is_scored
        self.num_wrong_accepted += self._accepts(wrong)
        return grades

    def refuse_rejection(self, max_rejected_share: float) -> None:
        if not self.rejected or len(self.rejected) <= max_rejected_share * self.num_gold:
            return
        trial, grade = self.rejected[0]
        raise GoldRejectedError(
            f"{self.pool.verifier.name} rejects {len(self.rejected)} of {self.num_gold} gold "
            f"answers; first: prompt {trial.prompt.id}, shown {_short(trial.golds[0])}"
            f"{' and other renderings' if len(trial.golds) > 1 else ''}, {grade}. If it needs a "
            f"format, add a column {GOLD_COLUMN!r} with whole completions that it must accept; "
            "--no-preflight (run_preflight=False) skips the check and the report says so"
        )

    def result(self) -> PreflightResult:
        if self.num_gold == 0:
            return PreflightResult(
                status="not_possible", detail="the verifier applies to none of the gold answers"
            )
        accepted = self.num_gold - len(self.rejected)
        return PreflightResult(
            status="passed",
            num_gold=self.num_gold,
            num_accepted=accepted,
            num_wrong=self.num_wrong,
            num_wrong_accepted=self.num_wrong_accepted,
            warnings=tuple(self._warnings()),
            detail=f"accepts {accepted} of {self.num_gold} gold answers and "
            f"{self.num_wrong_accepted} of {self.num_wrong} deliberately wrong ones",
        )

    def _warnings(self) -> Iterator[str]:
        name = self.pool.verifier.name
        if self.num_wrong and self.num_wrong_accepted == self.num_wrong:
            yield (
                f"{name} accepts all {counted(self.num_wrong, 'deliberately wrong answer')} too: "
                "it may "
                "accept everything"
            )
        elif 2 * self.num_wrong_accepted >= self.num_wrong > 0:
            yield (
                f"{name} accepts {self.num_wrong_accepted} of {self.num_wrong} deliberately wrong "
                "answers: it may hardly tell right from wrong"
            )
        others = sorted(self.gold_rewards - {1.0})
        if self.threshold is None and others:
            yield (
                f"{name} gives gold answers a reward of {others[-1]:g}, but without "
                "--success-threshold a reward of 1 counts as correct and any other as undefined"
            )

    def _accepts(self, grade: Grade) -> bool:
        if grade.reward is None:
            return False
        return grade.reward > 0 if self.threshold is None else grade.reward >= self.threshold


def _refuse_unjudgeable(pool: VerifierPool, prompts: Sequence[Prompt]) -> None:
    problems = pool.problems(prompts)
    found = [(p, problem) for p, problem in zip(prompts, problems, strict=True) if problem]
    if found:
        prompt, problem = found[0]
        raise VerifierError(
            f"{pool.verifier.name} cannot judge {len(found)} of {len(prompts)} prompts; "
            f"first: prompt {prompt.id} ({_short(prompt.text)}): {problem}"
        )


def _refuse_failing(name: str, grades: Sequence[Grade]) -> None:
    if all(grade.status in (GradeStatus.FAILED, GradeStatus.TIMED_OUT) for grade in grades):
        hint = ""
        if grades[0].status is GradeStatus.TIMED_OUT:
            hint = (
                ": what it imports or loads within a call counts, at the top of its file it does "
                "not; or raise verifier_timeout_s"
            )
        raise VerifierError(f"{name} fails on its first call: {grades[0].reason}{hint}")


def spread(prompts: Sequence[Prompt], sample: int) -> list[Prompt]:
    """``sample`` of the prompts, evenly over the set."""
    size = min(max(sample, 1), len(prompts))
    return [prompts[index * len(prompts) // size] for index in range(size)]


def gold_completions(pool: VerifierPool, prompt: Prompt) -> tuple[str, ...]:
    """Gold completions of one prompt; accepting one of them is enough."""
    explicit = prompt.columns.get(GOLD_COLUMN)
    if isinstance(explicit, str) and explicit.strip():
        return (explicit,)
    truth = answer_of(pool, prompt)
    whole = [text for text in prompt.columns.values() if _states_truth_at_end(text, truth)]
    if pool.spec.kind == "builtin":
        if truth is None or pool.spec.target == "regex":
            return ()  # a pattern does not tell what a right completion looks like
        if pool.spec.target == "math":
            return (f"\\boxed{{{truth}}}",)
        return tuple(whole[:1]) if whole and pool.spec.target == "numeric" else (truth,)
    golds = [] if truth is None else [form.format(truth) for form in ANSWER_FORMATS]
    golds += [
        text for name in SOLUTION_COLUMNS if isinstance(text := prompt.columns.get(name), str)
    ]
    return tuple(dict.fromkeys([*golds, *whole]))


def answer_of(pool: VerifierPool, prompt: Prompt) -> str | None:
    """The truth as an answer that a completion may state; the cases of a program are none."""
    return None if pool.verifier.judge_tier else bare_truth(prompt.truth)


def bare_truth(truth: Any) -> str | None:
    """A truth that is text or a number, as text."""
    if isinstance(truth, str | int | float) and not isinstance(truth, bool):
        return truth_text(truth)
    return None


def _states_truth_at_end(text: object, truth: str | None) -> bool:
    """True for a GSM8K solution: a derivation that ends in ``#### truth``."""
    tail = _HASHES_AT_END.search(text) if isinstance(text, str) else None
    return tail is not None and truth is not None and tail.group(1) == truth.strip()


def wrong_completion(gold: str, truth: Any) -> str:
    """A gold completion with another answer in the same form.

    A number is raised by one; in other text every letter and digit becomes its successor.
    """
    text = bare_truth(truth)
    if not text or text not in gold:
        return _shifted(gold)
    number = truth_number(truth)
    wrong = _shifted(text) if number is None else str(number.value + 1)
    before, _, after = gold.rpartition(text)
    return f"{before}{wrong}{after}"


def _shifted(text: str) -> str:
    shifted = text.translate(_SUCCESSORS)
    return shifted if shifted != text else f"{text}x"


def _best(grades: Sequence[Grade]) -> str:
    rewards = [grade.reward for grade in grades if grade.reward is not None]
    return f"reward {max(rewards):g}" if rewards else f"{grades[0].status}: {grades[0].reason}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}...")
