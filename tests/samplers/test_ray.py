"""Two workers on a real Ray cluster of this machine, against one process."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data")

from mlflow_rlrisk import assess, load_prompts
from mlflow_rlrisk.assessment.observer import SilentObserver
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.errors import CheckpointError, ConfigError, SamplerError
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.samplers.ray import RaySampler
from tests.tiny_assessments import quick, sums, timeless, write_graders
from tests.tiny_models import write_llama

pytestmark = pytest.mark.slow

PROMPTS = sums(12)

COUNTING = """
import os
import time

from mlflow_rlrisk.samplers.transformers import TransformersSampler


class Counting(TransformersSampler):
    def sample_range(self, prompts, samples):
        with open(os.environ["RLRISK_TEST_LOG"], "a") as log:
            log.write(f"{os.getpid()} {samples.start} {' '.join(p.id for p in prompts)}\\n")
        time.sleep(0.5)
        yield from super().sample_range(prompts, samples)


class Deadly(TransformersSampler):
    def sample_range(self, prompts, samples):
        os._exit(1)
"""
ENTRY_POINTS = """[mlflow_rlrisk.samplers]
counting = counting:Counting
deadly = counting:Deadly
"""


@dataclass(frozen=True)
class Cluster:
    home: Path
    checkpoint: Path
    graders: Path
    log: Path

    def assess(self, folder: Path | None = None, **given: Any) -> RiskReport:
        options = {"num_workers": 2, "prompts_per_shard": 2, **given.pop("options", {})}
        watch = given.pop("observer", SilentObserver())
        settings = {"backend": "ray", "backend_options": options, **given}
        if settings["backend"] != "ray":
            settings["backend_options"] = {}
        return assess(
            self.checkpoint,
            PROMPTS,
            verifier=f"{self.graders}:digit",
            # One prompt a batch: rounding depends on what is decoded together, and on that alone.
            config=quick(batch_size=4, **settings),
            out_dir=folder,
            run_preflight=False,
            observer=watch,
        )

    def starts(self) -> list[list[str]]:
        """Process, first sample and prompts of every shard that was begun."""
        if not self.log.exists():
            return []
        return [line.split() for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    import ray

    home = tmp_path_factory.mktemp("ray")
    (home / "counting-1.0.dist-info").mkdir()
    (home / "counting-1.0.dist-info" / "METADATA").write_text("Name: counting\nVersion: 1.0\n")
    (home / "counting-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (home / "counting.py").write_text(COUNTING)
    found = Cluster(home, write_llama(home / "checkpoint"), write_graders(home), home / "log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(home))
        patch.setenv("RLRISK_TEST_LOG", str(found.log))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield found
        ray.shutdown()


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> RiskReport:
    return cluster.assess(backend="transformers")


def without_the_cluster(report: RiskReport) -> dict[str, Any]:
    """The report but for the words on how it was spread."""
    found = timeless(report)
    for name in ("scale_out", "num_workers"):
        found["provenance"]["sampler"].pop(name, None)
    del found["config"]["backend"], found["config"]["backend_options"]
    return found


def test_two_workers_report_byte_for_byte_what_one_process_does(
    cluster: Cluster, alone: RiskReport
) -> None:
    # Groups are split over shards too, and graded in the workers.
    options = {"samples_per_shard": 4, "prompts_per_shard": 5, "verify": True}

    class Rollouts(SilentObserver):
        seen = 0

        def sampled(self, num_tokens: int, num_rollouts: int) -> None:
            self.seen += num_rollouts

    watch = Rollouts()
    report = cluster.assess(options=options, observer=watch)

    assert json.dumps(without_the_cluster(report)) == json.dumps(without_the_cluster(alone))
    assert report.provenance.digests == alone.provenance.digests
    assert watch.seen == len(PROMPTS) * 8


def test_a_worker_that_is_killed_costs_its_shard_and_nothing_else(
    cluster: Cluster, alone: RiskReport
) -> None:
    cluster.log.unlink(missing_ok=True)
    killed: list[list[str]] = []

    def kill_one_half_way() -> None:
        deadline = time.monotonic() + 120
        while len(cluster.starts()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.append(cluster.starts()[-1])
        os.kill(int(killed[0][0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one_half_way)
    killer.start()
    report = cluster.assess(options={"inner": "counting"})
    killer.join()

    begun = Counter(tuple(start[1:]) for start in cluster.starts())
    repeated = {shard: count for shard, count in begun.items() if count > 1}
    assert len(begun) == 6
    assert repeated == {tuple(killed[0][1:]): 2}
    assert json.dumps(without_the_cluster(report)) == json.dumps(without_the_cluster(alone))


def test_a_folder_begun_on_one_machine_goes_on_on_the_cluster(
    cluster: Cluster, alone: RiskReport, tmp_path: Path
) -> None:
    class StopsHalfWay(SilentObserver):
        left = 5

        def graded(self, statistics: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.assess(tmp_path / "out", backend="transformers", observer=StopsHalfWay())
    cluster.log.unlink(missing_ok=True)

    report = cluster.assess(tmp_path / "out", options={"inner": "counting"})

    sampled = [name for start in cluster.starts() for name in start[2:]]
    assert 0 < len(sampled) < len(PROMPTS)
    assert len(sampled) == len(set(sampled))
    assert report.solve_counts == alone.solve_counts


def test_a_checkpoint_that_no_worker_can_read_is_named(cluster: Cluster) -> None:
    known = open_checkpoint(cluster.checkpoint)
    elsewhere = replace(known, model_path=cluster.home / "not" / "here")

    with pytest.raises(
        CheckpointError, match=r"not/here cannot be read on node .*every node"
    ) as it:
        RaySampler(elsewhere, quick(backend="ray"))
    assert "\n" not in str(it.value)  # one sentence, not the worker's traceback


def test_workers_that_the_cluster_cannot_carry_are_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="3 workers claim 3; at most 2 CPUs"):
        RaySampler(cluster.checkpoint, quick(backend_options={"num_workers": 3}))
    with pytest.raises(ConfigError, match="room for 0 workers of 1 CPU and 1 GPU"):
        RaySampler(cluster.checkpoint, quick(backend_options={"num_gpus_per_worker": 1}))


def test_a_shard_that_kills_its_workers_ends_the_run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray Data would try it again for ever. No second try here, for each takes a worker's start.
    monkeypatch.setattr("mlflow_rlrisk.samplers.ray.MOST_RETRIES", 0)
    options = {"inner": "deadly", "num_workers": 1, "prompts_per_shard": 12}
    sampler = RaySampler(cluster.checkpoint, quick(backend_options=options))

    with pytest.raises(SamplerError, match="worker of the Ray cluster failed"):
        list(sampler.sample(load_prompts(PROMPTS).prompts))
    sampler.close()
