"""The command's contract: exit codes, one JSON object on stdout, one line per expected error."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlflow_rlrisk
from mlflow_rlrisk.commands.option_values import parse_mapping, parse_pairs
from mlflow_rlrisk.errors import ConfigError

DEMO = Path(mlflow_rlrisk.__file__).parent / "demo"
BASE = str(DEMO / "base")
REWARD = "mlflow_rlrisk.demo.task:reward"
QUICK = ["--num-samples", "8", "--group-size", "4", "--max-new-tokens", "20"]


def rlrisk(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("rlrisk")), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240
    )


def one_object(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    lines = (DEMO / "data" / "rl.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("prompts") / "rl.jsonl"
    path.write_text("\n".join(lines[:60]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def assessed(
    tmp_path_factory: pytest.TempPathFactory, prompts: str
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real assessment of the shipped base, through the command."""
    folder = tmp_path_factory.mktemp("assessed")
    result = rlrisk(
        *["assess", BASE, "--prompts", prompts, "--verifier", REWARD, *QUICK],
        *["--out", "kept", "--json"],
        cwd=folder,
    )
    return folder, result


def test_assess_prints_one_json_object_with_metrics_level_reasons_and_next_steps(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, result = assessed

    report = one_object(result)

    assert report["risk_level"] in {"low", "medium", "high", "unknown"}
    assert report["reasons"]
    metric = report["metrics"]["rlrisk/pass_at_1"]
    assert metric.keys() >= {"value", "ci_low", "ci_high", "num_prompts"}
    assert metric["ci_low"] <= metric["value"] <= metric["ci_high"]
    assert metric["num_prompts"] == 60


def test_the_exit_code_is_the_decision(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, result = assessed
    codes = {"promote": 0, "block": 10, "inconclusive": 11}

    assert result.returncode == codes[one_object(result)["decision"]["outcome"]]


def test_what_was_understood_is_said_before_sampling(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    said = assessed[1].stderr

    for line in ("60 prompts from column 'prompt'", REWARD, "raw text", "at most 9,600 tokens"):
        assert line in said
    assert said.index("estimate") < said.index("sampling:")
    assert "gold answers" in said


def test_the_same_command_again_samples_nothing_and_says_the_same(
    assessed: tuple[Path, subprocess.CompletedProcess[str]], prompts: str
) -> None:
    folder, first = assessed

    again = rlrisk(
        *["assess", BASE, "--prompts", prompts, "--verifier", REWARD, *QUICK],
        *["--out", "kept", "--json"],
        cwd=folder,
    )

    assert ["nothing is started" in each.stderr for each in (first, again)] == [False, True]
    assert "sampling:" not in again.stderr  # a bar over nothing
    assert one_object(again)["metrics"] == one_object(first)["metrics"]


def test_rescore_judges_another_group_size_without_the_model(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, first = assessed

    rescored = one_object(rlrisk("rescore", "kept", "--group-size", "2", "--json", cwd=folder))

    before = one_object(first)["metrics"]
    after = rescored["metrics"]
    assert after["rlrisk/pass_at_1"] == before["rlrisk/pass_at_1"]
    signal = "rlrisk/group_signal_fraction"
    assert after[signal]["value"] < before[signal]["value"]  # two rollouts differ less often


def test_rescore_beyond_the_rollouts_is_inconclusive_and_has_no_signal(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = assessed

    result = rlrisk("rescore", "kept", "--group-size", "9", "--json", cwd=folder)

    report = one_object(result)
    assert result.returncode == 11
    assert report["risk_level"] == "unknown"
    assert "rlrisk/group_signal_fraction" not in report["metrics"]
    assert "needs 9 scored rollouts" in report["undefined"]["rlrisk/group_signal_fraction"]


def test_the_report_page_lies_beside_the_rollouts(
    assessed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    page = (assessed[0] / "kept" / "report.html").read_text(encoding="utf-8")

    assert page.startswith("<!doctype html>")
    assert "<script" not in page


def test_compare_reports_every_model_and_finds_no_disagreement_of_a_model_with_itself(
    tmp_path: Path, prompts: str
) -> None:
    twin = tmp_path / "twin"
    twin.symlink_to(BASE)
    command = ["compare", BASE, str(twin), "--prompts", prompts, "--verifier", REWARD, *QUICK]

    result = rlrisk(*command, "--json", cwd=tmp_path)

    comparison = one_object(result)
    assert result.returncode == 0
    assert sorted(entry["model"] for entry in comparison["entries"]) == sorted([BASE, str(twin)])
    first, second = (entry["metrics"] for entry in comparison["entries"])
    assert first == second
    assert comparison["disagreements"] == []
    assert comparison["inversions"] == []
    assert comparison["choice"]["start_from"] in (BASE, str(twin))
    assert "start RL" in (tmp_path / "rlrisk-out" / "lineage.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "rlrisk-out" / "lineage.json").read_text()) == comparison
    again, loaded = modules_of(*command, "--json", cwd=tmp_path)
    assert again == comparison
    assert not {"torch", "transformers", "mlflow", "pandas", "scipy.stats"} & loaded


def test_a_second_lineage_in_a_folder_leaves_the_first_one(tmp_path: Path, prompts: str) -> None:
    # Both are below rlrisk-out where no --out is given; the second was written over the first.
    out = tmp_path / "rlrisk-out"
    found = {}
    for other in ("twin", "sibling", "twin"):
        (tmp_path / other).unlink(missing_ok=True)
        (tmp_path / other).symlink_to(BASE)
        command = ["compare", BASE, other, "--prompts", prompts, "--verifier", REWARD, *QUICK]
        found[other] = one_object(rlrisk(*command, "--json", cwd=tmp_path))

    kept = [json.loads(each.read_text()) for each in out.glob("lineage.*.json")]
    pages = "".join(each.read_text(encoding="utf-8") for each in out.glob("lineage.*.html"))
    newest = json.loads((out / "lineage.json").read_text())

    assert sorted(kept, key=str) == sorted(found.values(), key=str)  # one of the same is replaced
    assert newest == found["twin"]
    assert "sibling" in pages


def modules_of(*arguments: str, cwd: Path) -> tuple[dict[str, Any], set[str]]:
    """What a command prints, and what it has imported by then."""
    code = (
        "import json, sys; from mlflow_rlrisk.cli import run\n"
        "try: run()\n"
        "finally: print(json.dumps(list(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=240)
    printed, modules = ran.stdout.splitlines()
    return json.loads(printed), set(json.loads(modules))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["assess", BASE], 2, "--prompts"),
        (["assess", BASE, "--prompts", "none.jsonl", "--verifier", "exact"], 1, "none.jsonl"),
        (["compare", BASE, "--prompts", "x", "--verifier", "exact"], 2, "at least two"),
        (["compare", BASE, f"{BASE}/.", "--prompts", "x", "--verifier", "exact"], 2, "two models"),
        (["rescore", "nowhere"], 2, "nowhere"),
        (["frobnicate"], 2, "frobnicate"),
        (["compare", BASE, "gone", "--prompts", "x", "--verifier", "exact"], 1, "no such folder"),
    ],
)
def test_misuse_and_failure_have_their_own_codes_and_no_traceback(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    result = rlrisk(*arguments, cwd=tmp_path)

    assert result.returncode == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "flags",
    [
        ["--group-size", "1"],
        ["--temperature", "0"],
        ["--temperature", "nan"],
        ["--top-p", "0"],
        ["--num-samples", "4"],  # fewer than the group of 8
        ["--max-new-tokens", "0"],
        ["--map", "prompt:question"],
    ],
)
def test_an_unusable_setting_is_misuse_and_named(
    flags: list[str], prompts: str, tmp_path: Path
) -> None:
    result = rlrisk(
        *["assess", BASE, "--prompts", prompts, "--verifier", REWARD, *flags, "--json"],
        cwd=tmp_path,
    )

    assert result.returncode == 2
    error = one_object(result)["error"]
    assert error["code"] == "invalid_config"
    assert error["message"].startswith(flags[0].removeprefix("--").replace("-", "_"))


def test_doctor_finds_a_healthy_machine_and_leaves_no_trace(tmp_path: Path) -> None:
    result = rlrisk("doctor", "--json", cwd=tmp_path)

    findings = {finding["name"]: finding for finding in one_object(result)["findings"]}
    assert result.returncode == 0
    assert findings["torch"]["status"] == "ok"
    assert findings["evaluator plugin"]["detail"] == "registered as 'rlrisk'"
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_the_command_that_mends_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    from mlflow_rlrisk import doctor

    known = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else known(name, *rest),
    )

    findings = doctor.examine()

    torch = next(finding for finding in findings if finding.name == "torch")
    assert torch.status == "missing"
    assert torch.mend == "pip install 'mlflow-rlrisk[hf]'"
    assert {"math_verify", "evaluate", "ray", "vllm", "dbos"} <= {each.name for each in findings}
    assert not doctor.is_healthy(findings)


def test_doctor_goes_on_where_torch_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: no such file')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    result = rlrisk("doctor", "--json", cwd=tmp_path)

    answer = one_object(result)
    gpu = next(finding for finding in answer["findings"] if finding["name"] == "gpu")
    assert (result.returncode, answer["ok"], gpu["status"]) == (1, False, "problem")
    assert "OSError: libcudart.so.13" in gpu["detail"]
    assert "MLflow store" in {finding["name"] for finding in answer["findings"]}


def test_a_database_that_is_away_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    from mlflow_rlrisk import cli

    def refuse(**_: Any) -> int:
        raise OperationalError("SELECT 1", None, Exception("refused"))

    monkeypatch.setattr(cli.cli, "main", refuse)
    with pytest.raises(SystemExit) as stopped:
        cli.run(["calibrate", "--json"])

    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert json.loads(said.out)["error"]["code"] == "system"
    assert said.err == "rlrisk: database: (builtins.Exception) refused\n"


def test_a_mapping_is_read_and_its_faults_are_named() -> None:
    assert parse_mapping("prompt=q, truth=a.b") == {"prompt": "q", "truth": "a.b"}
    assert parse_mapping("truth=") == {"truth": ""}
    assert parse_mapping(None) is None
    for text, need in (
        ("question", "expected prompt=COLUMN"),
        ("prompt=a,prompt=b", "stands twice"),
    ):
        with pytest.raises(ConfigError, match=need):
            parse_mapping(text)


def test_a_policy_file_that_goes_away_while_sampling_does_not_cost_the_verdict(
    tmp_path: Path, prompts: str
) -> None:
    (tmp_path / "policy.yaml").write_text("name: strict\n", encoding="utf-8")
    (tmp_path / "tidy.py").write_text(
        "from pathlib import Path\n"
        "def right(prompts, completions, **columns):\n"
        "    Path(__file__).with_name('policy.yaml').unlink(missing_ok=True)\n"
        "    return [1.0 for _ in completions]\n",
        encoding="utf-8",
    )

    result = rlrisk(
        *["assess", BASE, "--prompts", prompts, "--verifier", "tidy.py:right", *QUICK],
        *["--no-preflight", "--policy", "policy.yaml", "--json"],
        cwd=tmp_path,
    )

    assert not (tmp_path / "policy.yaml").exists()
    assert result.returncode == 10  # every group is all right: no signal
    assert one_object(result)["policy"]["name"] == "strict"


def test_backend_options_are_numbers_booleans_or_text() -> None:
    given = ("tensor_parallel_size=2", "enforce_eager=true", "url=http://h:1/v1?a=b", "name=[1]")

    assert parse_pairs("backend_option", given) == {
        "tensor_parallel_size": 2,
        "enforce_eager": True,
        "url": "http://h:1/v1?a=b",
        "name": "[1]",
    }
    for wrong, need in (("plain", "expected KEY=VALUE"), ("=1", "expected KEY=VALUE")):
        with pytest.raises(ConfigError, match=need):
            parse_pairs("backend_option", [wrong])
    with pytest.raises(ConfigError, match="stands twice"):
        parse_pairs("backend_option", ["a=1", "a=2"])
