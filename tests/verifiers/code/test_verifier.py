"""The judge as the verifier ``code`` of an assessment, and as the command ``rlrisk judge``."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.commands.judge import judge as judge_command
from mlflow_rlrisk.errors import ConfigError, VerifierError
from mlflow_rlrisk.measure import measure
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.records import GradeStatus, Prompt
from mlflow_rlrisk.verifier_audit import audit_verifier
from mlflow_rlrisk.verifiers import VerifierPool, preflight
from mlflow_rlrisk.verifiers.code import CodeJudge, task_of_row
from mlflow_rlrisk.verifiers.code.completions import program_of
from mlflow_rlrisk.verifiers.code.external import RUNNER_VARIABLE
from mlflow_rlrisk.verifiers.code.verifier import code
from tests.verifiers.code.corpus_reader import TASK
from tests.verifiers.conftest import make_group

ROW = {
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
PROMPT = Prompt(id="p", content=ROW["prompt"], columns=ROW)
COMPLETIONS = (
    "    return a + b\n",
    "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.",
    "<think>def add(a, b): pass</think>def add(a, b):\n    return a + b\n",
    "    return a - b\n",
    "    import os; os._exit(0)\n",
    "I cannot do that.",
    "",
)


def test_completions_are_graded_in_workers_and_attacks_are_counted() -> None:
    with VerifierPool("code:tier=B,timeout_s=30", timeout_s=60.0) as pool:
        (graded,) = pool.grade([make_group(PROMPT, *COMPLETIONS)])
        name = pool.verifier.name

    assert [grade.reward for grade in graded.grades] == [1, 1, 1, 0, 0, 0, 0]
    assert name == "code (tier B)"
    statistics = measure(graded, None)
    assert (statistics.num_correct, statistics.num_attacks, statistics.num_failed) == (3, 1, 0)


def test_a_test_that_cannot_judge_is_a_failed_verification_and_no_zero() -> None:
    row = ROW | {"test": "def check(candidate):\n    import no_such_module\n"}
    prompt = Prompt(id="p", content=ROW["prompt"], columns=row)
    with VerifierPool("code:tier=B,timeout_s=30", timeout_s=60.0) as pool:
        (graded,) = pool.grade([make_group(prompt, COMPLETIONS[0])])

    assert graded.grades[0].status is GradeStatus.FAILED
    assert measure(graded, None).num_attacks is None


@pytest.mark.parametrize("options", ["tiers=B", "timeout_s=soon", "B"])
def test_unknown_options_are_refused(options: str) -> None:
    with pytest.raises(VerifierError):
        code(options)


@pytest.mark.parametrize(
    ("completion", "prompt", "entry", "expected"),
    [
        ("```\nx = 1\n```", "", None, "x = 1\n"),
        ("```python\na = 1\n```\n```python\nb = 2\n```", "", None, "b = 2\n"),
        ("```python\ndef f(): pass\n```\n```sh\nls -l /\n```", "", "f", "def f(): pass\n"),
        ("```python\ndef f(): pass\n", "", "f", "def f(): pass\n"),
        ("def f(): pass", "Write f.", "f", "def f(): pass"),
        ("<think>hmm", "Write f.", "f", None),
        (" \n", "", None, None),
    ],
)
def test_the_program_is_found_in_a_completion(
    completion: str, prompt: str, entry: str | None, expected: str | None
) -> None:
    assert program_of(completion, prompt, entry) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def add(a, b): return a + b", {"grade": "pass", "num_passed": 2}),
        ("def add(a, b): return abs(a) + b", {"grade": "fail", "num_passed": 1}),
        ("def add(a, b): raise ValueError('\\ud800\\x1b[31m\\n')", {"grade": "error"}),
        ("def add(a, b: return", {"grade": "error", "num_passed": 0}),
        ("def add(a, b):\n    while True: pass", {"grade": "timeout", "num_passed": 0}),
    ],
)
def test_the_command_answers_in_json(
    tmp_path: Path, source: str, expected: dict[str, object]
) -> None:
    (tmp_path / "program.py").write_text(source)
    cases = [{"args": [1, 2], "expected": 3}, {"args": [-1], "kwargs": {"b": 1}, "expected": 0}]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    timeout = "1" if expected["grade"] == "timeout" else "30"
    arguments = [str(tmp_path / "program.py"), "--entry-point", "add", "--cases"]
    arguments += [str(tmp_path / "cases.json"), "--tier", "b", "--timeout-s", timeout, "--json"]

    told = json.loads(CliRunner().invoke(judge_command, arguments, standalone_mode=False).output)

    assert told.keys() >= {"grade", "tier", "num_passed", "num_cases", "detail"}
    assert (told["tier"], told["num_cases"]) == ("B", 2)
    assert expected.items() <= told.items()


def test_a_case_that_states_two_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("def add(a, b): return a + b")
    cases = tmp_path / "cases.json"
    cases.write_text('[{"args": [1, 2], "expected": 4, "expected": 3}]')
    arguments = [str(tmp_path / "program.py"), "--entry-point", "add", "--cases", str(cases)]

    with pytest.raises(ConfigError, match="'expected' twice"):
        judge_command.main(arguments, standalone_mode=False)


def test_an_operators_runner_runs_programs_and_comparison_stays_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RUNNER_VARIABLE, f"{sys.executable} -I -S -")

    with CodeJudge("C") as opened:
        grades = [
            opened.grade(source, TASK).grade.value
            for source in (
                "def solve(n): return n * n",
                "def solve(n): return n",
                "class Yes:\n    def __eq__(s, o): return True\ndef solve(n): return Yes()",
                "import os\nos._exit(0)",
                'print(\'{"case": 0, "value": 9}\')\ndef solve(n): return None',
                "raise ValueError",
            )
        ]

    assert grades == ["pass", "fail", "fail", "error", "fail", "error"]


CASES = {"inputs": ["1\n"], "outputs": ["2\n"]}
EURUS = [
    {
        "prompt": [{"role": "user", "content": f"Read n, write n + 1 ({index})."}],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(CASES)},
    }
    for index in range(3)
]


def test_cases_as_text_are_no_gold_answer_that_the_judge_rejects() -> None:
    # An assessment of Eurus' programs was refused: their cases were shown as answers.
    prompts = load_prompts(EURUS)

    with VerifierPool("code:tier=B", timeout_s=60.0) as pool:
        result = preflight(pool, prompts)

    assert {prompt.truth for prompt in prompts} == {json.dumps(CASES)}
    assert result.status == "not_possible"


def test_an_audit_of_the_judge_makes_no_right_answers_of_cases() -> None:
    solved = {**ROW, "canonical_solution": "    return a + b\n"}

    with_solution = audit_verifier([solved], "code:tier=B")
    without = audit_verifier(EURUS, "code:tier=B")

    assert (with_solution.verdict, with_solution.warnings) == ("ok", ())
    assert (without.verdict, without.problems) == ("inconclusive", ())


def test_an_entry_point_that_is_no_name_is_refused_before_sampling() -> None:
    # `Solution().f`, as LeetCodeDataset has it: every program was graded 0.
    row = {**ROW, "entry_point": "Solution().add"}

    with pytest.raises(VerifierError, match=r"entry point 'Solution\(\)\.add': a function's name"):
        task_of_row(None, row)
