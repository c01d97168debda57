"""The sampling process: one assessment, then it ends and gives all memory back.

It gets a task file and a folder. It has no key and no address of MLflow in its environment, no
network, and the checkpoint as a local folder. Progress goes to standard output as JSON lines. It
ends with its parent: the pipe to its standard input closes when the parent dies, however it dies.
"""

import errno
import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from mlflow_rlrisk.assess import LOOKAHEAD
from service.commit_points import CommitPoint, reached

TASK, RESULT = "task.json", "result.json"
LOCK = "child.lock"
LOCK_LIMIT_S = 60.0
BEAT_S = 0.5
OUT_OF_MEMORY, DISK_FULL = "out_of_memory", "disk_full"
LOOKAHEAD_OUT_OF_MEMORY = "lookahead_out_of_memory"
"""Where the updates have no room: a smaller batch of sequences would not give them any."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NICENESS = 10
"""A tenth of the processor time of a process that answers requests, where both want it all."""
ORPHANED, ROOMLESS = 70, 71
"""Exit codes where the parent is gone, and where there is no room for a result."""


class ProgressWriter:
    """An `Observer` that tells the parent how far it is; never more often than `BEAT_S`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._started: float | None = None
        self._last = 0.0
        self._num_tokens = self._num_samples = self._num_prompts = self._num_new = 0
        self._correct_sum = 0.0
        self._num_scored_prompts = 0
        self._totals: dict[str, int] = {}
        self._num_stored = 0

    @property
    def is_looking_ahead(self) -> bool:
        """Whether everything is sampled and the first updates of the RL run are tried."""
        return self._stage == LOOKAHEAD

    def stage(self, name: str) -> None:
        """Tell a stage at once."""
        self._stage = name
        if name == "sample":
            self._started = time.monotonic()
        self._tell()  # before: the stage takes what is pending with it
        self._say({"stage": name})

    def planned(self, plan: Any) -> None:
        """Learn how much there is to do."""
        self._totals = {
            "num_prompts": plan.num_prompts,
            "num_samples": plan.num_prompts * plan.num_samples,
        }
        self._num_stored = plan.num_stored

    def sampled(self, num_tokens: int, num_rollouts: int) -> None:
        """Count tokens and rollouts."""
        self._num_tokens += num_tokens
        self._num_new += num_rollouts
        if time.monotonic() - self._last > BEAT_S:
            self._tell()

    def graded(self, statistics: Any) -> None:
        """Count a prompt; its share of correct rollouts is its pass@1."""
        self._num_prompts += 1
        self._num_samples += statistics.num_samples
        if statistics.num_scored:
            self._num_scored_prompts += 1
            self._correct_sum += statistics.num_correct / statistics.num_scored
        if time.monotonic() - self._last > BEAT_S:
            self._tell()
        reached(CommitPoint.PROMPT_GRADED)

    def _tell(self) -> None:
        self._last = time.monotonic()
        seconds = 0.0 if self._started is None else self._last - self._started
        speed = self._num_tokens / seconds if seconds > 0 and self._num_tokens else None
        eta = None
        num_fresh = self._num_prompts - self._num_stored
        if seconds > 0 and num_fresh > 0 and not self.is_looking_ahead:
            eta = seconds / num_fresh * (self._totals["num_prompts"] - self._num_prompts)
        mean = self._correct_sum / self._num_scored_prompts if self._num_scored_prompts else None
        self._say(
            {
                "progress": {
                    **self._totals,
                    "num_prompts_done": self._num_prompts,
                    "num_samples_done": self._num_samples,
                    "tokens_per_s": speed,
                    "pass_at_1": mean,
                    "eta_s": eta,
                }
            }
        )

    def _say(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def main() -> int:
    """Run the task of the folder that the first argument names."""
    try:
        return _work(Path(sys.argv[1]))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return ROOMLESS


def _work(folder: Path) -> int:
    from mlflow_rlrisk.verifiers.terminal import leave_terminal

    leave_terminal()
    os.nice(NICENESS)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not end up between the lines
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    fault = _raise_walls(task["walls"])  # before any thread: a namespace is of one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with (folder / LOCK).open("w") as lock:
        _wait_for(lock)
        result = fault or _run(task, folder, lines)
        reached(CommitPoint.RESULT_UNWRITTEN)
        scratch = folder / f"{RESULT}.part"
        scratch.write_text(json.dumps(result), encoding="utf-8")
        scratch.replace(folder / RESULT)
        reached(CommitPoint.RESULT_WRITTEN)
    return 0


def _raise_walls(wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Put up the walls; what keeps them from standing is the result."""
    from service.sampling.walls import WallError, raise_walls

    try:
        walls = raise_walls(**wanted)
    except WallError as error:
        return {"error": {"code": "walls_unavailable", "message": str(error.strerror)}}
    print("walls:", ", ".join(walls) or "none", file=sys.stderr)
    return None


def _run(task: dict[str, Any], folder: Path, lines: TextIO) -> dict[str, Any]:
    from mlflow_rlrisk import AssessmentConfig, LookaheadConfig, PolicyConfig, RLRiskError, assess

    observer, run = ProgressWriter(lines), task["lookahead"]
    try:
        report = assess(
            task["model_path"],
            task["prompts"],
            verifier=task["verifier"],
            config=AssessmentConfig(**task["config"]),
            policy=PolicyConfig(**task["policy"]),
            mapping=task["mapping"],
            lookahead=None if run is None else LookaheadConfig(**run),
            out_dir=folder / "rollouts",
            observer=observer,
        )
    except RLRiskError as error:
        if _is_out_of_memory(error):
            return _no_memory(error, observer)
        code = DISK_FULL if _is_no_room(error) else error.code
        return {"error": {"code": code, "message": str(error)}}
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return _no_memory(error, observer)
    except OSError as error:
        code = DISK_FULL if _is_no_room(error) else "system"
        return {"error": {"code": code, "message": str(error)}}
    provenance = replace(report.provenance, **task["origin"])
    return {"report": replace(report, provenance=provenance).to_dict()}


def _no_memory(error: Exception, observer: ProgressWriter) -> dict[str, Any]:
    if observer.is_looking_ahead:
        need = "the first updates need 16 bytes of memory a parameter, and room for a pass"
        return {"error": {"code": LOOKAHEAD_OUT_OF_MEMORY, "message": f"{need}: {error}"}}
    return {"error": {"code": OUT_OF_MEMORY, "message": str(error)}}


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it, or what it was raised from, is torch's error of that kind; asks no import."""
    torch = sys.modules.get("torch")
    while error is not None and torch is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__
    return False


def _is_no_room(error: BaseException | None) -> bool:
    """Whether it, or what it was raised from, is a full disk; the shards that are written stay."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        error = error.__cause__
    return False


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def _wait_for(lock: TextIO) -> None:
    """Wait until the process of an earlier attempt is gone."""
    import fcntl

    deadline = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
