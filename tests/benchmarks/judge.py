"""Checks per second and latency of the code judge, beside what else is used.

``python -m tests.benchmarks.judge [--checks 400] [--lanes 2]`` times tiers A and B, a bare
``python -c`` a check, and the steps of `code_eval` of `evaluate`, in turn, several rounds.
``--soak 10000`` runs that many checks, hostile ones among them, and prints processes, file
descriptors and memory on the way. ``--parallel 1000`` grades that many at once from threads.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from mlflow_rlrisk.verifiers.code import CodeGrade, CodeJudge, Limits, read_task
from tests.benchmarks.interleaved import finish

SOURCE = "def solve(n):\n    return sum(range(2 * n)) - n * (n - 1)\n"
NUMBERS = range(1, 7)
TASK = read_task([{"args": [n], "expected": n * n} for n in NUMBERS], "solve")
CHECK = "\n".join(f"assert solve({n}) == {n * n}" for n in NUMBERS)
ROUNDS = 3
WRONG = "def solve(n): return 0"
SOAK_PROGRAMS = (
    (SOURCE, CodeGrade.PASS),
    (WRONG, CodeGrade.FAIL),
    ("import os\ndef solve(n): os._exit(0)", CodeGrade.ERROR),
    ("import os\ndef solve(n): os.fork()", CodeGrade.ERROR),
    ("def solve(n): return bytearray(1 << 40)", CodeGrade.RESOURCE),
    ("def solve(n): return 'x' * (5 << 20)", CodeGrade.RESOURCE),
    ("import os\nos.write(3, b'junk' * 9)", CodeGrade.RESOURCE),
    (SOURCE.replace("n * (n - 1)", "(n * n - n)"), CodeGrade.PASS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=200)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=0)
    parser.add_argument("--tiers", default="A,B")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    tiers = options.tiers.split(",")
    results: list[dict[str, Any]] = []
    for tier in tiers:
        if options.soak:
            results.append(soak(tier, options.soak, options.lanes))
        if options.parallel:
            results.append(parallel(tier, options.parallel))
    if not results:
        results.append(throughput(tiers, options.checks, options.lanes))
    finish(results, options.json)


def throughput(tiers: list[str], checks: int, lanes: int) -> dict[str, Any]:
    """Rounds of every contender in turn; the same right program and the same six calls."""
    judges = {f"tier {t}": CodeJudge(t, limits=Limits(timeout_s=30.0), lanes=lanes) for t in tiers}
    contenders: dict[str, Callable[[], None]] = {"python -c": bare_python}
    contenders["as code_eval does it"] = human_eval_like
    rates: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    for judge in judges.values():
        judge.__enter__()
    for name, judge in judges.items():
        contenders[name] = lambda judge=judge: expect_pass(judge)  # type: ignore[misc]
    try:
        for _ in range(ROUNDS):
            for name, check in contenders.items():
                count = checks if name in judges else max(checks // 10, 10)
                seconds, each = timed(check, count, lanes)
                rates.setdefault(name, []).append(count / seconds)
                latencies.setdefault(name, []).extend(each)
    finally:
        for judge in judges.values():
            judge.close()
    print(f"\n{'':22}{'checks/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'x python -c':>13}")
    rows = {}
    for name, found in rates.items():
        ratio = median(r / b for r, b in zip(found, rates["python -c"], strict=True))
        ordered = sorted(latencies[name])
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        print(f"{name:22}{median(found):10.1f}{p50 * 1e3:9.1f}{p99 * 1e3:9.1f}{ratio:13.1f}")
        rows[name] = {"checks_per_s": median(found), "p50_s": p50, "p99_s": p99, "ratio": ratio}
    return {"title": f"checks on {lanes} lanes", "rows": rows}


def timed(check: Callable[[], None], count: int, lanes: int) -> tuple[float, list[float]]:
    def one(_: int) -> float:
        start = time.perf_counter()
        check()
        return time.perf_counter() - start

    with ThreadPoolExecutor(lanes) as threads:
        start = time.perf_counter()
        each = list(threads.map(one, range(count)))
        return time.perf_counter() - start, each


def expect_pass(judge: CodeJudge) -> None:
    assert judge.grade(SOURCE, TASK).grade is CodeGrade.PASS


def bare_python() -> None:
    subprocess.run([sys.executable, "-I", "-c", f"{SOURCE}\n{CHECK}"], check=True)


def human_eval_like() -> None:
    """What the metric `code_eval` of `evaluate` does a check.

    The metric itself is downloaded code; here are its steps: a Manager, a forked process, `exec` of
    program and tests together, a word in a shared list.
    """
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        result = manager.list()
        process = context.Process(target=_unsafe_execute, args=(f"{SOURCE}\n{CHECK}", result))
        process.start()
        process.join(timeout=31)
        assert list(result) == ["passed"]


def _unsafe_execute(program: str, result: Any) -> None:
    exec(program, {})
    result.append("passed")


def soak(tier: str, checks: int, lanes: int) -> dict[str, Any]:
    """Many checks; every grade is looked at, and what is left behind on the way."""
    print(
        f"\ntier {tier}\n"
        f"{'checks':>8}{'processes':>11}{'fds':>6}{'judge MiB':>11}{'server MiB':>12}"
    )
    rows = []
    with CodeJudge(tier, limits=Limits(timeout_s=30.0), lanes=lanes) as judge:
        start = time.perf_counter()
        with ThreadPoolExecutor(lanes) as threads:
            step = max(checks // 10, 1)
            for done in range(0, checks + 1, step):
                rows.append(measured(done, judge))
                if done < checks:
                    list(threads.map(lambda i: soak_one(judge, i), range(done, done + step)))
        rate = checks / (time.perf_counter() - start)
    print(f"{rate:.0f} checks/s; after closing {len(descendants())} processes are left")
    return {"title": f"soak tier {tier}", "rows": rows, "checks_per_s": rate}


def soak_one(judge: CodeJudge, number: int) -> None:
    source, expected = SOAK_PROGRAMS[number % len(SOAK_PROGRAMS)]
    judged = judge.grade(source, TASK)
    assert judged.grade is expected, (source, judged)


def measured(done: int, judge: CodeJudge) -> dict[str, float]:
    assert judge._servers is not None
    family = descendants()
    row = {
        "checks": done,
        "processes": len(family),
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "judge_mib": resident_mib(os.getpid()),
        "server_mib": sum(map(resident_mib, family)),
    }
    print(
        f"{done:8}{row['processes']:11}{row['fds']:6}{row['judge_mib']:11.1f}"
        f"{row['server_mib']:12.1f}"
    )
    return row


def resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descendants() -> list[int]:
    """All processes below this one, zombies included."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return sorted(found - {os.getpid()})


def parallel(tier: str, checks: int) -> dict[str, Any]:
    """All at once, a thread each, as in a threaded server process."""
    grades: list[CodeGrade] = []
    with CodeJudge(tier, limits=Limits(timeout_s=60.0)) as judge:
        threads = [
            threading.Thread(target=lambda: grades.append(judge.grade(SOURCE, TASK).grade))
            for _ in range(checks)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
    passed = grades.count(CodeGrade.PASS)
    print(f"tier {tier}: {checks} threads at once, {passed} passes, {seconds:.1f} s")
    assert passed == checks
    return {"title": f"{checks} threads, tier {tier}", "seconds": seconds}


if __name__ == "__main__":
    main()
