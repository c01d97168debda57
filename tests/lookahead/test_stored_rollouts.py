"""`rlrisk lookahead` on the rollouts of a real checkpoint, and what the level makes of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_rlrisk.assess import assess, rescore
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.assessment.rescored import open_rollouts
from mlflow_rlrisk.assessment.stored import stored_groups
from mlflow_rlrisk.assessment.wiring import run_assessment
from mlflow_rlrisk.commands.assessment import assess as assess_command
from mlflow_rlrisk.commands.assessment import rescore as rescore_command
from mlflow_rlrisk.commands.band import band
from mlflow_rlrisk.commands.lookahead import lookahead
from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, SamplingConfig
from mlflow_rlrisk.errors import ComparabilityError, ConfigError, InsufficientRolloutsError
from mlflow_rlrisk.evaluator import _assess
from mlflow_rlrisk.evaluator_settings import Settings
from mlflow_rlrisk.evidence import AssessmentContext, Evidence
from mlflow_rlrisk.lookahead.stored_rollouts import look_ahead_from, with_lookahead
from mlflow_rlrisk.model_reference import resolve_reference
from mlflow_rlrisk.report_record import RiskLevel, RiskReport
from mlflow_rlrisk.rollouts.evidence import EVIDENCE
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks.registry import log_checkpoint
from tests.prompt_statistics import prompts, report_of
from tests.tiny_models import close_prompts, write_llama

PROMPTS = [{"prompt": f"{a}{b}=", "answer": "e"} for a in range(8) for b in range(8)]
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=16, max_new_tokens=3),
    num_resamples=200,
    device="cpu",
    verifier_workers=1,
)
RUN = LookaheadConfig(learning_rate=1e-2, run_steps=40, prompts_per_step=16, steps=4, repeats=2)


def has_an_e(completions: list[str], **_: object) -> list[float]:
    """A reward that every prompt shares, so that what one teaches helps on the others."""
    return [float("e" in each) for each in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def assessed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assess_to(tmp_path_factory.mktemp("assessed") / "out", model)


def assess_to(folder: Path, model: Path, verifier: str = f"{__name__}:has_an_e") -> Path:
    assess(
        model,
        PROMPTS,
        verifier=verifier,
        config=CONFIG,
        out_dir=folder,
        run_preflight=False,
    )
    return folder


@pytest.fixture
def folder(assessed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(assessed, tmp_path / "out"))


def test_a_reward_that_all_prompts_share_is_learned_and_kept_in_the_folder(folder: Path) -> None:
    before = rescore(folder)

    found = look_ahead_from(folder, RUN, device="cpu")
    after = rescore(folder)

    assert found.num_prompts == len(PROMPTS)
    assert found.closed.low > 0.0
    assert found.pass_at_1[0] == pytest.approx(before.metrics["rlrisk/pass_at_1"].value)
    assert "rlrisk/lookahead_reach" not in before.metrics
    assert "rlrisk lookahead" in before.not_assessed["lookahead"]
    metric = after.metrics["rlrisk/lookahead_reach"]
    assert (metric.value, metric.ci_low) == (found.reach.value, found.reach.low)
    (component,) = [each for each in after.components if each.name == "lookahead"]
    assert component.x == found.reach.low
    assert component.weight == 0.0
    assert after.metrics["rlrisk/risk_index"] == before.metrics["rlrisk/risk_index"]
    assert RiskReport.from_json(after.to_json()) == after


def test_rescoring_tells_the_figure_of_the_first_updates_once_they_were_tried(
    folder: Path,
) -> None:
    before = CliRunner().invoke(rescore_command, [str(folder)]).output

    found = look_ahead_from(folder, RUN, device="cpu")
    after = CliRunner().invoke(rescore_command, [str(folder)]).output

    (line,) = [each for each in after.splitlines() if "lookahead reach" in each]
    assert line.split()[2] == f"{found.reach.value:.3f}"
    assert "risk level" in before
    assert "lookahead reach" not in before


def has_no_e(completions: list[str], **_: object) -> list[float]:
    return [float("e" not in each) for each in completions]


def test_updates_tried_on_other_rewards_or_groups_are_not_counted(
    folder: Path, model: Path
) -> None:
    # A report by one verifier was `low` by what another one had taught.
    look_ahead_from(folder, RUN, device="cpu")
    other = "tests.lookahead.test_stored_rollouts:has_no_e"

    reports = [
        rescore(folder, verifier=other, run_preflight=False),
        rescore(folder, group_size=16),
        rescore(folder, success_threshold=1.0),
        rescore(folder, verifier=f"{__name__}:has_an_e", run_preflight=False),
    ]
    assess_to(folder, model, other)
    reports.append(rescore(folder))
    assess_to(folder, model)
    reports.append(rescore(folder))

    counted = ["rlrisk/lookahead_reach" in each.metrics for each in reports]
    assert counted == [False, False, False, True, False, True]


def test_prompts_that_the_tokenizer_closes_teach_what_open_ones_do(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    closed = close_prompts(Path(shutil.copytree(model, tmp_path / "closed")))

    found, other = (
        look_ahead_from(each, RUN, device="cpu")
        for each in (assess_to(tmp_path / "closed-out", closed), folder)
    )

    assert found.reach.value == pytest.approx(other.reach.value, rel=1e-6)
    assert found.pass_at_1 == pytest.approx(other.pass_at_1)


def test_figures_do_not_depend_on_the_order_in_which_prompts_were_stored(
    folder: Path, tmp_path: Path
) -> None:
    inputs = AssessmentInputs.load(folder)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for shard in (*other.glob("rollouts/*.parquet"), *other.glob("grades/*.parquet")):
        shard.unlink()
    RolloutStore(other).append(list(stored_groups(folder, inputs, None))[::-1])
    bands = {name: tmp_path / f"{name.name}.jsonl" for name in (folder, other)}

    ids = [[each.prompt.id for each in stored_groups(name, inputs, None)] for name in bands]
    found = [look_ahead_from(name, RUN, device="cpu") for name in bands]
    for name, target in bands.items():
        CliRunner().invoke(
            band, [str(name), "--out", str(target)], standalone_mode=False, catch_exceptions=False
        )

    assert ids[0] == ids[1][::-1]
    assert [each.prompt.id for each in open_rollouts(other, None).groups] == ids[0]
    assert found[0] == found[1]
    texts = [target.read_text() for target in bands.values()]
    assert texts[0] == texts[1]
    chosen = [json.loads(line)["prompt"] for line in texts[0].splitlines()]
    every = [str(each["prompt"]) for each in PROMPTS]
    assert chosen == [each for each in every if each in chosen]
    controls = [target.with_suffix(".control.jsonl").read_text() for target in bands.values()]
    assert controls[0] == controls[1]


def test_the_command_prints_and_keeps_what_the_function_finds(folder: Path) -> None:
    found = look_ahead_from(folder, RUN, device="cpu")
    options = ["--learning-rate", "1e-2", "--run-steps", "40", "--prompts-per-step", "16"]
    command = [str(folder), *options, "--steps", "4", "--repeats", "2", "--device", "cpu"]

    plain = CliRunner().invoke(lookahead, command, standalone_mode=False)
    as_json = CliRunner().invoke(lookahead, [*command, "--json"], standalone_mode=False)

    assert plain.exception is None, plain.output
    assert f"{found.pass_at_1[0]:.3f} -> {found.pass_at_1[1]:.3f}" in plain.stdout
    assert json.loads(as_json.stdout) == json.loads(json.dumps(found.to_dict()))
    assert json.loads((folder / "lookahead.json").read_text()) == json.loads(as_json.stdout)
    assert "lookahead_reach" in json.loads((folder / EVIDENCE).read_text())


@pytest.mark.parametrize(
    ("low", "level"), [(0.26, RiskLevel.LOW), (0.24, RiskLevel.MEDIUM), (-3.0, RiskLevel.MEDIUM)]
)
def test_updates_that_may_have_changed_little_keep_a_checkpoint_from_low(
    low: float, level: RiskLevel
) -> None:
    solved = prompts([12 + place % 40 for place in range(200)], 64)
    reach = Evidence(value=low + 0.1, ci_low=low, ci_high=low + 0.3, source="said")

    judged = report_of(solved, context=AssessmentContext(lookahead_reach=reach))

    assert report_of(solved).risk_level is RiskLevel.LOW
    assert judged.risk_level is level
    assert judged.metrics["rlrisk/risk_index"] == report_of(solved).metrics["rlrisk/risk_index"]
    said = " ".join(judged.next_steps)
    is_resolved = low + 0.1 < 0.25
    assert ("its first updates hardly help" in said) == is_resolved
    assert ("on more prompts or rollouts" in said) == (
        level is RiskLevel.MEDIUM and not is_resolved
    )


def test_the_report_says_at_which_settings_of_the_run_the_updates_were_tried(
    folder: Path,
) -> None:
    found = look_ahead_from(folder, RUN, device="cpu")

    (part,) = [each for each in rescore(folder).components if each.name == "lookahead"]

    tried = f"{RUN.steps} of {RUN.run_steps} updates at learning rate {RUN.learning_rate:g}"
    assert tried in part.measure
    assert found.evidence().source in part.measure


def test_too_few_groups_are_refused_before_the_weights_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_not_be_called = "mlflow_rlrisk.lookahead.stored_rollouts.load_model"
    monkeypatch.setattr(may_not_be_called, None)

    with pytest.raises(InsufficientRolloutsError, match="need 1600 groups"):
        look_ahead_from(folder, RUN.model_copy(update={"prompts_per_step": 400}), device="cpu")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", seed=5)

    with pytest.raises(ComparabilityError, match="another checkpoint"):
        look_ahead_from(folder, RUN, str(other), device="cpu")
    with pytest.raises(InsufficientRolloutsError, match="need 1600 groups"):
        look_ahead_from(folder, RUN.model_copy(update={"prompts_per_step": 400}), device="cpu")
    with pytest.raises(ConfigError, match="learning_rate"):
        LookaheadConfig(learning_rate=0.0, run_steps=40)
    assert not (folder / EVIDENCE).exists()


def test_rewards_without_a_success_are_refused(model: Path, tmp_path: Path) -> None:
    folder = assess_to(tmp_path / "out", model, "tests.lookahead.test_stored_rollouts:length")

    with pytest.raises(ConfigError, match="success_threshold"):
        look_ahead_from(folder, replace_steps(1), device="cpu")


def length(completions: list[str], **_: object) -> list[float]:
    """Rewards of which none says what is right."""
    return [0.1 * len(each) for each in completions]


def replace_steps(steps: int) -> LookaheadConfig:
    """A run so short that few rollouts are enough."""
    return RUN.model_copy(update={"steps": steps, "prompts_per_step": 2})


def test_mlflow_evaluate_and_the_command_line_assess_and_look_ahead_at_once(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"learning_rate": 1e-2, "run_steps": 40, "prompts_per_step": 8}
    expected = look_ahead_from(folder, LookaheadConfig(**run), device="cpu")
    settings = Settings.parse(
        {
            "verifier": f"{__name__}:has_an_e",
            "num_samples": 16,
            "max_new_tokens": 3,
            "num_resamples": 200,
            "verifier_workers": 1,
            "device": "cpu",
            "progress": False,
            "lookahead": run,
        }
    )
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    monkeypatch.chdir(tmp_path)
    options = [
        "--prompts",
        "p.jsonl",
        "--verifier",
        f"{__name__}:has_an_e",
    ]
    sizes = ["--num-samples", "16", "--max-new-tokens", "3", "--num-resamples", "200"]
    rest = ["--no-preflight", "--out", "cli", "--device", "cpu", "--verifier-workers", "1"]
    told = ["--rl-learning-rate", "1e-2", "--rl-steps", "40", "--rl-prompts-per-step", "8"]

    evaluated = _assess(settings, resolve_reference(str(model)), PROMPTS, tmp_path / "evaluated")
    command = [str(model), *options, *sizes, *rest, *told]
    printed = CliRunner().invoke(assess_command, command, standalone_mode=False)

    assert printed.exception is None, printed.output
    name = "rlrisk/lookahead_reach"
    assert evaluated.report.metrics[name].value == expected.reach.value
    assert evaluated.context is not None
    assert evaluated.context.lookahead_reach == expected.evidence()
    for out in (tmp_path / "evaluated", tmp_path / "cli"):
        stored = RiskReport.from_json(next(out.rglob("report.json")).read_text())
        assert stored.metrics[name].value == pytest.approx(expected.reach.value)
        assert stored.provenance.command
    assert "lookahead_reach: at this pace in 40 updates" in printed.stdout
    assert json.loads(next((tmp_path / "cli").rglob("lookahead.json")).read_text())


def test_assess_in_python_looks_ahead_at_once_or_refuses_before_it_samples(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    run = RUN.model_copy(update={"prompts_per_step": 8})
    expected = look_ahead_from(folder, run, device="cpu")
    config = RiskReport.from_json((folder / "report.json").read_text()).config
    ask: dict[str, Any] = {
        "verifier": f"{__name__}:has_an_e",
        "config": config,
        "run_preflight": False,
        "lookahead": run,
    }

    report = assess(model, PROMPTS, out_dir=tmp_path / "out", **ask)
    again = assess(model, PROMPTS, out_dir=tmp_path / "out", **ask)

    assert report.metrics["rlrisk/lookahead_reach"].value == expected.reach.value
    assert report.provenance.digests["lookahead"] == run.digest()
    assert again.metrics == report.metrics
    with pytest.raises(ConfigError, match="out_dir"):
        assess(tmp_path / "nowhere", PROMPTS, **ask)
    for few in (
        {"lookahead": run.model_copy(update={"prompts_per_step": 17})},  # 32 x 2 groups, 68 needed
        {"config": config.model_copy(update={"budget": "auto"}), "lookahead": RUN},
    ):
        with pytest.raises(InsufficientRolloutsError, match="in each half of the prompts"):
            assess(tmp_path / "nowhere", PROMPTS, out_dir=tmp_path / "c", **ask | few)
    for name, value in (("top_p", 0.9), ("repetition_penalty", 1.1)):
        sampling = config.sampling.model_copy(update={name: value})
        cut = config.model_copy(update={"sampling": sampling})
        with pytest.raises(ComparabilityError, match=name):
            assess(tmp_path / "nowhere", PROMPTS, out_dir=tmp_path / "b", **ask | {"config": cut})


def test_half_a_run_or_a_model_without_files_is_a_misuse(model: Path, tmp_path: Path) -> None:
    base = [str(model), "--prompts", "p.jsonl", "--verifier", "exact"]
    whole = ["--rl-learning-rate", "1e-6", "--rl-steps", "400"]

    half = CliRunner().invoke(assess_command, [*base, "--rl-steps", "400"])
    served = CliRunner().invoke(assess_command, ["endpoint:x", *base[1:], *whole])
    (tmp_path / "run.yaml").write_text(
        "num_generations: 4\ntemperature: 1.0\nmax_completion_length: 9\n"
        "learning_rate: 0.01\nmax_steps: 40\n"
    )
    described = ["--rl-config", str(tmp_path / "run.yaml"), "--lookahead", "--backend", "replay"]
    replayed = CliRunner().invoke(assess_command, [*base, *described])

    assert half.exit_code == 2
    assert "--rl-steps, or --rl-config, are needed" in half.output
    for each in (served, replayed):
        assert each.exit_code == 2
        assert "trying the first updates needs the files" in each.output


@pytest.mark.mlflow
@pytest.mark.usefixtures("store")
def test_an_alias_that_moves_while_its_version_is_sampled_loses_no_assessment(
    model: Path, tmp_path: Path
) -> None:
    import mlflow

    log_checkpoint(model, "sft")
    log_checkpoint(write_llama(tmp_path / "other", seed=5), "sft")
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("sft", "candidate", "1")
    finished = run_assessment(
        "models:/sft@candidate",
        PROMPTS,
        verifier=f"{__name__}:has_an_e",
        config=CONFIG,
        out_dir=tmp_path / "out",
        run_preflight=False,
    )

    client.set_registered_model_alias("sft", "candidate", "2")
    judged, found = with_lookahead(finished, RUN)

    assert found is not None
    assert "rlrisk/lookahead_reach" in judged.report.metrics
    assert judged.report.provenance.version == "1"
