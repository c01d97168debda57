"""The list language before the code judge: programs turned to Python and run in a sandbox."""

import random
from collections.abc import Iterator

import pytest

from examples.study.tasks.stack import TASK
from examples.study.tasks.walks import Pair, all_pairs, right_answers
from mlflow_rlrisk.verifiers.code.judge import CodeJudge
from mlflow_rlrisk.verifiers.code.judgement import CodeGrade
from mlflow_rlrisk.verifiers.code.tasks import CodeTask

STATEMENTS = {
    "rotl": "v.append(v.pop(0))",
    "rotr": "v.insert(0, v.pop())",
    "swp": "v[0], v[1] = v[1], v[0]",
    "rev": "v.reverse()",
    "inc": "v[0] = v[0] + 1 if v[0] < 4 else 0",
    "dec": "v[0] = v[0] - 1 if v[0] > 0 else 4",
    "add": "v[0] = divmod(v[0] + v[1], 5)[1]",
    "cpy": "v[0] = v[1]",
}
"""Each word once more, written without a look at the interpreter."""
NUM_PAIRS = 12


def as_python(answer: str) -> str:
    """The program with its trace as a function that fails where the trace is wrong."""
    words = answer.split()
    lines = ["def solve(v):"]
    for first in range(0, len(words), TASK.step_words):
        word, *trace = words[first : first + TASK.step_words]
        lines += [f"    {STATEMENTS.get(word, 'no_such_word()')}"]
        lines += [f"    assert v == [{', '.join(trace)}]"]
    return "\n".join([*lines, "    return v"])


def answers(pair: Pair, rng: random.Random) -> Iterator[str]:
    """A right answer, one with a changed word, one for another target."""
    right = rng.choice(list(right_answers(TASK, pair)))
    yield right
    words = right.split()
    words[rng.randrange(len(words) // TASK.step_words) * TASK.step_words] = rng.choice(
        list(STATEMENTS)
    )
    yield " ".join(words)
    yield " ".join(right.split()[: -TASK.step_words])


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    with CodeJudge("auto", lanes=1) as opened:
        yield opened


def test_the_code_judge_and_the_interpreter_give_the_same_grades(judge: CodeJudge) -> None:
    rng = random.Random(6)
    graded = []
    for pair in rng.sample(all_pairs(TASK), NUM_PAIRS):
        start, target = (f"[{', '.join(state)}]" for state in pair)
        task = CodeTask(asserts=(f"assert solve({start}) == {target}",))
        for answer in answers(pair, rng):
            verdict = judge.grade(as_python(answer), task).grade
            graded.append((TASK.is_solution(TASK.prompt(pair), answer), verdict))

    assert {verdict for _, verdict in graded} <= {CodeGrade.PASS, CodeGrade.FAIL, CodeGrade.ERROR}
    assert all(right == (verdict is CodeGrade.PASS) for right, verdict in graded)
    assert NUM_PAIRS <= sum(right for right, _ in graded) < 2 * NUM_PAIRS
