import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, VerifierError
from mlflow_rlrisk.records import Grade, GradeStatus, Message, Prompt, RolloutGroup
from mlflow_rlrisk.verifiers import VerifierPool, load_verifier
from mlflow_rlrisk.verifiers.pool import GROUPS_AHEAD
from tests.verifiers.conftest import WriteVerifier, make_group

PROMPT = Prompt(id="p", content="2+2=", truth="4", columns={"answer": "4"})


def grade(spec: str, *completions: str, timeout_s: float = 20.0) -> tuple[Grade, ...]:
    with VerifierPool(spec, timeout_s=timeout_s) as pool:
        (graded,) = pool.grade([make_group(PROMPT, *completions)])
    return graded.grades


def rewards(grades: tuple[Grade, ...]) -> list[float | None]:
    return [grade.reward for grade in grades]


def children() -> set[int]:
    """Direct child processes of this one, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


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
    assert "returned 1 rewards for 2 completions" in str(grades[0].reason)


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
        ("def grade(solution_str, ground_truth): ...", "verl"),
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


def test_two_workers_and_one_give_identical_grades_in_order() -> None:
    groups = [
        make_group(Prompt(id=str(i), content="q", truth=str(i)), *map(str, range(i, i + 5)))
        for i in range(60)
    ]

    results = []
    for num_workers in (1, 2):
        with VerifierPool("numeric", num_workers=num_workers) as pool:
            results.append([(g.prompt.id, g.grades) for g in pool.grade(iter(groups))])

    assert results[0] == results[1]
    assert [prompt_id for prompt_id, _ in results[0]] == [str(i) for i in range(60)]
    assert all(rewards(grades) == [1, 0, 0, 0, 0] for _, grades in results[0])


def test_grading_overlaps_sampling_and_looks_ahead_by_a_bound(
    write_verifier: WriteVerifier,
) -> None:
    spec = write_verifier("""
        import time
        def grade(completion, truth):
            time.sleep(0.2)
            return 1
    """)
    taken = 0

    def sample() -> Iterator[RolloutGroup]:
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield make_group(PROMPT, "a")

    with VerifierPool(spec, num_workers=2) as pool:
        graded = pool.grade(sample())
        next(graded)

        assert 2 <= taken <= GROUPS_AHEAD * 2 + 1
        graded.close()


def test_leaving_while_workers_hang_kills_them_at_once(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import time
        def grade(completion, truth):
            time.sleep(1000)
    """)
    started = time.monotonic()

    def interrupted() -> Iterator[RolloutGroup]:
        yield make_group(PROMPT, "a", "b")
        time.sleep(0.3)
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        VerifierPool(spec, num_workers=2, timeout_s=500.0) as pool,
    ):
        list(pool.grade(interrupted()))

    assert children() == set()
    assert time.monotonic() - started < 60  # not the 500 s of the time limit


def test_no_process_and_no_descriptor_is_left_behind(write_verifier: WriteVerifier) -> None:
    spec = write_verifier("""
        import os
        def grade(completion, truth):
            os._exit(1)
    """)
    grade(spec, "a")
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        grade(spec, "a", "b")

    assert children() == set()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_worker_ends_when_its_parent_is_killed(write_verifier: WriteVerifier) -> None:
    import signal
    import subprocess
    import sys

    spec = write_verifier("""
        import time
        def grade(completion, truth):
            time.sleep(1000)
    """)
    program = f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.verifiers import VerifierPool
with VerifierPool({spec!r}, timeout_s=900) as pool:
    print(pool._workers[0]._process.pid, flush=True)
    pool.grade_completions(Prompt(id="p", content="q", truth="1"), ["a"])
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 30
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(worker)


@pytest.fixture(scope="module")
def open_pool() -> Iterator[VerifierPool]:
    with VerifierPool("numeric", num_workers=2) as pool:
        yield pool


@given(st.lists(st.integers(0, 9).map(str) | st.text(max_size=20), max_size=12), st.integers(1, 5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_grades_of_a_pure_verifier_do_not_depend_on_the_group(
    open_pool: VerifierPool, completions: list[str], size: int
) -> None:
    (whole,) = open_pool.grade([make_group(PROMPT, *completions)])
    parts = [completions[start : start + size] for start in range(0, len(completions), size)]

    graded = open_pool.grade([make_group(PROMPT, *part) for part in parts])

    assert [grade for group in graded for grade in group.grades] == list(whole.grades)


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_workers"):
        VerifierPool("exact", num_workers=0)
    for timeout_s in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="timeout_s"):
            VerifierPool("exact", timeout_s=timeout_s)
    with pytest.raises(VerifierError, match="not open"):
        list(VerifierPool("exact").grade([make_group(PROMPT, "a")]))


def test_a_worker_that_died_while_idle_is_replaced_without_leaking_its_pipes() -> None:
    with VerifierPool("numeric") as pool:
        list(pool.grade([make_group(PROMPT, "4")]))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            process = pool._workers[0]._process
            assert process is not None
            process.kill()
            process.wait()

            (graded,) = pool.grade([make_group(PROMPT, "4", "5")])

            assert rewards(graded.grades) == [1, 0]
        assert len(os.listdir("/proc/self/fd")) == before
