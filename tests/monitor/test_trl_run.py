"""Real GRPO on CPU, logged to a real MLflow server, watched from inside and from a second process.

The collapsing run trains the demo's base at a hundred times its learning rate: its policy is ruined
within a dozen steps.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.monitor.alarms import Alarm
from tests.mlflow_server import mlflow_server, pointed_at

pytest.importorskip("trl")

MAX_STEPS = 14
RUINOUS, HEALTHY = 1e-3, 1e-5
# The follower is another process, which has this one's start-up and a poll to make up for.
FOLLOWER_LIMIT_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.mlflow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), database) as url:
        yield url


def train(folder: Path, learning_rate: float, callback: Any, *, max_steps: int) -> Any:
    """GRPO of the demo's base on the demo's puzzles, 8 prompts a step; returns the trainer."""
    import trl
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from transformers.trainer_callback import PrinterCallback

    from mlflow_rlrisk.demo.make_base import BASE
    from mlflow_rlrisk.demo.make_data import RL
    from mlflow_rlrisk.demo.rl import GROUP_SIZE, _settings
    from mlflow_rlrisk.demo.task import reward
    from mlflow_rlrisk.demo.tokenizer import load_tokenizer
    from mlflow_rlrisk.demo.train import single_thread

    single_thread()
    rows = [json.loads(line) for line in RL.read_text(encoding="utf-8").splitlines()]
    changed = {
        **_settings(),
        "learning_rate": learning_rate,
        "max_steps": max_steps,
        "per_device_train_batch_size": 8 * GROUP_SIZE,
        "report_to": "mlflow",
    }
    library: Any = trl
    trainer = library.GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(BASE),
        reward_funcs=reward,
        args=library.GRPOConfig(output_dir=str(folder), **changed),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        processing_class=load_tokenizer(BASE),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def follower(run_id: str, url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from mlflow_rlrisk.cli import run; run()"]
    return subprocess.Popen(
        [*command, "monitor", "--run-id", run_id, "--follow", "--json", "--poll-s", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": url},
    )


def signature(alarms: tuple[Alarm, ...]) -> list[tuple[str, int, str, float]]:
    return [(a.rule, a.step, str(a.severity), a.value) for a in alarms]


def watched(
    server: str, folder: Path, learning_rate: float, callback: Any, *, max_steps: int
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Train inside a run that a second process follows; trainer, its answer, the run's tags."""
    import mlflow

    with pointed_at(server):
        mlflow.set_experiment("rl")
        with mlflow.start_run() as active:
            process = follower(active.info.run_id, server)
            try:
                trainer = train(folder, learning_rate, callback, max_steps=max_steps)
            except BaseException:
                process.kill()
                raise
        out, err = process.communicate(timeout=FOLLOWER_LIMIT_S)
        assert process.returncode == 0, err
        tags = mlflow.get_run(active.info.run_id).data.tags
    answer: dict[str, Any] = json.loads(out)
    assert "watching run" in err
    return trainer, answer, tags


def test_a_collapsing_run_is_stopped_with_its_checkpoint_and_a_second_process_sees_the_same(
    server: str, tmp_path: Path
) -> None:
    import mlflow

    from mlflow_rlrisk import RLRiskCallback, log_checkpoint
    from mlflow_rlrisk.demo.make_base import BASE

    with pointed_at(server):
        mlflow.set_experiment("rl")
        log_checkpoint(BASE, "chains")
        callback = RLRiskCallback(action="stop", model="models:/chains/1")
        trainer, answer, tags = watched(
            server, tmp_path / "rl", RUINOUS, callback, max_steps=MAX_STEPS
        )
        version = mlflow.MlflowClient().get_model_version("chains", "1")

    assert callback.stopped_at is not None
    assert trainer.state.global_step == callback.stopped_at < MAX_STEPS
    checkpoint = tmp_path / "rl" / f"checkpoint-{callback.stopped_at}"
    assert (checkpoint / "model.safetensors").is_file()
    assert signature(callback.alarms) == [
        (a["rule"], a["step"], a["severity"], a["value"]) for a in answer["alarms"]
    ]
    assert answer["stop"]["step"] == callback.judgement.stop.step
    assert tags["rlrisk.monitor"].startswith("stop from step")
    assert json.loads(version.tags["rlrisk.outcome"])["status"] == "collapsed"


def test_a_healthy_run_goes_to_its_end_without_an_alarm(server: str, tmp_path: Path) -> None:
    from mlflow_rlrisk import RLRiskCallback

    callback = RLRiskCallback(action="stop")
    trainer, answer, tags = watched(server, tmp_path, HEALTHY, callback, max_steps=8)

    assert trainer.state.global_step == 8
    assert callback.stopped_at is None
    assert callback.alarms == ()
    assert answer["alarms"] == []
    assert answer["num_logs"] == 8
    assert tags["rlrisk.alarms"] == "none"
