"""``chat_template_kwargs``: prompts as the RL run renders them, or a refusal by name."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.assess import assess
from mlflow_rlrisk.assessment.rescored import rescore_mismatch
from mlflow_rlrisk.checkpoint import open_checkpoint
from mlflow_rlrisk.checkpoint.template_probe import refuse_hostile_template
from mlflow_rlrisk.commands.option_values import parse_pairs
from mlflow_rlrisk.comparison import check_comparable
from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
from mlflow_rlrisk.errors import (
    CheckpointError,
    ComparabilityError,
    ConfigError,
    RolloutStoreError,
)
from mlflow_rlrisk.evaluator_settings import Settings
from mlflow_rlrisk.records import Message, Prompt
from mlflow_rlrisk.report import RiskReport
from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel
from mlflow_rlrisk.samplers.openai import OpenAISampler
from mlflow_rlrisk.samplers.transformers import TransformersSampler
from tests.sinks.simulated import simulated_report
from tests.tiny_models import write_llama

CHAT = Prompt(id="p", content=(Message(role="user", content="1+1?"),))
OPENING = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
# As Qwen 3 does it: thinking unless it is said otherwise.
THINKING = OPENING + (
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)
# As DeepSeek V3.1 does it: the variable gets a value where none was given.
DEFAULTED = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}" + (
    OPENING + "{% if thinking %}<think>{% endif %}"
)
QUIET = {"enable_thinking": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("thinking"), template=THINKING)


def _config(**sampling: Any) -> AssessmentConfig:
    settings = {"num_samples": 8, "max_new_tokens": 8, **sampling}
    return AssessmentConfig(sampling=SamplingConfig(**settings), device="cpu")


def _texts(folder: Path, prompt: Prompt, **sampling: Any) -> list[str]:
    (group,) = TransformersSampler(folder, _config(**sampling)).sample([prompt])
    return [rollout.completion for rollout in group.rollouts]


def test_rollouts_start_from_what_the_template_makes_of_its_variables(folder: Path) -> None:
    thinking = Prompt(id="p", content="<user>1+1?\n<assistant>")
    quiet = Prompt(id="p", content="<user>1+1?\n<assistant><think></think>")

    assert _texts(folder, CHAT) == _texts(folder, thinking)
    found = _texts(folder, CHAT, chat_template_kwargs=QUIET)
    assert found == _texts(folder, quiet)
    assert found != _texts(folder, thinking)


def test_the_plan_says_which_variables_are_set(folder: Path) -> None:
    sampler = TransformersSampler(folder, _config(chat_template_kwargs=QUIET))

    assert ", enable_thinking=False" in sampler.template([CHAT])
    raw = sampler.template([Prompt(id="p", content="1+1?")])
    assert raw == "none: prompts are raw text, chat_template_kwargs change nothing"


def test_a_variable_that_the_template_does_not_read_is_refused_with_those_it_reads(
    folder: Path,
) -> None:
    with pytest.raises(CheckpointError, match="not read enable_thinkng; it reads enable_thinking"):
        TransformersSampler(folder, _config(chat_template_kwargs={"enable_thinkng": False}))


def test_variables_without_a_template_are_refused(tmp_path: Path) -> None:
    model = write_llama(tmp_path)

    with pytest.raises(CheckpointError, match="kwargs are given and the tokenizer has no chat"):
        TransformersSampler(model, _config(chat_template_kwargs=QUIET))


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        (THINKING, {"enable_thinking": True}),
        (DEFAULTED, {"thinking": True}),
        ("{% set effort = effort | default('low') %}{{ effort }}", {"effort": "high"}),
        ("{% macro say() %}{{ tone }}{% endmacro %}{{ say() }}", {"tone": "kind"}),
        ("{% generation %}{{ tone }}{% endgeneration %}{{ bos_token }}", {"bos_token": ""}),
    ],
)
def test_a_variable_is_known_however_the_template_reads_it(
    template: str, variables: dict[str, Any]
) -> None:
    refuse_hostile_template(template, variables)


def test_a_template_that_a_variable_makes_endless_is_stopped() -> None:
    endless = "{% if deep %}{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}"
    endless += "{% endfor %}{% endfor %}{% endif %}"
    refuse_hostile_template(endless)

    with pytest.raises(CheckpointError, match=r"more than a megabyte|does not end"):
        refuse_hostile_template(endless, {"deep": True})


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "not a name", ""])
def test_what_the_template_is_given_anyway_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigError, match="no variable of a template"):
        SamplingConfig(chat_template_kwargs={name: "x"})


def test_settings_without_variables_have_the_digest_that_stored_rollouts_carry() -> None:
    # Of the release before there were variables; other digests would orphan every folder.
    digest = "cd6d9c5cfd9ce4c9eb002be46a522d6a760d2e019726dfdf4d585d73447dda6b"

    assert SamplingConfig().digest() == digest
    assert SamplingConfig(chat_template_kwargs=QUIET).digest() != digest


def test_a_date_that_is_given_is_the_same_tomorrow(tmp_path: Path) -> None:
    # Llama 3.1's template asks for the day only where it is not told one.
    dated = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    )
    checkpoint = open_checkpoint(
        write_llama(tmp_path, template=dated + "{{ date_string }}" + THINKING)
    )
    given = SamplingConfig(chat_template_kwargs={"date_string": "26 Jul 2024"})

    assert LocalModel(checkpoint, SamplingConfig()).encoder.is_dated
    told = LocalModel(checkpoint, given)
    assert not told.encoder.is_dated
    assert told.tokenizer.decode(told.contents([CHAT])[0]).startswith("26 Jul 2024<user>")


def test_mismatch_renders_stored_prompts_as_they_were_sampled_from(
    folder: Path, tmp_path: Path
) -> None:
    prompts = [
        {"prompt": [{"role": "user", "content": f"{i}+{i}?"}], "answer": str(i)} for i in range(60)
    ]
    out = tmp_path / "out"
    report = assess(
        folder,
        prompts,
        verifier="exact",
        config=_config(chat_template_kwargs=QUIET),
        out_dir=out,
        run_preflight=False,
    )

    found = rescore_mismatch(out, str(folder), device="cpu", num_resamples=200)

    assert report.config.sampling.chat_template_kwargs == QUIET
    assert found.entropy_max_abs is not None
    assert found.entropy_max_abs < 1e-4
    other = assess(folder, prompts, verifier="exact", config=_config(), run_preflight=False)
    with pytest.raises(ComparabilityError, match=r"sampling\.chat_template_kwargs"):
        check_comparable([report, other])


def test_an_endpoint_gets_the_rendered_prompt_of_a_checkpoint_and_no_variables_without_one(
    folder: Path,
) -> None:
    given = SamplingConfig(chat_template_kwargs=QUIET)
    local = LocalModel(open_checkpoint(folder), given)
    config = AssessmentConfig(
        sampling=given, backend="openai", backend_options={"base_url": "http://127.0.0.1:9/v1"}
    )

    rendered = local.tokenizer.decode(local.contents([CHAT])[0])
    assert rendered == "<user>1+1?\n<assistant><think></think>"
    with pytest.raises(ConfigError, match="whose template is its server's; give the checkpoint"):
        OpenAISampler("endpoint:toy", config)


def test_evaluator_config_takes_them_flat_and_under_sampling() -> None:
    flat = Settings.parse({"verifier": "exact", "chat_template_kwargs": QUIET})
    nested = Settings.parse({"verifier": "exact", "sampling": {"chat_template_kwargs": QUIET}})

    assert flat.config == nested.config
    assert flat.config.sampling.chat_template_kwargs == QUIET


def test_a_boolean_as_python_writes_it_is_no_text_that_a_template_takes_for_true() -> None:
    given = ["a=False", "b=true", "c=False.", "d=0"]

    assert parse_pairs("x", given) == {"a": False, "b": True, "c": "False.", "d": 0}


def test_the_command_takes_them_as_pairs(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "mlflow_rlrisk", "assess", str(folder), "--json"]
    command += ["--prompts", "prompts.jsonl", "--verifier", "exact", "--num-samples", "8"]
    command += ["--max-new-tokens", "4", "--chat-template-kwargs", "enable_thinking=False"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "enable_thinking=False" in done.stderr
    (stored,) = tmp_path.glob("rlrisk-out/*/report.json")
    assert json.loads(stored.read_text())["config"]["sampling"]["chat_template_kwargs"] == QUIET


def test_a_folder_of_other_variables_is_refused_with_both_and_not_answered_from(
    folder: Path, tmp_path: Path
) -> None:
    prompts = [{"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}]

    def run(name: str, **sampling: Any) -> None:
        assess(
            folder,
            prompts,
            verifier="exact",
            config=_config(**sampling),
            out_dir=tmp_path / name,
            run_preflight=False,
        )

    run("plain")
    run("quiet", chat_template_kwargs=QUIET)

    with pytest.raises(RolloutStoreError, match=r"_kwargs=\{\} there and \{'enable_thinking': Fal"):
        run("plain", chat_template_kwargs=QUIET)
    with pytest.raises(RolloutStoreError, match=r"_kwargs=\{'enable_thinking': False\} there and"):
        run("quiet")
    # Python takes False for 0; `is false` in a template does not.
    with pytest.raises(RolloutStoreError, match=r"False\} there and \{'enable_thinking': 0\} here"):
        run("quiet", chat_template_kwargs={"enable_thinking": 0})


def test_reports_of_other_variables_are_not_compared_and_both_are_named() -> None:
    def report(given: dict[str, Any]) -> RiskReport:
        known = simulated_report()
        sampling = SamplingConfig(chat_template_kwargs=given)
        return replace(known, config=known.config.model_copy(update={"sampling": sampling}))

    for one, other, shown in [
        ({}, QUIET, r'\(\{\} vs \{"enable_thinking": false\}\)'),
        (QUIET, {"enable_thinking": 0}, r'false\} vs \{"enable_thinking": 0\}\)'),
    ]:
        with pytest.raises(ComparabilityError, match=shown):
            check_comparable([report(one), report(other)])


def test_settings_with_variables_are_equal_where_a_template_sees_no_difference() -> None:
    ordered = SamplingConfig(chat_template_kwargs={"a": 1, "b": 2})
    turned = SamplingConfig(chat_template_kwargs={"b": 2, "a": 1})

    assert len({ordered, turned, SamplingConfig(), SamplingConfig(seed=0)}) == 2
    assert SamplingConfig(chat_template_kwargs={"a": 1.0}) != SamplingConfig(
        chat_template_kwargs={"a": True}
    )


def test_variables_of_numpy_stay_what_they_are_and_others_are_refused_with_what_is_needed() -> None:
    given = {"a": np.bool_(False), "b": np.int64(3), "c": np.float64(0.5), "d": np.str_("x")}
    found = SamplingConfig(chat_template_kwargs=given).chat_template_kwargs

    assert [*map(repr, found.values())] == ["False", "3", "0.5", "'x'"]
    for value in (None, [1], float("nan"), np.float32("inf"), {}):
        with pytest.raises(ConfigError, match=r"kwargs\.x=.*: a text, a finite number, true or fa"):
            SamplingConfig(chat_template_kwargs={"x": value})


def test_variables_for_a_template_that_is_not_there_or_reads_none_are_refused(
    tmp_path: Path,
) -> None:
    named = write_llama(tmp_path / "named", template=THINKING)
    (named / "chat_template.jinja").unlink()
    settings = json.loads((named / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tool_use", "template": THINKING}]
    (named / "tokenizer_config.json").write_text(json.dumps(settings))

    for folder, why in [
        (named, "no default"),
        (write_llama(tmp_path / "plain", template=OPENING), "it reads none$"),
    ]:
        with pytest.raises(CheckpointError, match=why):
            LocalModel(open_checkpoint(folder), SamplingConfig(chat_template_kwargs=QUIET))
