"""Shows a verifier its probes and counts what it says: accepted, wrong, unparsed, failed.

A rejected answer that the verifier read is told apart from one in which it found none, and both
from a verifier that failed: the first may be right, the second is a gap of its parser, the third
says nothing.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_rlrisk.records import Grade, GradeStatus, Prompt
from mlflow_rlrisk.statistics import clopper_pearson
from mlflow_rlrisk.verifier_audit.probes import mutations, variants
from mlflow_rlrisk.verifiers import VerifierPool
from mlflow_rlrisk.verifiers.gold import MAX_TIMED_OUT, answer_of, gold_completions

Verdict = Literal["accepted", "wrong_answer", "parse_failure", "failed"]
NUM_EXAMPLES = 5
"""Examples that are kept of each kind."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A verifier and the line from which its rewards accept.

    Attributes:
        pool: An open pool.
        threshold: Accepted from this reward on; ``None`` accepts every reward above 0.
    """

    pool: VerifierPool
    threshold: float | None

    def verdict(self, grade: Grade) -> Verdict:
        """What a grade says."""
        if grade.reward is None:
            return "failed"
        line = self.threshold
        if grade.reward > 0 if line is None else grade.reward >= line:
            return "accepted"
        if self.pool.verifier.extracts_answers and grade.answer is None:
            return "parse_failure"
        return "wrong_answer"

    def grade(self, prompt: Prompt, texts: Sequence[str]) -> list[Grade]:
        """Grade texts that no sampler drew."""
        return self.pool.grade_completions(prompt, texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One probe and what was said of it."""

    prompt: Prompt
    kind: str
    completion: str
    grade: Grade
    verdict: Verdict


@dataclass(slots=True)
class Tally:
    """Probes of one kind.

    Attributes:
        counts: Number of each verdict.
        examples: The first that did not come out as they should.
    """

    should_accept: bool
    counts: Counter[Verdict] = field(default_factory=Counter)
    examples: list[Shown] = field(default_factory=list)

    def add(self, shown: Shown) -> None:
        """Count one probe."""
        self.counts[shown.verdict] += 1
        is_error = (shown.verdict == "accepted") is not self.should_accept
        if is_error and len(self.examples) < NUM_EXAMPLES:
            self.examples.append(shown)

    @property
    def num_judged(self) -> int:
        """Probes with a reward."""
        return self.counts.total() - self.counts["failed"]

    def to_dict(self, confidence: float) -> dict[str, Any]:
        """Counts, the share accepted of those judged with its interval, and examples."""
        accepted, judged = self.counts["accepted"], self.num_judged
        result: dict[str, Any] = {
            "num_shown": self.counts.total(),
            "num_accepted": accepted,
            "num_rejected": judged - accepted,
            "num_wrong_answers": self.counts["wrong_answer"],
            "num_parse_failures": self.counts["parse_failure"],
            "num_failed": self.counts["failed"],
            "examples": [_example(shown) for shown in self.examples],
        }
        if judged:
            low, high = clopper_pearson(accepted, judged, confidence)
            result |= {"accepted_share": accepted / judged, "ci_low": low, "ci_high": high}
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """What was shown to a verifier.

    Attributes:
        gold: Gold answers, the best rendering of each prompt; all should be accepted.
        mutated: Wrong answers by kind; none should be accepted.
        variants: The truth in other formats, by format; a rejected one is a false negative.
        shown: Every probe, gold renderings included, for a second opinion.
    """

    gold: Tally
    mutated: dict[str, Tally]
    variants: dict[str, Tally]
    shown: tuple[Shown, ...]


def probe(judge: Judge, prompts: Sequence[Prompt]) -> Probing:
    """Show gold answers of all ``prompts``, and what can be made of those that are accepted.

    Prompts that carry no gold answer, or to which the verifier does not apply, are left out; so
    are those after `MAX_TIMED_OUT` on which it hangs, which would take hours to say the same.
    """
    gold = Tally(should_accept=True)
    mutated: dict[str, Tally] = {}
    formats: dict[str, Tally] = {}
    everything: list[Shown] = []
    with ThreadPoolExecutor(judge.pool.num_workers) as threads:
        hung: list[str] = []
        for found in threads.map(lambda prompt: _probe_one(judge, prompt, hung), prompts):
            for shown in found:
                everything.append(shown)
                group, _, name = shown.kind.partition(":")
                if group == "gold":
                    gold.add(shown)
                elif group == "mutated":
                    mutated.setdefault(name, Tally(should_accept=False)).add(shown)
                else:
                    formats.setdefault(name, Tally(should_accept=True)).add(shown)
    return Probing(gold=gold, mutated=mutated, variants=formats, shown=tuple(everything))


def _probe_one(judge: Judge, prompt: Prompt, hung: list[str]) -> list[Shown]:
    golds = gold_completions(judge.pool, prompt)
    if not golds or len(hung) >= MAX_TIMED_OUT:
        return []
    grades = judge.grade(prompt, golds)
    if all(grade.status == GradeStatus.TIMED_OUT for grade in grades):
        hung.append(prompt.id)
    if all(grade.status == "not_applicable" for grade in grades):
        return []
    shown = [
        _shown(judge, prompt, "gold", g, grade) for g, grade in zip(golds, grades, strict=True)
    ]
    best = next((each for each in shown if each.verdict == "accepted"), None)
    if best is None:
        return [max(shown, key=lambda each: each.verdict == "wrong_answer")]
    truth = answer_of(judge.pool, prompt)
    truth = None if truth is None or not truth.strip() else truth.strip()
    texts = {f"mutated:{n}": t for n, t in mutations(best.completion, truth).items()}
    if truth is not None:
        texts |= {f"variant:{n}": t for n, t in variants(best.completion, truth).items()}
    graded = zip(texts.items(), judge.grade(prompt, list(texts.values())), strict=True)
    return [best, *(_shown(judge, prompt, kind, t, grade) for (kind, t), grade in graded)]


def _shown(judge: Judge, prompt: Prompt, kind: str, text: str, grade: Grade) -> Shown:
    return Shown(
        prompt=prompt, kind=kind, completion=text, grade=grade, verdict=judge.verdict(grade)
    )


def _example(shown: Shown) -> dict[str, Any]:
    return {
        "prompt_id": shown.prompt.id,
        "prompt": shorten(shown.prompt.text),
        "truth": shown.prompt.truth,
        "completion": shorten(shown.completion),
        "verdict": shown.verdict,
        "reward": shown.grade.reward,
        "answer": shown.grade.answer,
        "reason": shown.grade.reason,
    }


def shorten(text: str, limit: int = 200) -> str:
    """The beginning of a long text."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
