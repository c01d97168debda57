"""Killed, interrupted, spoiled, shared: what a folder of rollouts may go through."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk import assess, rescore
from mlflow_rlrisk.assessment.observer import Plan, SilentObserver
from mlflow_rlrisk.errors import RLRiskError, RolloutStoreError, SamplerError
from mlflow_rlrisk.report import RiskReport
from tests.tiny_assessments import (
    QUICK_OPTIONS,
    is_running,
    quick,
    start_rlrisk,
    sums,
    timeless,
    write_graders,
)
from tests.tiny_models import write_llama

PROMPTS = sums(10)


@dataclass(frozen=True)
class Setup:
    home: Path
    checkpoint: Path
    graders: Path

    def assess(self, folder: Path, grader: str = "digit", **given: Any) -> RiskReport:
        names = ("observer", "run_preflight")
        rest = {name: given.pop(name) for name in names if name in given}
        model = given.pop("model", self.checkpoint)
        prompts = given.pop("prompts", PROMPTS)
        verifier = f"{self.graders}:{grader}"
        config = quick(**given)
        return assess(model, prompts, verifier=verifier, config=config, out_dir=folder, **rest)

    def start(self, folder: Path) -> "subprocess.Popen[str]":
        """The same assessment by the command, one group at a time and slowly graded."""
        (self.home / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
        return start_rlrisk(
            *("assess", str(self.checkpoint), "--prompts", "prompts.jsonl"),
            *("--verifier", f"{self.graders}:slow_digit", *QUICK_OPTIONS),
            *("--batch-size", "8", "--no-preflight", "--out", str(folder), "--json"),
            cwd=self.home,
        )


class CountsStored(SilentObserver):
    num_stored = -1

    def planned(self, plan: Plan) -> None:
        self.num_stored = plan.num_stored


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    home = tmp_path_factory.mktemp("resume")
    return Setup(home, write_llama(home / "checkpoint"), write_graders(home))


@pytest.fixture(scope="module")
def finished(setup: Setup) -> Path:
    """The folder of an assessment that nobody disturbed."""
    setup.assess(setup.home / "finished")
    return setup.home / "finished"


SLOWLY = {"grader": "slow_digit", "batch_size": 8, "run_preflight": False}


@pytest.fixture(scope="module")
def undisturbed(setup: Setup) -> RiskReport:
    """What `Setup.start` reports when nobody stops it."""
    return setup.assess(setup.home / "undisturbed", **SLOWLY)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def stored_ids(folder: Path, kind: str = "rollouts") -> set[str]:
    return {
        name
        for shard in (folder / kind).glob("*.parquet")
        for name in pq.read_table(shard)["prompt_id"].to_pylist()
    }


def wait_for_some(process: "subprocess.Popen[str]", folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((folder / "grades").glob("*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_folder_that_is_being_written_is_refused(setup: Setup, tmp_path: Path) -> None:
    with setup.start(tmp_path / "out") as process:
        wait_for_some(process, tmp_path / "out")
        process.send_signal(signal.SIGSTOP)  # on a slow machine it would end meanwhile
        with pytest.raises(RolloutStoreError, match="another assessment is writing"):
            setup.assess(tmp_path / "out", "digit", run_preflight=False)
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_assessment_goes_on_and_ends_as_if_it_had_not_been(
    setup: Setup, undisturbed: RiskReport, tmp_path: Path, how: signal.Signals
) -> None:
    pids = Path(f"{setup.graders}.pids")
    pids.unlink()
    hold = Path(f"{setup.graders}.hold")
    hold.touch()  # however late the signal comes, the last group is not graded by then
    with setup.start(tmp_path / "out") as process:
        wait_for_some(process, tmp_path / "out")
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    hold.unlink()
    workers = set(pids.read_text(encoding="utf-8").split())
    kept = stored_ids(tmp_path / "out")
    graded = stored_ids(tmp_path / "out", "grades")
    observer = CountsStored()

    resumed = setup.assess(tmp_path / "out", **SLOWLY, observer=observer)

    assert 0 < len(graded) < len(PROMPTS)  # sampling is the quicker of the two, and may be done
    assert observer.num_stored == len(kept)
    assert json.dumps(timeless(resumed)) == json.dumps(timeless(undisturbed))
    assert workers
    time.sleep(1.5)  # a worker looks once a second whether its parent lives
    assert not [pid for pid in workers if is_running(int(pid))]
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert json.loads(out)["error"]["code"] == "interrupted"
        assert "Traceback" not in err


def test_a_finished_assessment_is_read_and_not_repeated(setup: Setup, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    observer = CountsStored()

    again = setup.assess(folder, observer=observer)

    first = RiskReport.from_json((folder / "report.json").read_text(encoding="utf-8"))
    assert observer.num_stored == len(PROMPTS)
    assert timeless(again) == timeless(first)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_another_verifier_grades_the_stored_rollouts_anew(setup: Setup, folder: Path) -> None:
    rollouts = {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()}
    observer = CountsStored()

    other = setup.assess(folder, "early_letter", observer=observer)

    fresh = setup.assess(folder.parent / "fresh", "early_letter")
    assert observer.num_stored == len(PROMPTS)
    assert {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()} == rollouts
    assert timeless(other) == timeless(fresh)
    assert rescore(folder).metrics == fresh.metrics


def test_a_verifier_whose_source_changed_is_another_verifier(
    setup: Setup, folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def grade(completion, truth):\n    return 0.0\n", encoding="utf-8")
    call = {"config": quick(), "out_dir": folder, "run_preflight": False}
    wrong = assess(setup.checkpoint, PROMPTS, verifier=f"{mine}:grade", **call)
    mine.write_text("def grade(completion, truth):\n    return 1.0\n", encoding="utf-8")

    right = assess(setup.checkpoint, PROMPTS, verifier=f"{mine}:grade", **call)

    assert wrong.metrics["rlrisk/pass_at_1"].value == 0.0
    assert right.metrics["rlrisk/pass_at_1"].value == 1.0


def test_grades_that_ran_out_of_time_are_asked_for_again_under_another_limit(
    setup: Setup, tmp_path: Path
) -> None:
    given = {"prompts": PROMPTS[:2], "num_samples": 4}
    verifier = f"{setup.graders}:slow_digit"
    hasty = assess(
        setup.checkpoint,
        PROMPTS[:2],
        verifier=verifier,
        config=quick(num_samples=4, verifier_timeout_s=0.1),
        out_dir=tmp_path / "out",
        run_preflight=False,
    )

    patient = setup.assess(tmp_path / "out", "slow_digit", run_preflight=False, **given)

    assert hasty.metrics["rlrisk/verifier_failure_share"].value == 1.0
    assert patient.metrics["rlrisk/verifier_failure_share"].value == 0.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "sampler"),
        ({"temperature": 0.9}, "sampler"),
        ({"max_new_tokens": 9}, "sampler"),
        ({"num_samples": 9}, "sampler"),
        ({"prompts": sums(9)}, "prompts"),
        ({"model": "other"}, "checkpoint"),
    ],
)
def test_a_folder_takes_rollouts_of_one_kind_only(
    setup: Setup, folder: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    if "model" in changes:
        changes = {"model": write_llama(tmp_path / "other", seed=1)}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with pytest.raises(RolloutStoreError, match=f"other inputs.*{named}: stored"):
        setup.assess(folder, **changes)

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_dump_of_the_same_name_with_other_rollouts_is_not_taken_for_the_first(
    setup: Setup, finished: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(finished / "rollouts").to_pylist()
    dump = tmp_path / "dump.jsonl"
    dump.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    setup.assess(tmp_path / "out", model=dump, backend="replay")
    changed = [row | {"completion": "none"} for row in rows]
    dump.write_text("\n".join(map(json.dumps, changed)), encoding="utf-8")

    with pytest.raises(RolloutStoreError, match="rollouts: stored"):
        setup.assess(tmp_path / "out", model=dump, backend="replay")


def test_a_dump_with_too_few_prompts_is_refused(
    setup: Setup, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(SamplerError, match="no rollouts of 2 of 12 prompts"):
        setup.assess(tmp_path / "out", model=finished, backend="replay", prompts=sums(12))


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * keep)])

    return spoil


def drop_last_prompt(folder: Path) -> None:
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "prompts.jsonl").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


def change_settings(folder: Path) -> None:
    head = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    head["config"]["success_threshold"] = -1.0
    (folder / "inputs.json").write_text(json.dumps(head), encoding="utf-8")


def flip_a_byte_of_every_rollout_shard(folder: Path) -> None:
    for path in (folder / "rollouts").glob("*.parquet"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        path.write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut("inputs.json", 0.5), "inputs .* are damaged"),
        (cut("inputs.json", 0.0), "inputs .* are damaged"),
        (cut("prompts.jsonl", 0.5), "inputs .* are damaged"),
        (drop_last_prompt, "not as they were written"),
        (change_settings, "not as they were written"),
        (lambda folder: (folder / "inputs.json").unlink(), "inputs.json is missing"),
        (lambda folder: shutil.rmtree(folder / "grades"), "lacks the grades of 10 of 10"),
        (lambda folder: shutil.rmtree(folder / "rollouts"), "lacks the rollouts of 10 of 10"),
        (flip_a_byte_of_every_rollout_shard, "lacks the rollouts of .* damaged shards"),
    ],
)
def test_a_spoiled_folder_is_not_judged(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)

    with pytest.raises(RolloutStoreError, match=message):
        rescore(folder)


@pytest.mark.parametrize("spoil", [flip_a_byte_of_every_rollout_shard, cut("inputs.json", 0.5)])
def test_a_rerun_mends_a_spoiled_folder(
    setup: Setup, folder: Path, spoil: Callable[[Path], None]
) -> None:
    first = RiskReport.from_json((folder / "report.json").read_text(encoding="utf-8"))
    spoil(folder)

    mended = setup.assess(folder)

    assert timeless(mended) == timeless(first)
    assert rescore(folder).metrics == first.metrics


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 1, "identity": 5}', '{"schema_version": 9}']
)
def test_a_damaged_manifest_is_an_error_and_not_a_new_folder(
    setup: Setup, folder: Path, text: str
) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")

    with pytest.raises(RolloutStoreError, match=r"manifest\.json"):
        setup.assess(folder)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_refused_before_sampling(
    setup: Setup, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    observer = CountsStored()

    with pytest.raises(RLRiskError, match="cannot be written"):
        setup.assess(tmp_path / place, observer=observer)

    assert observer.num_stored == -1


def test_a_disk_that_fills_up_is_one_line_and_the_rerun_goes_on(
    setup: Setup, finished: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        "from mlflow_rlrisk.cli import run; run(sys.argv[1:])"
    )
    (setup.home / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    result = subprocess.run(
        [
            *(sys.executable, "-c", code, "assess", str(setup.checkpoint)),
            *("--prompts", "prompts.jsonl", "--verifier", f"{setup.graders}:digit"),
            *(*QUICK_OPTIONS, "--out", str(tmp_path / "out"), "--json"),
        ],
        cwd=setup.home,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    report = setup.assess(tmp_path / "out")

    first = RiskReport.from_json((finished / "report.json").read_text(encoding="utf-8"))
    assert result.returncode == 1, result.stderr
    message = json.loads(result.stdout)["error"]["message"]
    assert "cannot be written" in message
    assert "File too large" in message
    assert "Traceback" not in result.stderr
    assert timeless(report) == timeless(first)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_group_with_a_grade_too_few_is_graded_again_and_not_lost(
    setup: Setup, tmp_path: Path
) -> None:
    whole = setup.assess(tmp_path)
    (shard,) = (tmp_path / "grades").glob("*.parquet")
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)

    again = CountsStored()
    mended = setup.assess(tmp_path, observer=again)

    assert again.num_stored == len(PROMPTS)  # nothing is sampled again
    assert timeless(mended) == timeless(whole)
