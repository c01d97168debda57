"""Reward functions that fork: only the worker answers, each question once."""

import pytest

from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.verifiers import VerifierPool
from tests.verifiers.conftest import WriteVerifier
from tests.verifiers.grading import rewards

PROMPTS = [Prompt(id=str(i), content="q", truth=str(i), columns={}) for i in range(4)]


@pytest.mark.parametrize(
    "child", ["sys.exit(0)", "raise ValueError('in the child')", "pass  # it returns as well"]
)
def test_a_forked_process_of_a_reward_function_never_answers_for_the_worker(
    write_verifier: WriteVerifier, child: str
) -> None:
    # Its answer to one prompt was taken for that to the next: wrong answers had the reward 1.
    spec = write_verifier(f"""
        import os, sys, time
        def grade(prompts, completions, truth):
            if os.fork() == 0:
                {child}
            else:
                time.sleep(0.05)
            return [float(each == right) for each, right in zip(completions, truth)]
    """)

    with VerifierPool(spec, timeout_s=20.0) as pool:
        graded = [
            rewards(tuple(pool.grade_completions(each, [str(each.truth), "x", *"y" * number])))
            for number, each in enumerate(PROMPTS)
        ]

    assert graded == [[1.0, 0.0, *[0.0] * number] for number in range(len(PROMPTS))]


def test_the_worker_sees_how_a_process_that_it_forked_ended(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import os, sys
        def grade(completion, truth):
            child = os.fork()
            if child == 0:
                sys.exit(int(completion))
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    """)

    with VerifierPool(spec, timeout_s=20.0) as pool:
        grades = tuple(pool.grade_completions(PROMPTS[0], ["0", "7"]))

    assert rewards(grades) == [0, 7]


def test_a_reply_that_is_written_beside_the_worker_is_no_grade(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("""
        import json, os, struct
        def grade(completion, truth):
            body = json.dumps({"outcomes": [["scored", 1.0, None, None]]}).encode()
            for fd in range(3, 20):
                try:
                    os.write(fd, struct.pack(">I", len(body)) + body)
                except OSError:
                    pass
            return 0.0
    """)

    with VerifierPool(spec, timeout_s=20.0) as pool:
        (grade,) = pool.grade_completions(PROMPTS[0], ["x"])

    assert grade.reward is None
    assert "broke the protocol" in str(grade.reason)
