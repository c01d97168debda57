"""``rlrisk calibrate``: a record from a file or from MLflow, figures, exit codes."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlflow_rlrisk.calibration import CalibrationRecord, formula_digest, read_rows
from mlflow_rlrisk.cli import cli
from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.errors import ConfigError, HistoryError, SinkError
from mlflow_rlrisk.monitor.outcome import RunOutcome, recorded_outcomes, run_outcome
from mlflow_rlrisk.sinks.registered_outcomes import registered_outcomes
from tests.calibration.simulated import outcomes, write_jsonl
from tests.prompt_statistics import ladder_rung, report_of


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["calibrate", *arguments], standalone_mode=False)


GOOD = RunOutcome(
    quantity="success",
    start=0.4,
    peak=0.8,
    final=0.8,
    mean=0.6,
    step_of_peak=9,
    regression_from_peak=0.0,
    first_step=0,
    last_step=9,
    num_points=2,
    definition="training success",
)


LINE = (
    '{{"lineage": "a", "checkpoint": "{name}", '
    '"metrics": {{"rlrisk/group_signal_fraction": {signal}}}, "outcomes": '
    '[{{"final": {{"pass_at_1": {final}}}, "gain": {{"pass_at_1": {gain}}}, "failed": {failed}}}]}}'
)


def test_a_file_of_outcomes_gives_a_record_and_two_figures(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", outcomes(60, seed=1))
    out = tmp_path / "made" / "calibration.json"

    result = run("--data", str(data), "--out", str(out), "--json", "--devices", "4")

    answer = json.loads(result.stdout)
    record = CalibrationRecord.read(out)
    assert result.return_value == 0
    assert answer["digest"] == record.digest
    assert answer["schema_version"] == 1
    assert answer["formula"]["digest"] == formula_digest(DEFAULT_COMPONENTS)
    assert (answer["num_outcomes"], answer["model"]["kind"]) == (60, "isotonic")
    # The file holds figures, no index: that is computed, and is what failure follows here.
    wanted = sorted(row.index for row in outcomes(60, seed=1))
    assert sorted(row["risk_index"] for row in answer["rows"]) == pytest.approx(wanted)
    scores = answer["validation"]["predictors"]
    assert record.is_used
    assert scores["risk_index"]["brier"] == min(each["brier"] for each in scores.values())
    curve = answer["validation"]["decision_curve"]
    assert curve["unit"] == "device hours"
    assert curve["total_failed"] == pytest.approx(8.0 * answer["num_failed"])  # 2 h on 4 devices
    assert len(answer["figures"]) == 2
    for figure in answer["figures"]:
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")


def test_too_few_outcomes_exit_with_11_and_take_stale_figures_away(tmp_path: Path) -> None:
    rows = outcomes(60, seed=1)
    out = tmp_path / "calibration.json"
    run("--data", str(write_jsonl(tmp_path / "a.jsonl", rows)), "--out", str(out))
    assert out.with_name("calibration-reliability.svg").exists()

    few = run("--data", str(write_jsonl(tmp_path / "b.jsonl", rows[:7])), "--out", str(out))

    assert few.return_value == 11
    assert "nothing is calibrated below 8" in few.stdout
    assert not out.with_name("calibration-reliability.svg").exists()


def test_the_table_names_every_baseline(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", outcomes(24, seed=1), seconds=None)

    text = run("--data", str(data), "--out", str(tmp_path / "c.json")).stdout

    for name in ("risk_index", "pass_at_1", "pass_at_64", "token_entropy", "headroom", "constant"):
        assert f"\n{name} " in text
    assert "runs of failed runs saved" not in text
    assert " runs of failed runs before the first good run" in text


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"lineage": "a", "lineage": "b"}', "the key 'lineage' twice"),
        (LINE.format(name="", signal="0.5", final="0.5", gain="0.1", failed="false"), "checkpoint"),
        (LINE.format(name="b", signal="50", final="0.5", gain="0.1", failed="false"), "beyond"),
        (LINE.format(name="b", signal="0.5", final="50", gain="0.1", failed="false"), "final"),
        (LINE.format(name="b", signal="0.5", final="0.5", gain="0.9", failed="false"), "start"),
        (LINE.format(name="b", signal="0.5", final="0.5", gain="0.1", failed='"no"'), "failed"),
        ('{"lineage": "a", "checkpoint": "b", "metrics": {}}', "outcomes"),
        ('{"lineage": "a", "checkpoint": "b", "metrics": {"x": NaN}, "outcomes": []}', "metrics"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=rf"jsonl:1.*{word}"):
        read_rows(path, DEFAULT_COMPONENTS)


def test_a_checkpoint_that_stands_twice_is_refused_and_one_without_runs_is_told(
    tmp_path: Path,
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", outcomes(2))
    first, second = path.read_text().splitlines()
    bare = json.dumps({**json.loads(second), "outcomes": []})
    path.write_text(first + "\n" + bare + "\n", encoding="utf-8")

    rows, left_out = read_rows(path, DEFAULT_COMPONENTS)

    assert (len(rows), [each.reason for each in left_out]) == (1, ["no run is recorded"])
    path.write_text(first + "\n" + first + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="twice"):
        read_rows(path, DEFAULT_COMPONENTS)


def test_a_name_may_hold_what_separates_lines_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    line = LINE.format(name="b\u2028c", signal="0.5", final="0.5", gain="0.1", failed="false")
    path.write_text(line, encoding="utf-8")

    rows, _ = read_rows(path, DEFAULT_COMPONENTS)

    assert [row.checkpoint for row in rows] == ["b\u2028c"]


def test_models_and_a_file_together_are_misuse(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", outcomes(2))

    assert "not both" in str(run("models:/a", "--data", str(data)).exception)


def recorded(
    client: Any, folder: Path, name: str, alpha: float, beta: float, ran: RunOutcome
) -> None:
    """A version with a report and an outcome, as ``assess --register`` and ``outcome`` leave it."""
    import mlflow

    from mlflow_rlrisk.sinks.version_outcome import record_outcome

    report = report_of(ladder_rung(alpha, beta, 0.3), num_resamples=200)
    made = replace(report.provenance, finished_at="2026-01-01T00:00:00+00:00")
    with mlflow.start_run() as active:
        client.log_text(
            active.info.run_id, replace(report, provenance=made).to_json(), "rlrisk/report.json"
        )
    version = client.create_model_version(name, folder.as_uri(), run_id=active.info.run_id)
    uri = f"runs:/{active.info.run_id}/rlrisk/report.html"
    client.set_model_version_tag(name, version.version, "rlrisk.report_uri", uri)
    record_outcome(f"models:/{name}/{version.version}", ran, run=f"rl-{version.version}")


@pytest.mark.mlflow
def test_outcomes_recorded_in_mlflow_are_read_with_their_reports(
    store: str, tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    good = run_outcome([0, 9], [0.4, 0.8], quantity="success", collapsed=False)
    bad = run_outcome([0, 9], [0.4, 0.3], quantity="success", collapsed=False)
    other = run_outcome([0, 9], [0.4, 0.3], quantity="reward", collapsed=True)
    assert good
    assert bad
    assert other
    for name in ("a", "b", "c"):
        client.create_registered_model(name)
        for alpha, beta, ran in ((6.0, 8.0, good), (0.2, 0.3, bad), (3.0, 3.0, good)):
            recorded(client, tmp_path, name, alpha, beta, ran)
    recorded(client, tmp_path, "a", 6.0, 8.0, other)
    client.create_model_version("a", tmp_path.as_uri())  # no outcome: nothing to tell

    answer = json.loads(run("--json", "--out", str(tmp_path / "c.json")).stdout)
    strict = tmp_path / "strict.yaml"
    strict.write_text("components: {starvation: {ok: 0.9, bad: 0.1, weight: 0.9}}\n")
    elsewhere = run("--json", "--policy", str(strict), "--out", str(tmp_path / "d.json"))

    assert answer["num_outcomes"] == answer["num_preregistered"] == 9
    assert answer["outcome"]["quantity"] == "success"
    assert set(answer["lineages"]) == {"a", "b", "c"}
    assert answer["num_failed"] == 3
    assert [each["reason"] for each in answer["left_out"]] == [
        "its outcome is no success, which most outcomes are"
    ]
    index = report_of(ladder_rung(0.2, 0.3, 0.3), num_resamples=200).risk_index
    assert {row["risk_index"] for row in answer["rows"] if row["failed"]} == {index}
    assert elsewhere.return_value == 11
    assert "another formula" in json.loads(elsewhere.stdout)["left_out"][0]["reason"]


def test_the_index_of_a_report_can_be_had_from_its_figures_alone() -> None:
    from mlflow_rlrisk.calibration import index_of

    for rung in ((6.0, 8.0, 0.4), (1.2, 1.8, 0.2), (0.2, 0.15, 0.02), (0.1, 2.0, 0.02)):
        report = report_of(ladder_rung(*rung), num_resamples=200)
        values = {name: metric.value for name, metric in report.metrics.items()}

        assert index_of(values, PolicyConfig().components) == pytest.approx(report.risk_index)


@pytest.mark.mlflow
def test_a_tag_that_nobody_of_ours_wrote_is_told_and_never_read(store: str, tmp_path: Path) -> None:
    import mlflow

    from mlflow_rlrisk.sinks.version_outcome import record_outcome, recorded_finals

    client = mlflow.MlflowClient()
    client.create_registered_model("a")
    for _ in range(2):
        recorded(client, tmp_path, "a", 6.0, 8.0, GOOD)
    client.set_model_version_tag("a", "1", "rlrisk.outcome", '{"runs": null}')
    client.set_model_version_tag("a", "2", "rlrisk.report_uri", str(tmp_path / "secret"))

    answer = run("models:/a", "--json", "--out", str(tmp_path / "c.json"))

    assert answer.return_value == 11
    reasons = {each["checkpoint"]: each["reason"] for each in json.loads(answer.stdout)["left_out"]}
    assert "what rlrisk outcome writes is needed" in reasons["models:/a/1"]
    assert "runs:/<id>/... is needed" in reasons["models:/a/2"]
    assert recorded_finals(["models:/a/1", "models:/a/2"]) == {"models:/a/2": GOOD.final}
    with pytest.raises(SinkError, match=r"version 1 of a: .*; delete the tag"):
        record_outcome("models:/a/1", GOOD, run="again")


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "[]",
        "no JSON",
        "[" * 4000,
        '{"runs": 5}',
        '{"runs": ["x"]}',
        '{"runs": [{"run": "r", "quantity": "success", "final": 0.5}]}',
        *(
            json.dumps({"runs": [{"run": "r", **GOOD.to_dict(), **changes}]})
            for changes in (
                {"final": "abc"},
                {"final": float("nan")},
                {"gain": float("inf")},
                {"start": True},
                {"quantity": 7},
                {"run": None},
                {"collapsed": "no"},
            )
        ),
    ],
)
def test_what_is_no_record_of_outcomes_is_refused(tag: str) -> None:
    with pytest.raises(HistoryError, match="what rlrisk outcome writes is needed"):
        recorded_outcomes(tag)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--min-gain", "nan"), "no finite number"),
        (("--min-gain", "inf"), "not in the range -1.0<=x<=1.0"),
        (("--min-gain", "5"), "not in the range -1.0<=x<=1.0"),
        (("--devices", "nan"), "no finite number"),
    ],
)
def test_a_figure_that_is_not_finite_or_no_gain_is_misuse(
    options: tuple[str, str], said: str
) -> None:
    assert said in str(run("models:/a", *options).exception)


@pytest.mark.mlflow
def test_a_version_named_by_number_and_by_alias_is_one_outcome(store: str, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("a")
    for _ in range(2):
        recorded(client, tmp_path, "a", 6.0, 8.0, GOOD)
    client.set_registered_model_alias("a", "best", "1")

    rows, left_out, _ = registered_outcomes(
        ["models:/a@best", "models:/a"],
        DEFAULT_COMPONENTS,
        min_gain=None,
        lineage_tag=None,
    )

    assert [row.checkpoint for row in rows] == ["models:/a/1", "models:/a/2"]
    assert left_out == []


@pytest.mark.mlflow
def test_outcomes_outlive_the_weights_of_their_version(store: str, tmp_path: Path) -> None:
    import mlflow

    from mlflow_rlrisk.sinks.version_outcome import record_outcome, recorded_finals

    client = mlflow.MlflowClient()
    client.create_registered_model("a")
    weights = tmp_path / "weights"
    weights.mkdir()
    recorded(client, weights, "a", 6.0, 8.0, GOOD)
    weights.rmdir()  # large files go first

    record_outcome("models:/a/1", GOOD, run="another seed")

    assert recorded_finals(["models:/a/1"]) == {"models:/a/1": GOOD.final}
    rows, left_out, _ = registered_outcomes([], DEFAULT_COMPONENTS, min_gain=None, lineage_tag=None)
    assert ([row.checkpoint for row in rows], left_out) == (["models:/a/1"], [])


@pytest.mark.mlflow
@pytest.mark.parametrize("name", ["a@best", "100%", 'it\'s "odd"'])
def test_a_registered_model_with_an_odd_name_hides_no_outcome_of_others(
    store: str, tmp_path: Path, name: str
) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("a")
    recorded(client, tmp_path, "a", 6.0, 8.0, GOOD)
    client.set_registered_model_alias("a", "best", "1")
    client.create_registered_model(name)
    client.create_model_version(name, tmp_path.as_uri())

    rows, left_out, _ = registered_outcomes([], DEFAULT_COMPONENTS, min_gain=None, lineage_tag=None)

    assert [row.checkpoint for row in rows] == ["models:/a/1"]
    assert [each.checkpoint for each in left_out] == [f"models:/{name}"]
