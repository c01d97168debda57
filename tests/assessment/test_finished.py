"""Asked for again, an assessment is answered from its folder, and only where nothing differs."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mlflow_rlrisk.assessment import finished as finished_assessment
from mlflow_rlrisk.assessment.finished import FINISHED, Finished, Request
from mlflow_rlrisk.assessment.observer import SilentObserver
from mlflow_rlrisk.assessment.wiring import Assessment, run_assessment
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.experts.examples import load_expert
from mlflow_rlrisk.prompts import load_prompts
from mlflow_rlrisk.verifiers import load_verifier
from mlflow_rlrisk.verifiers.loading import source_digest
from mlflow_rlrisk.verifiers.process import WorkerProcess
from mlflow_rlrisk.verifiers.specs import parse_spec
from tests.tiny_assessments import quick, sums, timeless, write_graders
from tests.tiny_models import write_llama

PROMPTS = sums(6)
EXPERTS = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(4)]


class Stages(SilentObserver):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.graded_ids: list[str] = []

    def stage(self, name: str) -> None:
        self.names.append(name)

    def graded(self, statistics: Any) -> None:
        self.graded_ids.append(statistics.prompt_id)

    def is_answered(self) -> bool:
        """Neither the verifier nor the model was started."""
        return not {"preflight", "load"} & set(self.names)


@dataclass(frozen=True)
class World:
    """A checkpoint, a reward file and an output folder that a test may spoil."""

    home: Path
    stages: Stages = field(default_factory=Stages)

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def spec(self) -> str:
        return f"{self.home / 'graders.py'}:digit"

    def assess(self, **given: Any) -> Assessment:
        given = {"prompts": PROMPTS, "config": quick(), "out_dir": self.out, **given}
        prompts, model = given.pop("prompts"), given.pop("model", self.home / "checkpoint")
        verifier = given.pop("verifier", self.spec)
        self.stages.names.clear()
        return run_assessment(model, prompts, verifier=verifier, observer=self.stages, **given)

    def request(self, **changes: Any) -> Request:
        asked = Request(
            model=str(self.home / "checkpoint"),
            checkpoint=open_checkpoint(self.home / "checkpoint"),
            prompts=load_prompts(PROMPTS),
            verifier=parse_spec(self.spec),
            config=quick(),
            policy=PolicyConfig(),
            expert=None,
            train=None,
            is_preflight_wanted=True,
        )
        return replace(asked, **changes)

    def recall(self, context: AssessmentContext | None = None, **changes: Any) -> Finished | None:
        return self.request(**changes).recall(context, self.out, None)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("pristine") / "home"
    home.mkdir()
    write_llama(home / "checkpoint")
    write_graders(home)
    world = World(home)
    world.assess()
    assert not world.stages.is_answered()
    return world


@pytest.fixture
def world(pristine: World) -> Iterator[World]:
    """The finished assessment, to be spoiled: paths are part of what is compared."""
    kept = pristine.home.with_name("kept")
    shutil.copytree(pristine.home, kept)
    yield World(pristine.home)
    shutil.rmtree(pristine.home)
    kept.rename(pristine.home)


def test_the_same_assessment_is_answered_without_model_verifier_or_rollouts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.out / FINISHED).unlink()
    usual = world.assess(command="first")
    assert not world.stages.is_answered()
    kept = json.loads((world.out / FINISHED).read_text(encoding="utf-8"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(WorkerProcess, "start", refuse)
    monkeypatch.setattr("mlflow_rlrisk.samplers.transformers.load_model", refuse)
    monkeypatch.setattr("mlflow_rlrisk.rollouts.shard_folder.read_shard", refuse)
    again = world.assess(command="second")

    assert world.stages.is_answered()
    assert timeless(again.report) == timeless(usual.report)
    assert again.statistics == usual.statistics
    assert (again.context, again.folder) == (usual.context, usual.folder)
    assert world.stages.graded_ids[-6:] == [each.prompt_id for each in usual.statistics]
    assert again.report.provenance.command == "second"
    assert again.report.provenance.finished_at >= usual.report.provenance.finished_at
    stored = json.loads((world.out / "report.json").read_text(encoding="utf-8"))
    assert stored == again.report.to_dict()
    assert kept == json.loads((world.out / FINISHED).read_text(encoding="utf-8"))


def test_the_usual_course_without_the_record_gives_what_the_record_says(world: World) -> None:
    told = world.recall()
    (world.out / FINISHED).unlink()

    usual = world.assess()

    assert told is not None
    assert timeless(told.report) == timeless(usual.report)
    assert told.statistics == usual.statistics


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        raw = (home / name).read_bytes()
        assert old in raw
        (home / name).write_bytes(raw.replace(old, new, 1))

    return change


def flip(pattern: str) -> Callable[[Path], None]:
    """One bit in the middle of the only file of this name; its size stays."""

    def change(home: Path) -> None:
        (path,) = home.glob(pattern)
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)

    return change


def drop_a_grade(home: Path) -> None:
    (shard,) = (home / "out" / "grades").glob("*.parquet")
    pq.write_table(pq.read_table(shard).slice(1), shard)


def add_a_shard(home: Path) -> None:
    (shard,) = (home / "out" / "rollouts").glob("*.parquet")
    shutil.copy(shard, shard.with_name("part-more.parquet"))


def remove(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        edit("graders.py", b"c.isdigit() for", b"c.isalpha() for"),
        flip("checkpoint/model.safetensors"),
        edit("checkpoint/tokenizer.json", b'"model"', b'"added": 1, "model"'),
        edit("checkpoint/config.json", b"{", b'{"chunk": 1, '),
        flip("out/rollouts/*.parquet"),
        flip("out/grades/*.parquet"),
        drop_a_grade,
        add_a_shard,
        edit("out/manifest.json", b'"identity"', b'"identitx"'),
        edit("out/grades/manifest.json", b'"identity"', b'"identitx"'),
        edit("out/inputs.json", b"200", b"201"),
        remove("out/prompts.jsonl"),
        remove(f"out/{FINISHED}"),
    ],
)
def test_whatever_file_differs_it_is_not_answered(
    world: World, spoil: Callable[[Path], None]
) -> None:
    assert world.recall() is not None

    spoil(world.home)

    assert world.recall() is None


@pytest.mark.parametrize(
    "place", [b'"risk_level": "', b'"value": 0.', b'"statistics": [["', b'"num_samples": ']
)
def test_an_answer_that_is_not_as_it_was_written_is_not_used(world: World, place: bytes) -> None:
    raw = bytearray((world.out / FINISHED).read_bytes())
    raw[raw.index(place) + len(place)] ^= 1
    (world.out / FINISHED).write_bytes(raw)

    assert world.recall() is None


def test_half_an_answer_is_not_used_and_the_next_assessment_mends_it(world: World) -> None:
    raw = (world.out / FINISHED).read_bytes()
    (world.out / FINISHED).write_bytes(raw[: len(raw) // 2])

    world.assess()

    assert not world.stages.is_answered()
    assert world.recall() is not None


OTHER_SETTINGS: dict[str, Any] = {
    **{"num_samples": 9, "temperature": 0.9, "top_p": 0.9, "top_k": 5, "max_new_tokens": 9},
    **{"seed": 1, "chat_template": "never", "group_size": 5, "success_threshold": 0.5},
    **{"min_p": 0.1, "stop": ("a",), "chat_template_kwargs": {"enable_thinking": False}},
    **{"repetition_penalty": 1.1},
    **{"num_resamples": 201, "confidence": 0.9, "budget": "auto", "backend": "transformers"},
    **{"backend_options": {"a": 1}, "device": "cpu", "dtype": "float32", "batch_size": 8},
    **{"verifier_timeout_s": 3.0, "verifier_workers": 2, "max_failed_share": 0.1},
    **{"allow_pickle": True, "num_examples": 3},
}


def test_every_setting_counts(pristine: World) -> None:
    names = (AssessmentConfig.model_fields | SamplingConfig.model_fields).keys() - {"sampling"}

    answered = [n for n in names if pristine.recall(config=quick(**{n: OTHER_SETTINGS[n]}))]

    assert answered == []


def test_policy_prompts_model_evidence_and_preflight_count(pristine: World) -> None:
    told = Evidence.exact(0.5, "said")
    request = pristine.request()
    assert request.checkpoint is not None
    others: list[dict[str, Any]] = [
        {"policy": PolicyConfig(low_below=0.26)},
        {"policy": PolicyConfig(name="mine")},
        {"prompts": load_prompts(sums(5))},
        {"prompts": load_prompts(PROMPTS[::-1])},
        {"model": str(pristine.home / "." / "checkpoint") + "/"},
        {"verifier": parse_spec(pristine.spec.replace("digit", "early_letter"))},
        {"is_preflight_wanted": False},
        {"expert": load_expert(EXPERTS)},
        {"context": AssessmentContext(sft_rl_overlap=told)},
        {"context": AssessmentContext()},
        {"checkpoint": replace(request.checkpoint, registered_name="m", version="1")},
        {"checkpoint": replace(request.checkpoint, template_digest="0")},
    ]

    answered = [each for each in others if pristine.recall(**each) is not None]

    assert answered == []


def test_evidence_that_was_put_beside_the_rollouts_counts(world: World) -> None:
    world.assess(context=AssessmentContext(sft_rl_overlap=Evidence.exact(0.5, "said")))
    assert world.recall() is not None  # the folder keeps it, so that it need not be given again

    (world.out / "evidence.json").write_text("{}", encoding="utf-8")

    assert world.recall() is None


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("own_code", lambda: "another"),
        ("library_versions", lambda: {"torch": "0"}),
        ("SCHEMA_VERSION", 0),
    ],
)
def test_another_release_measures_again(
    pristine: World, monkeypatch: pytest.MonkeyPatch, name: str, other: Any
) -> None:
    assert pristine.recall() is not None

    monkeypatch.setattr(finished_assessment, name, other)

    assert pristine.recall() is None


def test_a_verifier_that_was_edited_grades_the_stored_rollouts_anew(world: World) -> None:
    before = world.assess()
    assert world.stages.is_answered()
    edit("graders.py", b"c.isdigit() for", b"c.isalpha() for")(world.home)

    after = world.assess()

    assert not world.stages.is_answered()
    shutil.rmtree(world.out)
    fresh = world.assess()
    assert timeless(after.report) == timeless(fresh.report)
    assert after.report.metrics != before.report.metrics


def test_a_weight_that_was_changed_in_place_is_refused(world: World) -> None:
    path = world.home / "checkpoint" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 0x40  # of the last float32's fraction
    path.write_bytes(raw)

    with pytest.raises(RolloutStoreError, match="checkpoint: stored"):
        world.assess()


def test_expert_data_are_answered_from_their_kept_sums_alone(world: World) -> None:
    given = {"expert_data": EXPERTS}
    usual = world.assess(**given)

    again = world.assess(**given)

    assert world.stages.is_answered()
    assert timeless(again.report) == timeless(usual.report)
    assert again.expert is not None
    assert usual.expert is not None
    assert again.expert.identity == usual.expert.identity
    shutil.rmtree(world.out / "expert")
    world.assess(**given)
    assert not world.stages.is_answered()


def test_below_a_root_the_folder_of_the_same_settings_answers(world: World) -> None:
    given = {"out_dir": None, "out_root": world.home / "all"}
    found = [world.assess(config=quick(seed=seed), **given) for seed in (0, 1)]

    again = world.assess(config=quick(seed=1), **given)

    assert world.stages.is_answered()
    assert again.folder == found[1].folder != found[0].folder
    assert timeless(again.report) == timeless(found[1].report)


def test_what_files_do_not_settle_is_never_answered(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "shared.py").write_text("def grade(completion):\n    return 1.0\n")
    (tmp_path / "mine.py").write_text("from shared import grade\n")
    borrowed = f"{tmp_path / 'mine.py'}:grade"
    given: dict[str, Any] = {"out_dir": tmp_path / "out", "run_preflight": False}

    for _ in range(2):
        world.assess(verifier=borrowed, **given)
        assert not world.stages.is_answered()

    assert source_digest(parse_spec(borrowed)) != load_verifier(borrowed).digest
    for spec in ("code", "os.path:join", "gone.module:grade"):
        assert source_digest(parse_spec(spec)) is None
    given = {"model": world.out, "config": quick(backend="replay"), "out_dir": tmp_path / "replay"}
    for _ in range(2):
        world.assess(**given)
        assert not world.stages.is_answered()


@pytest.mark.parametrize(
    "spec", ["numeric", "exact:casefold", "math", "regex:a+", "mlflow_rlrisk.demo.task:reward"]
)
def test_the_digest_of_files_is_the_one_that_loading_gives(spec: str) -> None:
    assert source_digest(parse_spec(spec)) == load_verifier(spec).digest


def test_a_module_beside_the_caller_is_found_as_a_worker_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rewards_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported in the parent')\n")
    (package / "sums.py").write_text("def grade(completion):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    spec = "rewards_of_mine.sums:grade"

    by_files = source_digest(parse_spec(spec))

    (package / "__init__.py").write_text("")
    assert by_files == load_verifier(spec).digest
