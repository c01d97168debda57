import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_rlrisk.assess import rescore
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.evaluator import RLRiskEvaluator, _assess, _call
from mlflow_rlrisk.evaluator_settings import Settings, known_keys
from mlflow_rlrisk.model_reference import ModelSource, resolve_reference
from tests.tiny_models import write_llama

pytestmark = [
    pytest.mark.mlflow,
    # MLflow's transformers flavor asks a hub for a model card and warns that there is none.
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]


@pytest.mark.parametrize(
    ("model_type", "config", "expected"),
    [
        ("rlrisk", {}, True),
        ("rlrisk", None, True),
        ("text", {"verifier": "exact", "num_samples": 4}, True),
        ("classifier", {}, False),
        ("classifier", None, False),
        ("text", {"verifier": "exact", "log_model_explainability": True}, False),
        ("text", {"model_uri": "models:/a/1"}, False),
    ],
)
def test_it_evaluates_only_what_is_meant_for_it(
    model_type: str, config: dict[str, Any] | None, expected: bool
) -> None:
    assert RLRiskEvaluator.can_evaluate(model_type=model_type, evaluator_config=config) is expected


def test_every_setting_of_the_library_is_a_key_and_reaches_it() -> None:
    given = Settings.parse(
        {
            "verifier": "exact",
            "num_samples": 32,
            "seed": 7,
            "group_size": 4,
            "policy": {"name": "x"},
        }
    )
    nested = Settings.parse({"verifier": "exact", "sampling": {"num_samples": 32, "seed": 7}})

    assert given.config.sampling == nested.config.sampling
    assert (given.config.sampling.num_samples, given.config.sampling.seed) == (32, 7)
    assert given.config.group_size == 4
    assert given.policy.name == "x"
    assert len(set(known_keys())) == len(known_keys())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("register", "no"),
        ("progress", "off"),
        ("mapping", "prompt=q"),
        ("sampling", "greedy"),
        ("max_new_tokens", True),
        ("success_threshold", True),
        ("max_new_tokens", np.True_),
        ("run_preflight", "no"),
        ("num_samples", 10**20),
        ("mapping", {"prompt": 5}),
        ("sampling", {1: 2}),
        ("policy", {1: 2}),
        ("out_dir", 5),
        ("out_dir", ""),
        ("out_dir", "  "),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value!r}: ")):
        Settings.parse({"verifier": "exact", name: value})


def test_a_policy_that_no_file_could_hold_is_refused_before_sampling() -> None:
    luck = {"components": {"luck": {"ok": 0, "bad": 1, "weight": 1}}}

    with pytest.raises(ConfigError, match="unknown component"):
        Settings.parse({"verifier": "exact", "policy": luck})


@pytest.mark.parametrize(
    ("run", "field"),
    [
        ({"learning_rate": 1e-6}, "run_steps=None: a value is needed"),
        ({"lr": 1e-6, "run_steps": 400}, "lr=1e-06: unknown setting"),
        ({"learning_rate": 1e-6, "run_steps": 400, "epochs": 1}, "epochs"),
        (1e-6, "lookahead"),
    ],
)
def test_a_run_that_is_none_is_refused_by_name(run: object, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Settings.parse({"verifier": "exact", "lookahead": run})


def test_the_call_in_the_report_has_the_settings_it_was_made_with() -> None:
    raw = {"verifier": any, "num_samples": 32, "group_size": 4, "policy": {"min_prompts": 5}}
    run = {"learning_rate": 1e-6, "run_steps": 400}
    settings = Settings.parse({**raw, "mapping": {"prompt": "q"}, "lookahead": run})

    call = _call(settings, ModelSource(reference="models:/coder-sft/3"))

    again = Settings.parse(ast.literal_eval(call.partition("evaluator_config=")[2][:-1]))
    assert again.model_uri == "models:/coder-sft/3"
    assert again.verifier == "builtins:any"
    assert (again.config, again.policy) == (settings.config, settings.policy)
    assert again.mapping == settings.mapping
    assert again.lookahead == settings.lookahead is not None


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    program = (
        "import sys, mlflow\nfrom mlflow.models.evaluation import list_evaluators\n"
        "assert 'rlrisk' in list_evaluators()\n"
        "assert 'mlflow_rlrisk.evaluator' in sys.modules\n"
        "heavy = {'torch', 'transformers', 'vllm'} & set(sys.modules)\n"
        "ours = [m for m in sys.modules if m.startswith('mlflow_rlrisk.')]\n"
        "print(sorted(heavy), sorted(ours))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    names = ("assess", "evaluator", "evaluator_settings")
    assert done.stdout.decode().strip() == f"[] {[f'mlflow_rlrisk.{name}' for name in names]}"


def test_sft_data_and_expert_data_enter_the_report(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(4)]
    experts = [{"prompt": row["prompt"], "completion": row["answer"]} for row in rows]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in experts[:1]))
    settings = Settings.parse(
        {
            "verifier": "numeric",
            "num_samples": 2,
            "group_size": 2,
            "max_new_tokens": 2,
            "num_resamples": 200,
            "verifier_workers": 1,
            "progress": False,
            "sft_data": str(tmp_path / "sft.jsonl"),
            "expert_data": experts,
        }
    )
    source = resolve_reference(str(write_llama(tmp_path / "model")))

    metrics = _assess(settings, source, rows, tmp_path / "out").report.metrics

    assert metrics["rlrisk/sft_rl_overlap"].value == 0.25
    assert metrics["rlrisk/heldout_nll"].value > 0.0
    assert "sft.jsonl" in _call(settings, source)
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("report.json"))
    again = rescore(folder).metrics  # neither the model nor the data are at hand
    for name in ("rlrisk/sft_rl_overlap", "rlrisk/heldout_nll", "rlrisk/expert_length_ratio"):
        assert again[name] == metrics[name]
