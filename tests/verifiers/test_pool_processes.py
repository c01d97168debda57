import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, VerifierError
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.verifiers import VerifierPool
from mlflow_rlrisk.verifiers.pool import GROUPS_AHEAD
from tests.verifiers.conftest import WriteVerifier, make_group
from tests.verifiers.grading import PROMPT, grade, rewards
from tests.verifiers.processes import children, is_alive


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


def test_a_module_that_waits_for_the_hub_says_how_to_do_without() -> None:
    with pytest.raises(VerifierError, match=r"did not load within 0\.001 s; .*HF_HUB_OFFLINE=1"):
        VerifierPool("evaluate:exact_match", start_timeout_s=0.001).__enter__()


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
