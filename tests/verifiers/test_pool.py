import datetime
from pathlib import Path

import pytest

from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.records import GradeStatus, Message, Prompt
from mlflow_rlrisk.verifiers import VerifierPool, load_verifier
from tests.verifiers.conftest import WriteVerifier, make_group
from tests.verifiers.grading import PROMPT, grade, rewards
from tests.verifiers.processes import children, is_alive


def test_a_builtin_verifier_grades_in_a_worker() -> None:
    grades = grade("numeric", "so it is 4", "5", "none")

    assert rewards(grades) == [1, 0, 0]
    assert [grade.answer for grade in grades] == ["4", "5", None]


def test_one_raising_completion_costs_its_own_grade_only(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        def grade(prompts, completions, **columns):
            return [1 / (c != "poison") for c in completions]
    """)

    grades = grade(spec, "a", "poison", "b")

    assert rewards(grades) == [1, None, 1]
    assert grades[1].status is GradeStatus.FAILED
    assert grades[1].reason == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("crash", "how"),
    [
        ("os._exit(3)", "exited with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os.abort()", "killed by SIGABRT"),
    ],
)
def test_a_dying_worker_is_replaced_and_only_its_completion_fails(
    write_verifier: WriteVerifier, crash: str, how: str
) -> None:
    spec = write_verifier(f"""
        import os, signal
        def grade(completion, truth):
            if completion == "poison":
                {crash}
            return completion == truth
    """)

    grades = grade(spec, "4", "poison", "5")

    assert rewards(grades) == [1, None, 0]
    assert grades[1].status is GradeStatus.FAILED
    assert how in str(grades[1].reason)


def test_sys_exit_in_a_verifier_fails_its_completion(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import sys
        def grade(completion, truth):
            sys.exit(0) if completion == "poison" else None
            return 1
    """)

    grades = grade(spec, "poison", "a")

    assert rewards(grades) == [None, 1]
    assert grades[0].reason == "SystemExit: 0"


def test_a_hanging_verifier_is_killed_with_what_it_started(
    write_verifier: WriteVerifier, tmp_path: Path
) -> None:
    spec = write_verifier(f"""
        import subprocess, time
        def grade(completion, truth):
            if completion == "poison":
                child = subprocess.Popen(["sleep", "1000"])
                open({str(tmp_path / "pids")!r}, "a").write(f"{{child.pid}}\\n")
                time.sleep(1000)
            return 1
    """)

    grades = grade(spec, "a", "poison", "b", timeout_s=1.0)

    assert rewards(grades) == [1, None, 1]
    assert grades[1].status is GradeStatus.TIMED_OUT
    assert grades[1].reason == "no answer within 1 s"
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2  # in the group, then alone
    assert not any(map(is_alive, pids))


def test_a_crash_that_does_not_come_again_is_forgiven(
    write_verifier: WriteVerifier, tmp_path: Path
) -> None:
    spec = write_verifier(f"""
        import os, pathlib
        def grade(completion, truth):
            flag = pathlib.Path({str(tmp_path / "flag")!r})
            if not flag.exists():
                flag.touch()
                os._exit(1)
            return 1
    """)

    assert rewards(grade(spec, "only one")) == [1]


def test_a_printing_verifier_cannot_corrupt_its_replies(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import os, sys, subprocess
        print("loading")
        def grade(completion, truth):
            print("x" * 1_000_000, flush=True)
            os.write(1, b"\\x00\\x00\\x00\\x02{}")
            sys.stderr.write("y" * 1_000_000)
            subprocess.run(["echo", "from a child"])
            return sys.stdin.read() == ""
    """)

    assert rewards(grade(spec, "a", "b")) == [1, 1]


def test_the_output_of_a_worker_is_not_kept_in_memory(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        def grade(completion, truth):
            print("x" * 10_000_000, flush=True)
            return 1
    """)

    with VerifierPool(spec) as pool:
        assert len(list(pool.grade([make_group(PROMPT, *"abcdefgh")]))) == 1
        (worker,) = pool._workers
        assert len(worker._tail) <= 2000


def test_wrong_lengths_fail_the_group_and_are_not_repeated_singly(
    write_verifier: WriteVerifier,
) -> None:
    # Called for one completion this returns one reward, which would look right.
    spec = write_verifier("""
        def grade(completions, **columns):
            return [1.0]
    """)

    grades = grade(spec, "a", "b")

    assert [grade.status for grade in grades] == [GradeStatus.FAILED] * 2
    assert "returned 1 reward for 2 completions" in str(grades[0].reason)


def test_async_none_and_nan_come_through_the_pool(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import asyncio
        async def grade(completions, answer, **columns):
            await asyncio.sleep(0.01)
            return [{"none": None, "nan": float("nan")}.get(c, 1.0) for c in completions]
    """)

    grades = grade(spec, "none", "nan", "a")

    assert [g.status for g in grades] == [
        GradeStatus.NOT_APPLICABLE,
        GradeStatus.FAILED,
        GradeStatus.SCORED,
    ]
    assert rewards(grades) == [None, None, 1]


def test_a_reward_that_a_trainer_cannot_hold_fails_and_text_that_is_no_unicode_is_escaped(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("""
        def extract_answer(completion):
            return "\\ud800"
        def grade(completion, truth):
            if completion == "raise":
                raise ValueError("\\udcff")
            return 1e300 if completion == "huge" else 1
    """)

    grades = grade(spec, "huge", "raise", "a")

    assert rewards(grades) == [None, None, 1]
    assert grades[0].reason == "returned 1e+300, no finite number in a trainer's float32"
    assert (grades[1].reason, grades[2].answer) == ("ValueError: \\udcff", "\\ud800")


def test_an_endless_reason_is_capped(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        def grade(completion, truth):
            raise ValueError("x" * 1_000_000)
    """)

    (graded,) = grade(spec, "a")

    assert len(str(graded.reason)) == 500


def test_long_answers_are_cut_and_stay_distinct() -> None:
    prompt = "a" * 10_000
    grades = grade("exact", prompt + "b", prompt + "c", prompt + "b")

    assert grades[0].answer == grades[2].answer != grades[1].answer
    assert len(str(grades[0].answer)) < 400


def test_chat_prompts_columns_and_tokens_arrive_as_in_trl(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        def grade(prompts, completions, completion_ids, meta):
            assert prompts == [[{"role": "user", "content": "q\\ud800"}]] * 2, prompts
            assert [c[0]["content"] for c in completions] == ["a\\udfff", "b"]
            assert meta == [{"k": [1, None]}] * 2
            return [ids[0] for ids in completion_ids]
    """)
    turns = (Message(role="user", content="q\ud800"),)
    prompt = Prompt(id="c", content=turns, columns={"meta": {"k": [1, None]}, "other": 1})

    with VerifierPool(spec) as pool:
        (graded,) = pool.grade([make_group(prompt, "a\udfff", "b")])

    assert rewards(graded.grades) == [1, 2], graded.grades


def test_a_group_without_rollouts_has_no_grades() -> None:
    with VerifierPool("exact") as pool:
        (graded,) = pool.grade([make_group(PROMPT)])

    assert graded.grades == ()


def test_a_column_that_is_no_plain_data_is_an_error_naming_it() -> None:
    day = datetime.date(2026, 1, 1)
    prompt = Prompt(id="p", content="q", truth="4", columns={"ok": 1, "day": day})

    with VerifierPool("exact") as pool, pytest.raises(VerifierError, match="column 'day'"):
        list(pool.grade([make_group(prompt, "a")]))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_here\ndef grade(completion, truth): ...", "ModuleNotFoundError"),
        ("def grade(completion, truth:", "SyntaxError"),
        ("x = 1", "has no 'grade'"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("import os; os._exit(7)", "exited with status 7"),
        ("def grade(x, y): ...", "parameters: x, y"),
    ],
)
def test_a_verifier_that_cannot_be_loaded_stops_before_anything_is_graded(
    write_verifier: WriteVerifier, source: str, reason: str
) -> None:
    spec = write_verifier(source)

    with pytest.raises(VerifierError, match=reason), VerifierPool(spec, num_workers=2):
        pass
    with pytest.raises(VerifierError, match=reason):
        load_verifier(spec)
    assert children() == set()


def test_a_verifier_that_hangs_while_loading_is_given_up(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("import time; time.sleep(1000)")

    with (
        pytest.raises(VerifierError, match="did not load within 1 s"),
        VerifierPool(spec, start_timeout_s=1.0),
    ):
        pass


def test_a_slow_import_does_not_count_against_the_time_limit(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("""
        import time
        time.sleep(1.5)
        def grade(completion, truth):
            return 1
    """)

    assert rewards(grade(spec, "a", timeout_s=1.0)) == [1]


def test_the_folder_of_the_file_is_importable(
    write_verifier: WriteVerifier, tmp_path: Path
) -> None:
    (tmp_path / "beside_it.py").write_text("RIGHT = 'yes'\n")
    spec = write_verifier("""
        def grade(completion, truth):
            from beside_it import RIGHT
            return completion == RIGHT
    """)

    assert rewards(grade(spec, "yes", "no")) == [1, 0]


def test_a_module_is_found_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "rewards.py").write_text(
        "class Grader:\n    def __call__(self, completion, truth):\n        return 1\n"
        "    @staticmethod\n    def extract_answer(completion):\n        return None\n"
        "grade = Grader()\n"
    )
    monkeypatch.chdir(tmp_path)

    assert rewards(grade("own_package.rewards:grade", "a")) == [1]
