"""What the operator configures: one YAML file, unknown keys are errors.

A caller names a prompt set, a verifier and a policy of this file; it never brings a path or code.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mlflow_rlrisk import (
    AssessmentConfig,
    ConfigError,
    LookaheadConfig,
    PolicyConfig,
    RLConfig,
    SamplingConfig,
    Settings,
    load_policy,
    read_rl_config,
)
from mlflow_rlrisk.verifiers.specs import spec_beside
from mlflow_rlrisk.yaml_settings import read_settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
PositiveInt = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._*?\[\]!-]{1,256}$")]
TagKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9 ._/-]{1,250}$")]
DEFAULT_POLICY = "default"


class PromptSetSettings(Settings):
    """A prompt set that callers may name."""

    path: str
    """File, folder or dataset, as ``rlrisk assess --prompts`` takes it."""
    mapping: dict[str, str] | None = None
    """Columns of ``prompt`` and ``truth`` where they are not recognised."""


class TriggerSettings(Settings):
    """Which versions are assessed by themselves, and how."""

    models: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    """Shell patterns of registered model names."""
    created: bool = True
    """Assess every new version."""
    aliases: tuple[str, ...] = ()
    """Assess a version that is given one of these aliases."""
    tags: dict[TagKey, str] = Field(default_factory=dict)
    """Assess a version that is given one of these tags; the value is a shell pattern."""
    prompt_set: Name
    verifier: Name
    policy: Name = DEFAULT_POLICY
    sampling: dict[str, Any] = Field(default_factory=dict)
    """As in the body of ``POST /v1/assessments``."""
    group_size: int | None = None
    rl_config: Name | None = None
    lookahead: Name | None = None


class Limits(Settings):
    """How much one caller, and all of them, may ask for."""

    max_open: PositiveInt = 64
    """Assessments that wait or run; more are answered 429."""
    max_open_per_token: PositiveInt = 8
    """The same for one token."""
    max_num_samples: PositiveInt = 256
    max_group_size: PositiveInt = 64
    max_new_tokens: PositiveInt = 32_768
    max_body_bytes: PositiveInt = 1 << 20
    wall_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    """An assessment that runs longer, or waits so long for MLflow or for room, is failed."""
    max_checkpoint_files: PositiveInt = 2000
    max_checkpoint_bytes: PositiveInt = 2 << 40
    """Of the files of a version that are fetched."""
    max_attempts: PositiveInt = 3
    """Deaths of a worker without any progress after which an assessment fails."""
    min_free_memory_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """An assessment waits until this much memory is free."""
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Below it the service is not ready, and assessments wait."""


class ServiceSettings(Settings):
    """A service."""

    database: str = "sqlite:///rlrisk-service.db"
    """SQLAlchemy address of jobs and tokens: a SQLite file, or PostgreSQL for many machines."""
    data_dir: str = "rlrisk-service"
    """Sampled shards and downloads; shared by workers that should go on with each other's jobs."""
    tracking_uri: str
    """The MLflow that reports are published to and models come from."""
    registry_uri: str | None = None
    experiment: str = "rlrisk"
    prompt_sets: dict[Name, PromptSetSettings]
    verifiers: dict[Name, str]
    """Name -> what ``rlrisk assess --verifier`` takes."""
    policies: dict[Name, str] = Field(default_factory=dict)
    """Name -> policy file; ``default`` exists without one."""
    lookaheads: dict[Name, LookaheadConfig] = Field(default_factory=dict)
    """Name -> the RL run whose first updates are tried on the rollouts."""
    rl_configs: dict[Name, str] = Field(default_factory=dict)
    """Name -> file of an RL run's settings, as ``rlrisk assess --rl-config`` takes it: what is
    sampled as that run does, and tried as its first updates, where a caller names it."""
    model_roots: tuple[str, ...] = ()
    """Folders that callers may name checkpoints of."""
    artifact_roots: tuple[str, ...] = ()
    """Folders, or prefixes such as ``s3://bucket/``, that a version's files may lie below."""
    assessment: dict[str, Any] = Field(default_factory=dict)
    """`AssessmentConfig` for every assessment, ``sampling`` included: defaults, device, backend."""
    limits: Limits = Limits()
    triggers: dict[Name, TriggerSettings] = Field(default_factory=dict)
    """Name -> what of the registry starts an assessment."""
    webhook_secret_file: str | None = None
    """One secret a line that MLflow may sign its webhooks with; the last is the one to register."""
    poll_interval_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds between two looks at the registry for what no webhook told."""
    worker_life_s: Annotated[float, Field(gt=0)] = 120.0
    """A worker silent for longer counts as dead; the others take over what it was running."""
    decision_max_age_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """How old the registry's word may be when a decision promotes; 0 asks it for every decision."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may be for, beside loopback's; empty allows all."""
    signer_socket: str | None = None
    """Where a signer of its own (``--role signer``) listens; what is published is signed then."""
    environment: tuple[str, ...] = ()
    """More environment variables that the sampling process may see."""
    sampling_network: Literal["none", "host"] = "none"
    """``host`` where sampling or the verifier needs one: an endpoint, a cluster, a judge model."""
    readable: tuple[str, ...] = ()
    """More files and folders that the sampling process may read, such as a verifier's modules."""
    writable: tuple[str, ...] = ()
    """More folders that it may write to."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _assessment_is_usable(self) -> Self:
        config = self.base_config()
        options = config.backend_options
        asks_network = "openai" in (config.backend, options.get("inner")) or "address" in options
        if asks_network and self.sampling_network == "none":
            need = f"backend {config.backend} reaches others over the network: host"
            raise ConfigError("sampling_network", self.sampling_network, need)
        return self

    def base_config(self) -> AssessmentConfig:
        """The assessment that a caller gets who asks for nothing in particular."""
        return AssessmentConfig(**self.assessment)

    def sampling_defaults(self) -> SamplingConfig:
        """The sampling part of `base_config`."""
        return self.base_config().sampling

    def policy(self, name: str) -> PolicyConfig:
        """The policy of that name.

        Raises:
            ConfigError: There is none.
        """
        if name in self.policies:
            return load_policy(self.policies[name])
        if name == DEFAULT_POLICY:
            return PolicyConfig()
        raise ConfigError("policy", name, "no policy of this name is configured")

    def rl_config(self, name: str) -> RLConfig:
        """The settings of the RL run of that name.

        Raises:
            ConfigError: There are none, or their file cannot be used.
        """
        if name not in self.rl_configs:
            raise ConfigError("rl_config", name, "no RL run of this name is configured")
        return read_rl_config(self.rl_configs[name])

    def lookahead(self, name: str | None) -> LookaheadConfig | None:
        """The RL run of that name, of `lookaheads` first; ``None`` where none is named.

        Raises:
            ConfigError: There is none of this name, or its settings lack a rate or a length.
        """
        if name is None:
            return None
        if name in self.lookaheads:
            return self.lookaheads[name]
        if name in self.rl_configs:
            return self.rl_config(name).lookahead_config()
        raise ConfigError("lookahead", name, "no RL run of this name is configured")

    @property
    def registry(self) -> str:
        """Address of the model registry."""
        return self.registry_uri or self.tracking_uri


def load_settings(path: str | Path) -> ServiceSettings:
    """Read a settings file; paths in it are relative to its folder.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or unusable.
    """
    file = Path(path)
    settings = ServiceSettings(**read_settings(file, "config"))
    root = file.resolve().parent
    settings = settings.model_copy(
        update={
            "data_dir": str(root / settings.data_dir),
            "database": _below(root, settings.database),
            "tracking_uri": _below(root, settings.tracking_uri),
            "registry_uri": _below(root, settings.registry),
            "prompt_sets": {
                name: each.model_copy(update={"path": str(root / each.path)})
                for name, each in settings.prompt_sets.items()
            },
            "verifiers": {name: spec_beside(root, v) for name, v in settings.verifiers.items()},
            "policies": {name: str(root / file) for name, file in settings.policies.items()},
            "rl_configs": {name: str(root / file) for name, file in settings.rl_configs.items()},
            "webhook_secret_file": settings.webhook_secret_file
            and str(root / settings.webhook_secret_file),
            "readable": tuple(str(root / each) for each in settings.readable),
            "writable": tuple(str(root / each) for each in settings.writable),
            "signer_socket": settings.signer_socket and str(root / settings.signer_socket),
            "model_roots": tuple(str(root / each) for each in settings.model_roots),
            "artifact_roots": tuple(
                each if "://" in each else str(root / each) for each in settings.artifact_roots
            ),
        }
    )
    for name in settings.policies:
        settings.policy(name)
    for name in settings.rl_configs:
        settings.rl_config(name)
    return settings


def _below(root: Path, address: str) -> str:
    """A relative SQLite file is beside the settings file, wherever the command is run."""
    prefix = "sqlite:///"
    if not address.startswith(prefix):
        return address
    return prefix + str(root / address.removeprefix(prefix))
