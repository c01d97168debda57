"""``evaluator_config`` of the MLflow evaluator, read and checked.

MLflow imports the evaluator for everybody who evaluates anything, so that only the standard
library is imported above.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, PolicyConfig
    from mlflow_rlrisk.rl_config import RLConfig

OWN_KEYS = (
    "model_uri",
    "verifier",
    "policy",
    "mapping",
    "rl_config",
    "sft_data",
    "expert_data",
    "expert_train_data",
    "lookahead",
    "out_dir",
    "run_preflight",
    "register",
    "progress",
)
"""Keys of ``evaluator_config`` beside the settings of `AssessmentConfig` and `SamplingConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``evaluator_config``, checked.

    Attributes:
        model_uri: Reference of the checkpoint, where MLflow is not given one.
        verifier: What `load_verifier` takes.
        config: Settings of the assessment.
        policy: Where the lines are drawn.
        mapping: Columns of prompt and truth.
        sft_data: The SFT data, what `sft_prompts` takes: how many RL prompts stand there?
        expert_data: Held-out expert examples, what `load_expert` takes.
        expert_train_data: Examples that SFT was trained on, likewise.
        lookahead: The RL run, as `LookaheadConfig` has it: its first updates are tried.
        out_dir: Folder of the rollouts, from which an interrupted assessment resumes; ``None``
            keeps them in MLflow alone.
        run_preflight: Show the verifier its own gold answers before anything is sampled.
        register: Tag the model version; ``None`` does so where a version is known.
        progress: Print the plan and a progress bar to standard error.
    """

    model_uri: str | None
    verifier: Any
    config: "AssessmentConfig"
    policy: "PolicyConfig"
    mapping: Mapping[str, str] | None
    sft_data: Any
    expert_data: Any
    expert_train_data: Any
    lookahead: "LookaheadConfig | None"
    out_dir: Path | None
    run_preflight: bool
    register: bool | None
    progress: bool

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Settings":
        """Read ``evaluator_config``; settings of the sampling stand flat or under ``sampling``.

        Raises:
            ConfigError: A key is unknown, a value unusable, or there is no verifier.
        """
        from mlflow_rlrisk.rl_config import read_rl_config

        _check(raw)
        run = None if raw.get("rl_config") is None else read_rl_config(raw["rl_config"])
        return cls(
            model_uri=None if raw.get("model_uri") is None else str(raw["model_uri"]),
            verifier=raw["verifier"],
            config=_config(raw, run),
            policy=_policy(raw.get("policy")),
            mapping=raw.get("mapping"),
            sft_data=raw.get("sft_data"),
            expert_data=raw.get("expert_data"),
            expert_train_data=raw.get("expert_train_data"),
            lookahead=_lookahead(raw.get("lookahead"), run),
            out_dir=None if raw.get("out_dir") is None else Path(raw["out_dir"]),
            run_preflight=raw.get("run_preflight") is not False,
            register=raw.get("register"),
            progress=bool(raw.get("progress", True)),
        )


def known_keys() -> tuple[str, ...]:
    """Every key that ``evaluator_config`` may have."""
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig

    return (*OWN_KEYS, *AssessmentConfig.model_fields, *SamplingConfig.model_fields)


def _check(raw: Mapping[str, Any]) -> None:
    """Refuse keys that are unknown and values of another type; pydantic does so for settings."""
    from mlflow_rlrisk.config import SamplingConfig
    from mlflow_rlrisk.errors import ConfigError

    for key in raw:
        if key not in known_keys():
            raise ConfigError(str(key), raw[key], f"unknown; known: {', '.join(known_keys())}")
    if raw.get("verifier") is None:
        raise ConfigError("verifier", None, "needed: a name, path/to/file.py:function, callable")
    for name in ("run_preflight", "register", "progress"):
        if not isinstance(raw.get(name), bool | None):
            raise ConfigError(name, raw[name], "True or False is needed")
    for name, kinds in {
        "mapping": Mapping | None,
        "sampling": Mapping | SamplingConfig | None,
    }.items():
        if not isinstance(raw.get(name), kinds):
            raise ConfigError(name, raw[name], "a mapping is needed")
    for name in ("mapping", "sampling", "policy", "lookahead"):
        if isinstance(raw.get(name), Mapping) and not all(isinstance(k, str) for k in raw[name]):
            raise ConfigError(name, raw[name], "names are needed as keys")
    if not all(isinstance(column, str) for column in (raw.get("mapping") or {}).values()):
        raise ConfigError("mapping", raw["mapping"], "names of columns are needed")
    folder = raw.get("out_dir")
    if not isinstance(folder, str | Path | None) or not str(folder).strip():
        raise ConfigError("out_dir", folder, "the path of a folder is needed")


def _config(raw: Mapping[str, Any], run: "RLConfig | None") -> "AssessmentConfig":
    """Settings of the assessment; those of the sampling stand in either place, or in the run's."""
    from mlflow_rlrisk.config import AssessmentConfig, SamplingConfig
    from mlflow_rlrisk.errors import ConfigError

    flat = {key: raw[key] for key in raw if key in SamplingConfig.model_fields}
    nested = raw.get("sampling") or {}
    if isinstance(nested, SamplingConfig):
        nested = nested.model_dump(exclude_unset=True)
    if twice := sorted(flat.keys() & nested.keys()):
        raise ConfigError(twice[0], raw[twice[0]], "stands flat and under sampling; once only")
    rest = {k: raw[k] for k in raw if k in AssessmentConfig.model_fields and k != "sampling"}
    if run is not None:
        return run.assessment_config(**flat, **nested, **rest)
    return AssessmentConfig(sampling=SamplingConfig(**flat, **nested), **rest)


def _policy(given: Any) -> "PolicyConfig":
    from mlflow_rlrisk.config import PolicyConfig
    from mlflow_rlrisk.errors import ConfigError
    from mlflow_rlrisk.policy import load_policy

    if given is None:
        return PolicyConfig()
    if isinstance(given, PolicyConfig):
        return given
    if isinstance(given, Mapping):
        return PolicyConfig(**given)
    if isinstance(given, str | Path):
        return load_policy(given)
    raise ConfigError("policy", given, "a path or a mapping is needed")


def _lookahead(given: Any, run: "RLConfig | None") -> "LookaheadConfig | None":
    from mlflow_rlrisk.config import LookaheadConfig
    from mlflow_rlrisk.errors import ConfigError

    if given is None or given is False or isinstance(given, LookaheadConfig):
        return given or None
    if given is True and run is not None:
        return run.lookahead_config()
    if isinstance(given, Mapping):
        return LookaheadConfig(**given) if run is None else run.lookahead_config(**given)
    need = "a mapping is needed: learning_rate, run_steps, ...; or True beside rl_config"
    raise ConfigError("lookahead", given, need)
