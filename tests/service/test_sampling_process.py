"""The sampling process on its own: its walls, its GPU, its memory."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk import AssessmentConfig, ConfigError, LookaheadConfig, PolicyConfig
from service.sampling.child import NICENESS, OUT_OF_MEMORY
from service.sampling.gpu_claim import Claim, claimed, devices_here, num_needed
from service.sampling.process import run_child
from service.sampling.scoring import Scorer
from service.settings import ServiceSettings, load_settings
from service.tables.assessment_rows import Assessment
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from tests.benchmarks import coin_sampler
from tests.service.running_service import ASSESSMENT, BASE, write_settings

SPY = '''
import json, os, socket


def spy(prompts, completions, **columns):
    """Tries what a checkpoint that took over the process would try."""
    seen = {"environment": dict(os.environ), "niceness": os.nice(0), "session": os.getsid(0)}
    for name, attempt in {
        "key": lambda: open(KEY).read(),
        "worker": lambda: open(f"/proc/WORKER/environ").read(),
        "listener": lambda: socket.create_connection(("127.0.0.1", PORT), 2),
        "outside": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("9.9.9.9", 9)),
        "written": lambda: open(KEY + ".mine", "w"),
        "loopback": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    }.items():
        try:
            attempt()
            seen[name] = "done"
        except OSError as error:
            seen[name] = "refused"
    with open(OUT, "w") as stream:
        json.dump(seen, stream)
    return [1.0] * len(completions)
'''

HUNGRY = '''
from tests.benchmarks.coin_sampler import CoinSampler


class Hungry(CoinSampler):
    """Has memory for a few sequences at a time."""

    def __init__(self, source, config, on_tokens=None):
        super().__init__(source, config, on_tokens)
        self._size = config.batch_size

    def sample(self, prompts):
        with open(OUT, "a") as stream:
            stream.write(f"{self._size}\\n")
        if self._size > LARGEST:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().sample(prompts)
'''

STARVED = """
import torch


def starve(*given, **named):
    raise torch.OutOfMemoryError("CUDA out of memory")


torch.PLACE = starve
"""


def task_of(settings: ServiceSettings, verifier: str) -> dict[str, Any]:
    return {
        "model_path": str(BASE),
        "origin": {},
        "prompts": settings.prompt_sets["heldout"].path,
        "mapping": None,
        "verifier": settings.verifiers[verifier],
        "config": settings.base_config().model_dump(mode="json"),
        "policy": PolicyConfig().model_dump(mode="json"),
        "lookahead": None,
    }


def find_also(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Processes that are started find modules there, and the tests' own."""
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_checkpoint_that_takes_over_sees_no_key_no_credential_and_nobody(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    key, out = tmp_path / "key.pem", tmp_path / "out" / "seen.json"
    key.write_text("private")
    out.parent.mkdir()
    text = SPY.replace("KEY", repr(str(key))).replace("OUT", repr(str(out)))
    text = text.replace("WORKER", str(os.getpid())).replace("PORT", str(listener.getsockname()[1]))
    (tmp_path / "spy.py").write_text(text)
    find_also(monkeypatch, coin_sampler.install(tmp_path / "site"))
    assessment = {**ASSESSMENT, "backend": "coin"}
    path = write_settings(
        tmp_path, "sqlite:///x.db", verifiers={"spy": "spy.py:spy"}, assessment=assessment
    )
    settings = load_settings(path).model_copy(update={"writable": (str(out.parent),)})
    (tmp_path / "job").mkdir()

    result = run_child(
        tmp_path / "job",
        task_of(settings, "spy"),
        settings,
        claim=Claim((), ()),
        on_line=lambda _: True,
    )

    assert "report" in result, (result, (tmp_path / "job" / "child.log").read_text())
    seen = json.loads(out.read_text())
    assert seen.pop("niceness") == min(19, os.nice(0) + NICENESS)  # requests go first
    assert seen.pop("session") == os.getsid(0)  # else its niceness would not count against them
    environment = seen.pop("environment")
    assert "hunter2" not in str(environment)
    assert not [name for name in environment if name.startswith(("MLFLOW", "RLRISK"))]
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    refused = dict.fromkeys(("key", "worker", "listener", "outside", "written"), "refused")
    assert seen == {**refused, "loopback": "done"}


FILTERED = """
import errno, socket, sys
from service.sampling import walls

walls._own_network = lambda: (_ for _ in ()).throw(OSError(errno.EPERM, "not here"))
try:
    print(walls.raise_walls(backend=sys.argv[1], is_offline=True, readable=[], writable=[]))
except walls.WallError as error:
    raise SystemExit(f"refused: {error}")
local = socket.socketpair()
socket.socket(socket.AF_UNIX).close()
for family in (socket.AF_INET, socket.AF_INET6):
    try:
        socket.socket(family)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_where_no_namespace_is_to_be_had_a_filter_takes_the_network_away() -> None:
    def run(backend: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", FILTERED, backend]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    filtered, refused = run("transformers"), run("vllm")

    words, *errors = filtered.stdout.splitlines()
    assert "local sockets only" in words, filtered.stderr
    assert errors == ["ENETUNREACH", "ENETUNREACH"]
    assert "vllm needs user namespaces" in refused.stderr  # its processes need loopback


def test_a_backend_that_reaches_others_needs_the_operators_word() -> None:
    settings = {
        "tracking_uri": "http://mlflow",
        "prompt_sets": {},
        "verifiers": {},
        "assessment": {"backend": "openai"},
    }
    with pytest.raises(ConfigError, match="sampling_network"):
        ServiceSettings(**settings)
    assert ServiceSettings(**settings, sampling_network="host").sampling_network == "host"


def hungry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int, more: str = ""
) -> ServiceSettings:
    """Settings with a backend that runs out of memory above a batch of ``largest``."""
    info = tmp_path / "site" / "hungry-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hungry\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mlflow_rlrisk.samplers]\nhungry = hungry:Hungry\n")
    text = (HUNGRY + more).replace("OUT", repr(str(tmp_path / "out" / "sizes")))
    (tmp_path / "site" / "hungry.py").write_text(text.replace("LARGEST", str(largest)))
    (tmp_path / "out").mkdir()
    find_also(monkeypatch, tmp_path / "site")
    path = write_settings(tmp_path, "sqlite:///x.db", model_roots=[str(BASE.parent)])
    settings = load_settings(path)
    assessment = {**settings.assessment, "backend": "hungry", "batch_size": 8}
    more = {"assessment": assessment, "writable": (str(tmp_path / "out"),)}
    return settings.model_copy(update=more)


def test_where_memory_runs_out_the_batch_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hungry(tmp_path, monkeypatch, largest=4)

    done = scored(settings)

    assert [int(line) for line in (tmp_path / "out" / "sizes").read_text().split()] == [8, 4]
    assert (done.state, done.error_code) == ("succeeded", None)


def test_after_two_halvings_it_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def no_room(*given: Any, **_: Any) -> dict[str, Any]:
        sizes.append(given[1]["config"]["batch_size"])
        return {"error": {"code": OUT_OF_MEMORY, "message": "CUDA out of memory"}}

    monkeypatch.setattr("service.sampling.scoring.run_child", no_room)

    done = scored(hungry(tmp_path, monkeypatch, largest=1))

    assert sizes == [8, 4, 2]
    assert (done.state, done.error_code) == ("failed", "out_of_memory")


@pytest.mark.parametrize("place", ["Tensor.backward", "optim.AdamW.step"])
def test_where_an_update_finds_no_memory_no_smaller_batch_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run = LookaheadConfig(learning_rate=1e-6, run_steps=9, prompts_per_step=2, steps=1)
    settings = hungry(tmp_path, monkeypatch, largest=8, more=STARVED.replace("PLACE", place))
    settings = settings.model_copy(update={"lookaheads": {"grpo": run}})
    started = []

    def counted(*given: Any, **named: Any) -> dict[str, Any]:
        started.append(given[1]["config"]["batch_size"])
        return run_child(*given, **named)

    monkeypatch.setattr("service.sampling.scoring.run_child", counted)

    done = scored(settings, lookahead="grpo")

    assert started == [8]
    assert (done.state, done.error_code) == ("failed", "lookahead_out_of_memory")
    assert "the first updates need 16 bytes of memory a parameter" in str(done.error_detail)


def scored(settings: ServiceSettings, **more: Any) -> Assessment:
    """An assessment at its end, without a service around it."""
    jobs = AssessmentTable(open_database(settings.database))
    asked = {
        "model": str(BASE),
        "prompt_set": "heldout",
        "verifier": "chains",
        "policy": "default",
        "sampling": settings.sampling_defaults().model_dump(mode="json"),
        "group_size": 2,
        **more,
    }
    job, _ = jobs.submit(
        asked, owner="o", body_digest="d", key=None, max_open=9, max_open_per_owner=9
    )

    assert Scorer(jobs, settings, lambda: False).score(job.id)

    done = jobs.find(job.id)
    assert done is not None
    return done


class GivenUpError(Exception):
    """Ends a wait for a GPU."""


def give_up() -> None:
    raise GivenUpError


def test_two_assessments_never_have_the_same_gpu(tmp_path: Path) -> None:
    def claim(size: int, wait: Callable[[], None] = give_up) -> Any:
        options = {"tensor_parallel_size": size}
        config = AssessmentConfig(device="cuda", backend="vllm", backend_options=options)
        return claimed(config, keep_waiting=wait, devices=("0", "1", "2"), folder=tmp_path)

    with ExitStack() as held:
        first = held.enter_context(claim(2))
        second = held.enter_context(claim(1))
        assert (first.devices, second.devices) == (("0", "1"), ("2",))
        assert first.environment["CUDA_VISIBLE_DEVICES"] == "0,1"
        with pytest.raises(GivenUpError):
            claim(1).__enter__()
    with claim(3) as all_of_them:
        assert all_of_them.devices == ("0", "1", "2")
    with pytest.raises(ConfigError, match="4 GPUs are needed, 3 are here"):
        claim(4).__enter__()


def test_a_gpu_stays_taken_while_the_sampling_process_of_a_dead_worker_lives(
    tmp_path: Path,
) -> None:
    config = AssessmentConfig(device="cuda")

    def claim() -> Any:
        return claimed(config, keep_waiting=give_up, devices=("0",), folder=tmp_path)

    with claim() as mine:
        child = subprocess.Popen(["sleep", "60"], pass_fds=mine.locks)
    try:
        with pytest.raises(GivenUpError):
            claim().__enter__()
    finally:
        child.kill()
        child.wait()
    with claim() as again:
        assert again.devices == ("0",)


def test_without_gpus_nothing_is_claimed(tmp_path: Path) -> None:
    with claimed(AssessmentConfig(), keep_waiting=give_up, devices=(), folder=tmp_path) as none:
        assert none.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert num_needed(AssessmentConfig(device="cpu"), ("0",)) == 0
    assert devices_here({"CUDA_VISIBLE_DEVICES": "GPU-1a, 3"}) == ("GPU-1a", "3")
    assert devices_here({"CUDA_VISIBLE_DEVICES": ""}) == ()
