"""What cannot be compared is refused before anything is sampled or written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_rlrisk.cli import run
from tests.tiny_assessments import QUICK_OPTIONS, sums
from tests.tiny_models import write_llama

REST = ["--prompts", "none.jsonl", "--verifier", "exact", "--out", "out", "--json"]
"""The prompts are missing: whoever reads them came too far."""
Refused = Callable[..., tuple[object, dict[str, str]]]
"""Gives the exit code and the error."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("siblings")
    write_llama(home / "first")
    write_llama(home / "other tokenizer", vocab_size=120)
    write_llama(home / "other template", template="{{ messages[0]['content'] }}")
    write_llama(home / "other dtype", dtype="bfloat16")
    for name in ("bare", "cut"):
        shutil.copytree(home / "first", home / name)
    (home / "bare" / "model.safetensors").unlink()
    whole = (home / "first" / "model.safetensors").read_bytes()
    (home / "cut" / "model.safetensors").write_bytes(whole[:5000])
    (home / "file").write_text("no folder")
    return home


@pytest.fixture
def refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs a command there, which is refused and leaves nothing behind."""
    monkeypatch.chdir(home)

    def command(*words: str, rest: list[str] = REST) -> tuple[object, dict[str, str]]:
        with pytest.raises(SystemExit) as stopped:
            run([*words, *rest])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert not Path("out").exists()
        error: dict[str, str] = json.loads(told.out)["error"]
        return stopped.value.code, error

    return command


@pytest.mark.parametrize(
    ("command", "models", "code", "said"),
    [
        ("compare", ["first", "bare"], "checkpoint_refused", "bare has no weights"),
        ("compare", ["first", "cut"], "checkpoint_refused", "cut: model.safetensors: 2896 bytes"),
        ("compare", ["first", "file"], "invalid_model", "model='file': no such folder"),
        ("compare", ["first", ""], "invalid_model", "model='': no such folder"),
        ("compare", ["first", "other tokenizer"], "not_comparable", "other tokenizer: "),
        ("compare", ["first", "other dtype"], "not_comparable", "other dtype: bfloat16; --dtype"),
        ("compare", ["first", "--base", "gone"], "invalid_model", "model='gone'"),
        ("drift", ["first", "bare"], "checkpoint_refused", "bare has no weights"),
        ("drift", ["first", "other tokenizer"], "not_comparable", "other tokenizer: "),
        ("drift", ["other dtype", "first"], "not_comparable", "dtype of the weights (other dtype"),
    ],
)
def test_a_model_that_does_not_fit_is_named_at_once_and_nothing_is_left_behind(
    refused: Refused, command: str, models: list[str], code: str, said: str
) -> None:
    exit_code, error = refused(command, *models)

    assert (exit_code, error["code"]) == (1, code)
    assert said in error["message"]


@pytest.mark.parametrize(
    ("prompt", "setting"),
    [
        ([{"role": "user", "content": "1+1="}], []),
        ("1+1=", ["--chat-template", "always"]),
        ("1+1=", ["--expert-data", "none.jsonl"]),
    ],
)
@pytest.mark.parametrize("command", ["compare", "drift"])
def test_other_chat_templates_are_refused_where_a_text_goes_through_them(
    refused: Refused, command: str, prompt: object, setting: list[str]
) -> None:
    Path("rl.jsonl").write_text(json.dumps({"prompt": prompt, "answer": "2"}))

    models = ["first", "other template", *setting, "--prompts", "rl.jsonl"]
    exit_code, error = refused(command, *models, rest=REST[2:])

    assert (exit_code, error["code"]) == (1, "not_comparable")
    assert "chat template (first: none" in error["message"]


@pytest.mark.parametrize("command", ["compare", "drift"])
def test_prompts_of_plain_text_compare_a_base_without_a_template_with_its_chat_model(
    home: Path,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(6)))
    given = ["--prompts", str(tmp_path / "rl.jsonl"), "--verifier", "exact", "--no-preflight"]
    out = tmp_path / "out"

    with pytest.raises(SystemExit) as stopped:
        run([command, "first", "other template", *given, *QUICK_OPTIONS, "--out", str(out)])

    assert stopped.value.code == 0, capsys.readouterr().err
    assert list(out.glob("*.html"))


@pytest.mark.parametrize("command", ["compare", "drift"])
def test_rounds_that_stop_each_model_for_itself_are_refused_at_once(
    refused: Refused, command: str
) -> None:
    exit_code, error = refused(command, "first", "cut", "--budget", "auto")

    assert exit_code == 2
    assert f"{command} needs the same prompts and samples of every model" in error["message"]


@pytest.mark.parametrize("setting", [["--dtype", "float32"], ["--backend", "vllm"]])
def test_weights_that_are_sampled_in_one_dtype_may_be_stored_in_two(
    refused: Refused, setting: list[str]
) -> None:
    _, error = refused("compare", "first", "other dtype", *setting)

    assert error["code"] != "not_comparable"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"first": 1e400}', "first has inf"),
        ('{"first": -1e400}', "first has -inf"),
        ('{"first": NaN}', "first has nan"),
        ('{"first": 1' + "0" * 400 + "}", "first has 1000"),
        ('{"first": 1' + "0" * 5000 + "}", "limit"),
        ('{"first": 0.5, "first": 0.25}', "a key stands twice"),
        ('{"first": true}', "first has True"),
        ('{"first": "0.5"}', "first has '0.5'"),
        ("[1]", "it is no object"),
        ("[" * 100000, "recursion"),
        ("{", "Expecting"),
    ],
)
def test_outcomes_that_are_no_finite_numbers_are_refused_before_anything_is_sampled(
    refused: Refused, text: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "outcomes.json").write_text(text)
    outcomes = ["--outcomes", str(tmp_path / "outcomes.json")]

    exit_code, error = refused("compare", "first", "cut", *outcomes)

    assert (exit_code, error["code"]) == (2, "invalid_config")
    assert "a JSON object of finite numbers by model reference is needed" in error["message"]
    assert why in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "second", [lambda home: "first", lambda home: "./first", lambda home: str(home / "first")]
)
def test_one_model_under_two_names_has_no_drift(
    refused: Refused, home: Path, second: Callable[[Path], str]
) -> None:
    exit_code, error = refused("drift", "first", second(home))

    assert exit_code == 2
    assert "are one model: drift needs two" in error["message"]
