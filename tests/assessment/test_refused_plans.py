"""What is refused before anything is sampled leaves no trace on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.assessment.observer import SilentObserver
from mlflow_rlrisk.assessment.wiring import run_assessment
from mlflow_rlrisk.errors import RLRiskError
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from tests.tiny_assessments import quick, sums, write_graders
from tests.tiny_models import write_llama

OVERLAP = AssessmentContext(
    sft_rl_overlap=Evidence(value=0.1, ci_low=0.0, ci_high=0.2, source="counted")
)


@pytest.fixture(scope="module")
def assess(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    home = tmp_path_factory.mktemp("plans")
    checkpoint, graders = write_llama(home / "checkpoint"), write_graders(home)

    def run(**given: Any) -> Any:
        names = ("out_dir", "out_root", "observer", "expert_data")
        rest = {name: given.pop(name) for name in names if name in given}
        prompts, grader = given.pop("prompts", sums(5)), given.pop("grader", "digit")
        return run_assessment(
            checkpoint,
            prompts,
            verifier=f"{graders}:{grader}",
            config=quick(**given),
            context=OVERLAP,
            **rest,
        )

    return run


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_samples": 3}, "num_samples=3"),
        ({"grader": "crash"}, "out of"),
        ({"chat_template": "always"}, "chat_template='always' and the tokenizer has no"),
        ({"max_new_tokens": 600, "expert_data": sums(3)}, "the model has 512"),
        ({"prompts": [{"prompt": "\u65e5\u672c", "answer": "1"}]}, "does not know parts"),
    ],
)
def test_a_plan_that_is_refused_leaves_no_folder(
    assess: Callable[..., Any], settings: dict[str, Any], word: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()

    for place in ({"out_root": tmp_path / "a" / "b"}, {"out_dir": tmp_path / "mine"}):
        with pytest.raises(RLRiskError, match=word):
            assess(**settings, **place)

    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


class StopsWhenPlanned(SilentObserver):
    def planned(self, plan: object) -> None:
        raise KeyboardInterrupt


class StopsWhenGraded(SilentObserver):
    def graded(self, statistics: object) -> None:
        raise KeyboardInterrupt


def test_a_run_stopped_at_its_plan_leaves_no_folder(
    assess: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        assess(out_dir=tmp_path / "out", observer=StopsWhenPlanned())

    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_while_sampling_keeps_what_it_has(
    assess: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        assess(out_dir=tmp_path / "out", observer=StopsWhenGraded())

    assert {"inputs.json", "manifest.json", "evidence.json"} <= {
        each.name for each in (tmp_path / "out").iterdir()
    }


def test_a_folder_of_other_inputs_keeps_nothing_of_what_was_refused(
    assess: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assess(out_dir=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    with pytest.raises(RLRiskError, match="other inputs"):
        assess(out_dir=out, seed=1, expert_data=sums(3))

    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_settings_by_which_a_folder_is_of_other_rollouts_are_named(
    assess: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assess(out_dir=out, max_new_tokens=5)
    named = r"; temperature=1\.0 there and 0\.9 here, max_new_tokens=5 there and 9 here$"

    with pytest.raises(RLRiskError, match=named):
        assess(out_dir=out, temperature=0.9, max_new_tokens=9)

    (out / "inputs.json").unlink()
    with pytest.raises(RLRiskError, match=r"choose another folder$"):
        assess(out_dir=out, temperature=0.9, max_new_tokens=9)
