"""A disk that is full while an assessment runs: it waits, nothing is published, then it goes on."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import mlflow
import pytest

from mlflow_rlrisk import AssessmentConfig, RiskReport, assess
from tests.benchmarks import coin_sampler
from tests.service.running_service import (
    ASSESSMENT,
    BASE,
    VERIFIER,
    Client,
    RunningService,
    running_service,
    wait_for,
    write_settings,
)

SLOW = """
import time


def slow(prompts, completions, **columns):
    time.sleep(0.3)
    from mlflow_rlrisk.demo.task import reward
    return reward(prompts=prompts, completions=completions, **columns)
"""
CHEAP = {**ASSESSMENT, "backend": "coin"}
ONE_PROCESS = ("--processes", "1")
TMPFS_BYTES = 24 << 20
LEAST_FREE = 1 << 20
LIMIT_S = 120.0
FULL_S = 8.0
"""Long enough for attempts to fail, and for a workflow without a thread to be picked up."""


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(65536))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def no_file_grows(service: RunningService) -> Iterator[None]:
    """Worker and sampling process cannot write beyond 4 KiB of any file: errno ``EFBIG``."""
    most = resource.RLIM_INFINITY
    pids = [*service.pids("--role worker"), *service.pids("service.sampling.child")]
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most))
    try:
        yield
    finally:
        for pid in service.pids("--role worker"):  # what it started meanwhile ends by itself
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.fixture(autouse=True)
def coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler without a model, here and in the processes that are started."""
    folder = str(coin_sampler.install(tmp_path / "coins"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, str(Path(__file__).parents[2])]))


def settings(folder: Path, registry: str, **more: object) -> Path:
    (folder / "slow.py").write_text(SLOW)
    artifacts = Path(registry.removeprefix("sqlite:///")).parent / "artifacts"
    return write_settings(
        folder,
        registry,
        artifact_roots=[str(artifacts)],
        verifiers={"chains": VERIFIER, "slow": "slow.py:slow"},
        assessment=CHEAP,
        readable=["."],
        **more,
    )


def runs_of(assessment_id: str) -> list[object]:
    experiment = mlflow.get_experiment_by_name("rlrisk")
    assert experiment is not None
    query = f"tags.`rlrisk.assessment_id` = '{assessment_id}'"
    return list(mlflow.MlflowClient().search_runs([experiment.experiment_id], query))


def an_assessment_waits_and_goes_on(
    service: RunningService,
    full: Callable[[], AbstractContextManager[None]],
    during: Callable[[Client], None],
) -> None:
    client = Client(service.url)
    body = {"model": "models:/chains-sft/1", "prompt_set": "heldout", "verifier": "slow"}
    asked = client.ask("POST", "/v1/assessments", body).json["id"]
    path = f"/v1/assessments/{asked}"
    wait_for(lambda: client.ask("GET", path).json["stage"] == "sample", LIMIT_S)

    with full():
        during(client)
        time.sleep(FULL_S)
        meanwhile = client.ask("GET", path).json
        published = runs_of(asked)
    done = client.wait(asked, limit_s=LIMIT_S)
    text = client.ask("GET", f"{path}/report").body.decode()

    prompts = service.config.parent / "prompts.jsonl"
    direct = assess(BASE, prompts, verifier=VERIFIER, config=AssessmentConfig(**CHEAP))
    assert meanwhile["state"] in ("queued", "running")
    assert published == []
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert figures(RiskReport.from_json(text)) == figures(direct)
    assert len(runs_of(asked)) == 1


def figures(report: RiskReport) -> dict[str, float]:
    return {name: metric.value for name, metric in report.metrics.items()}


def test_where_no_file_can_grow_an_assessment_waits(registry: str, tmp_path: Path) -> None:
    with running_service(settings(tmp_path, registry), options=ONE_PROCESS) as service:
        an_assessment_waits_and_goes_on(service, lambda: no_file_grows(service), lambda _: None)


def test_a_full_file_system_is_507_and_an_assessment_waits(registry: str, tmp_path: Path) -> None:
    small = tmp_path / "small"

    def nothing_is_taken(client: Client) -> None:
        answers = [client.assess("models:/chains-sft/1") for _ in range(4)]
        assert {(each.status, each.slug) for each in answers} == {(507, "disk-full")}
        assert client.ask("GET", "/readyz").json["checks"]["disk"] == "too little room"

    with tmpfs(small):
        config = settings(
            tmp_path,
            registry,
            data_dir=str(small / "data"),
            database=f"sqlite:///{small}/service.db",
            limits={"min_free_disk_bytes": LEAST_FREE},
        )
        with running_service(config, options=ONE_PROCESS) as service:
            an_assessment_waits_and_goes_on(service, lambda: filled(small), nothing_is_taken)
            assert Client(service.url).assess("models:/chains-sft/1").status == 202
