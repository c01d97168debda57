"""An RL run whose first updates are tried: who may name it, what it changes, what a death costs."""

import hashlib
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from mlflow_rlrisk import AssessmentConfig, ConfigError, LookaheadConfig, RiskReport, assess
from service.app import create_app
from service.deps import Dependencies
from service.sampling.scoring import Scorer
from service.settings import ServiceSettings, TriggerSettings, load_settings
from service.tables.assessment_rows import Assessment, State
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.triggering.triggers import load_triggers
from tests.service.running_service import ASSESSMENT, BASE, VERIFIER, write_settings

RUN = LookaheadConfig(
    learning_rate=1e-4, run_steps=20, prompts_per_step=4, steps=2, repeats=2, clip_range=0.3
)
MODEL = "models:/chains-sft/1"
SAMPLING = {
    **{"num_samples": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    **{"max_new_tokens": 8, "seed": 0, "chat_template": "auto"},
}
BODY_BEFORE = (
    '{"group_size": null, "model": "models:/chains-sft/1", "policy": "default", '
    '"prompt_set": "heldout", "sampling": {"chat_template": null, "max_new_tokens": null, '
    '"num_samples": null, "seed": null, "temperature": null, "top_k": null, "top_p": null}, '
    '"verifier": "chains"}'
)
"""What was hashed of such a request when none could name a run."""


def settings_of(folder: Path, **more: Any) -> ServiceSettings:
    runs = {"grpo": RUN.model_dump(mode="json")}
    given = {"lookaheads": runs, "model_roots": [str(BASE.parent)], **more}
    return load_settings(write_settings(folder, "sqlite:///x.db", **given))


def table(settings: ServiceSettings) -> AssessmentTable:
    return AssessmentTable(open_database(settings.database))


def browser(settings: ServiceSettings, jobs: AssessmentTable) -> FlaskClient:
    return create_app(settings, Dependencies(jobs=jobs)).test_client()


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt_set": "heldout", "verifier": "chains", **more}


def test_the_operator_names_runs_as_yaml_writes_their_numbers(tmp_path: Path) -> None:
    path = write_settings(tmp_path, "sqlite:///x.db")
    with path.open("a") as stream:  # YAML takes 1e-6 for a text
        stream.write("lookaheads: {grpo: {learning_rate: 1e-6, run_steps: 400}}\n")

    found = load_settings(path).lookahead("grpo")

    assert found == LookaheadConfig(learning_rate=1e-6, run_steps=400)
    assert load_settings(path).lookahead(None) is None


@pytest.mark.parametrize(
    ("run", "field"),
    [
        ({"run_steps": 400}, r"lookaheads\.grpo\.learning_rate"),
        ({"learning_rate": 0.0, "run_steps": 400}, r"lookaheads\.grpo\.learning_rate"),
        ({"learning_rate": 1e-6, "run_steps": 4}, r"lookaheads\.grpo\.steps"),
        ({"learning_rate": 1e-6, "run_steps": 400, "beta": 0.1}, r"lookaheads\.grpo\.beta"),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_the_start(
    tmp_path: Path, run: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        settings_of(tmp_path, lookaheads={"grpo": run})


def test_a_request_names_a_run_of_the_operators_and_is_shown_with_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    jobs = table(settings)
    client = browser(settings, jobs)

    taken = client.post("/v1/assessments", json=body(lookahead="grpo"))
    refused = client.post("/v1/assessments", json=body(lookahead="mine"))

    assert (taken.status_code, taken.json["lookahead"]) == (202, "grpo")
    row = jobs.find(taken.json["id"])
    assert row is not None
    assert row.request["lookahead"] == "grpo"
    assert refused.status_code == 422
    fault = {"pointer": "/lookahead", "code": "unknown_name", "message": "known: ['grpo']"}
    assert refused.get_json(force=True)["errors"] == [fault]


def test_a_request_without_a_run_is_stored_and_known_as_before_there_were_any(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path)
    jobs = table(settings)
    client = browser(settings, jobs)
    headers = {"Idempotency-Key": "k"}

    first = client.post("/v1/assessments", json=body(), headers=headers)
    none = client.post("/v1/assessments", json=body(lookahead=None), headers=headers)
    other = client.post("/v1/assessments", json=body(lookahead="grpo"), headers=headers)

    row = jobs.find(first.json["id"])
    assert row is not None
    assert row.request == {**body(), "policy": "default", "sampling": SAMPLING, "group_size": 2}
    assert row.body_digest == hashlib.sha256(BODY_BEFORE.encode()).hexdigest()
    assert (first.json["lookahead"], none.json["id"]) == (None, row.id)
    assert other.status_code == 409


def test_a_trigger_asks_for_its_run_and_one_without_asks_as_before(tmp_path: Path) -> None:
    named = {"models": ("*",), "prompt_set": "heldout", "verifier": "chains"}
    triggers = {
        "plain": TriggerSettings(**named),
        "ahead": TriggerSettings(**named, lookahead="grpo"),
    }
    settings = settings_of(tmp_path).model_copy(update={"triggers": triggers})

    plain, ahead = load_triggers(settings)

    assert "lookahead" not in plain.request
    assert ahead.request == {**plain.request, "lookahead": "grpo"}


class Watched(AssessmentTable):
    """Notes the stages, and kills the sampling process in the updates, so many times."""

    def __init__(self, settings: ServiceSettings, num_kills: int = 0) -> None:
        super().__init__(open_database(settings.database))
        self.folder, self.num_kills = settings.data_dir, num_kills
        self.stages: list[str] = []
        self.left: list[Any] = []
        """Seconds left as they are told while updates are tried."""

    def update(self, assessment_id: str, fence: int, **values: Any) -> bool:
        self.stages += [values["stage"]] if "stage" in values else []
        if self.stages[-1:] == ["look ahead"] and (told := values.get("progress")):
            self.left.append(told["eta_s"])
        if values.get("stage") == "look ahead" and self.num_kills:
            self.num_kills -= 1
            for pid in children(self.folder):
                os.kill(pid, signal.SIGKILL)
        return super().update(assessment_id, fence, **values)


def children(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode()
        except (OSError, ValueError):
            continue
        if "service.sampling.child" in line and folder in line:
            found.append(int(entry.name))
    return found


def submitted(settings: ServiceSettings, jobs: AssessmentTable) -> Assessment:
    asked = body(model=str(BASE), policy="default", sampling=SAMPLING, group_size=2)
    limits = {"max_open": 9, "max_open_per_owner": 9}
    job, _ = jobs.submit(
        {**asked, "lookahead": "grpo"}, owner="o", body_digest="d", key=None, **limits
    )
    return job


def scored(settings: ServiceSettings, jobs: AssessmentTable) -> Assessment:
    """The assessment after as many attempts as a worker makes."""
    job = submitted(settings, jobs)
    scorer = Scorer(jobs, settings, lambda: False)
    assert any(scorer.score(job.id) for _ in range(6)), "it never comes to its end"
    found = jobs.find(job.id)
    assert found is not None
    return found


def test_the_updates_of_a_child_that_was_killed_are_made_from_what_it_had_sampled(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path)
    jobs = Watched(settings, num_kills=1)
    prompts, config = tmp_path / "prompts.jsonl", AssessmentConfig(**ASSESSMENT)
    direct = assess(
        BASE, prompts, verifier=VERIFIER, config=config, lookahead=RUN, out_dir=tmp_path / "direct"
    )

    done = scored(settings, jobs)

    assert (done.state, done.error_detail) == (State.SUCCEEDED, None)
    report = RiskReport.from_json(jobs.report(done.id) or "")
    name = "rlrisk/lookahead_reach"
    assert report.metrics[name] == direct.metrics[name]
    assert report.provenance.digests == direct.provenance.digests
    assert report.provenance.digests["lookahead"] == RUN.digest()
    first = jobs.stages.index("look ahead")
    assert jobs.stages[: first + 1].count("load") == 1
    assert jobs.stages[first + 1 :].count("look ahead") == 1
    assert "load" not in jobs.stages[first + 1 :]  # a sampler was not even started
    assert done.progress is not None
    assert done.progress["num_samples_done"] == 32
    assert jobs.left
    assert set(jobs.left) == {None}  # nobody knows, and it is not nothing


def test_a_child_that_dies_in_the_updates_every_time_fails_the_assessment(tmp_path: Path) -> None:
    # What it finds stored is told as graded each time, and must not pass for progress.
    settings = settings_of(tmp_path, limits={"max_attempts": 2})
    jobs = Watched(settings, num_kills=99)

    done = scored(settings, jobs)

    assert (done.state, done.error_code) == (State.FAILED, "worker_lost")
    assert jobs.stages.count("look ahead") == 3  # the first one had sampled before


def test_a_run_that_is_no_longer_configured_fails_the_assessment_and_says_so(
    tmp_path: Path,
) -> None:
    settings = settings_of(tmp_path, lookaheads={})

    done = scored(settings, table(settings))

    assert (done.state, done.error_code) == (State.FAILED, "invalid_config")
    assert "no RL run of this name" in str(done.error_detail)


@pytest.mark.parametrize(
    ("is_cancelled", "end"),
    [(True, (State.CANCELLED, None)), (False, (State.FAILED, "wall_limit"))],
)
def test_updates_that_take_long_end_when_they_are_cancelled_or_at_the_wall(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_cancelled: bool,
    end: tuple[State, str | None],
) -> None:
    endless = RUN.model_copy(update={"repeats": 10_000}).model_dump(mode="json")
    settings = settings_of(tmp_path, lookaheads={"grpo": endless})
    jobs = Watched(settings)
    job = submitted(settings, jobs)

    def later() -> float:
        """A clock that is past the wall once the updates run."""
        if jobs.left and is_cancelled:
            jobs.cancel(job.id)
        return time.monotonic() + (1e6 if jobs.left and not is_cancelled else 0.0)

    monkeypatch.setattr("service.sampling.process.time", SimpleNamespace(monotonic=later))

    assert Scorer(jobs, settings, lambda: False).score(job.id)

    done = jobs.find(job.id)
    assert done is not None
    assert jobs.left
    assert (done.state, done.error_code) == end
    assert not children(settings.data_dir)
