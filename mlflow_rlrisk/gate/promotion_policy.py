"""The policy file of the gate (``RLRISK_POLICY``): which places are protected, and by what.

It is not the risk policy (`PolicyConfig`), which draws the lines between risk levels; the gate's
file names the risk policy under which a version must have been assessed. The file, the key ring,
the risk policy and its calibration are read for every decision, so that a revoked key counts at
once, and parsed anew only when their bytes have changed.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlflow_rlrisk.attestation.envelope import canonical_json
from mlflow_rlrisk.attestation.keys import KeyRing
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.gate.names import alike, matches, readable
from mlflow_rlrisk.policy import CALIBRATION, policy_of
from mlflow_rlrisk.run_settings import checked_settings
from mlflow_rlrisk.yaml_settings import settings_in

POLICY_VARIABLE = "RLRISK_POLICY"
DEFAULT_REGISTRY = "mlflow"
LONGEST_S = 100 * 365 * 86400
"""A hundred years; what lasts longer is a slip of the hand, and no date can be reckoned with it."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_ALIAS = re.compile(r"[\w-]+")
"""What MLflow takes for an alias."""


def seconds_of(duration: str) -> int:
    """Read ``90s``, ``15m``, ``24h``, ``30d`` or ``2w``.

    Raises:
        ValueError: It is written otherwise, is not positive or is longer than a hundred years.
    """
    number, unit = duration[:-1], duration[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ValueError(f"{duration!r} is no duration such as 90s, 15m, 24h, 30d or 2w")
    seconds = int(number) * _UNITS[unit]
    if seconds > LONGEST_S:
        raise ValueError(f"{duration!r} is too long: a hundred years are the most")
    return seconds


def _checked_duration(duration: str) -> str:
    seconds_of(duration)
    return duration


_HALVES = re.compile("[\ud800-\udfff]")
"""Halves of a character: what YAML reads in a character that JSON escaped."""


def _refuse_halves(name: str) -> None:
    if _HALVES.search(name):
        raise ValueError("half of a character is in no name: write the character, not its escapes")


def _checked_alias(alias: str) -> str:
    _refuse_halves(alias)
    if len(alias.split()) != 1 or not _ALIAS.fullmatch(readable(alias)):
        raise ValueError(
            "no version can have such an alias: letters, digits, '_' and '-' are needed; patterns "
            "are for models and workspaces only"
        )
    return alias


def _checked_pattern(pattern: str) -> str:
    _refuse_halves(pattern)
    if not readable(pattern) or "/" in pattern or ":" in pattern:
        raise ValueError(
            "no name is empty or holds '/' or ':': a shell pattern of bare names is needed, such "
            "as coder-*"
        )
    return pattern


Duration = Annotated[str, AfterValidator(_checked_duration)]
Alias = Annotated[str, AfterValidator(_checked_alias)]
NamePattern = Annotated[str, AfterValidator(_checked_pattern)]


RunSettings = Annotated[dict[str, Any], AfterValidator(checked_settings)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MetricRequirement(_Section):
    """A bar for one metric, in the words of ``mlflow.models.MetricThreshold``.

    Its ``min_absolute_change`` and ``min_relative_change`` are left out on purpose: the holder of
    an alias may be gone, unproven or assessed on other prompts, may change while the decision is
    made, and whoever may delete an alias, which is everybody, could take the bar away.
    """

    threshold: float
    """The bar."""
    greater_is_better: bool
    """True: the value must be at least the threshold; false: at most."""


class PromotionRule(_Section):
    """What is protected and what a version must prove to get there."""

    name: str
    """Shown in every refusal."""
    models: list[NamePattern] = Field(default=["*"], min_length=1)
    """Shell patterns of registered model names: bare names, no ``models:/`` URIs."""
    workspaces: list[NamePattern] = Field(default=["*"], min_length=1)
    """Shell patterns of MLflow workspaces; ``default`` where workspaces are off."""
    aliases: list[Alias] = []
    """Protected aliases, each by its name: no patterns."""
    stages: list[Literal["Staging", "Production", "Archived"]] = []
    """Protected stages."""
    every_version: bool = False
    """True: the model itself is the protected place; a version must be proven to be created."""
    required_level: Literal["low", "medium"] = "low"
    """The riskiest level that is still promoted; ``unknown`` never is."""
    required_metrics: dict[str, MetricRequirement] = {}
    """Bars for attested metrics, by full name such as ``rlrisk/pass_at_8``."""
    required_settings: RunSettings = {}
    """Settings that it must have been assessed with, such as ``group_size`` and ``temperature``:
    those of the RL run. Others may be anything."""
    allowed_keys: list[str] | None = None
    """Ids of keys whose attestations count; null: every valid key of the ring."""
    allowed_prompts: list[str] | None = None
    """Digests of prompt sets that count; null: any."""
    allowed_verifiers: list[str] | None = None
    """Digests of verifiers that count; null: any."""
    allowed_judge_tiers: list[str] | None = None
    """Isolation of candidate code that counts: ``A``, ``B``, ``C``, ``unsafe``, and ``none`` for
    verifiers that run no code; null: any."""
    max_age: Duration = "30d"
    """How old an attestation may be."""
    mode: Literal["enforce", "audit"] = "enforce"
    """``audit`` lets everything pass and logs what would have been refused."""

    @model_validator(mode="after")
    def _protects_something(self) -> Self:
        if not (self.aliases or self.stages or self.every_version):
            raise ValueError("a rule needs aliases, stages or every_version")
        if "latest" in map(readable, self.aliases):
            raise ValueError("MLflow gives the alias 'latest' to the newest version by itself")
        return self

    def covers(self, model: str, workspace: str) -> bool:
        """Whether the rule speaks about this model."""
        in_models = any(matches(model, pattern) for pattern in self.models)
        return in_models and any(matches(workspace, pattern) for pattern in self.workspaces)

    def protects(self, target: "Target") -> bool:
        """Whether the rule protects this alias or stage, or every version."""
        if self.every_version:
            return True
        names = self.aliases if target.kind == "alias" else self.stages
        return any(alike(target.name, name) for name in names)


class OverrideSettings(_Section):
    """Who may let a version pass although the policy refuses it, and for how long."""

    keys: list[str] | None = None
    """Ids of keys that may; null: every valid key of the ring, empty: nobody."""
    required_signatures: Annotated[int, Field(ge=1, le=2)] = 1
    """2: two different keys must sign."""
    max_duration: Duration = "7d"
    """The longest an override may last."""
    min_reason_length: Annotated[int, Field(ge=1)] = 1
    """Characters that a reason must have at least."""


class PromotionPolicy(_Section):
    """The policy file."""

    version: Literal[1]
    registry: Annotated[str, Field(min_length=1)] = DEFAULT_REGISTRY
    """Name of this registry; an attestation for another one does not count."""
    key_ring: str
    """File with the public keys, relative to the policy file."""
    risk_policy: str | dict[str, Any] = {}
    """Settings, or a YAML file of them, under which versions must have been assessed."""
    rules: list[PromotionRule] = Field(min_length=1)
    override: OverrideSettings = OverrideSettings()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same name")
        return self

    def rules_for_model(self, model: str, workspace: str) -> list[PromotionRule]:
        """Every rule that speaks about this model."""
        return [rule for rule in self.rules if rule.covers(model, workspace)]

    def rules_for(self, model: str, workspace: str, target: "Target") -> list[PromotionRule]:
        """Every rule that protects this place; all of them must be satisfied."""
        return [r for r in self.rules_for_model(model, workspace) if r.protects(target)]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a version wants to go within its model: an alias, a stage, or just to exist."""

    kind: Literal["alias", "stage", "version"]
    name: str = ""

    @property
    def key(self) -> str:
        """How overrides and the log spell it."""
        return f"{self.kind}.{readable(self.name)}" if self.name else self.kind

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" if self.name else "being a version"


@dataclass(frozen=True, slots=True)
class Bar:
    """A policy with all it refers to: what a decision is made under."""

    policy: PromotionPolicy
    ring: KeyRing
    risk_policy_digest: str
    digest: str
    """SHA-256 over policy, key ring and risk policy: names what a decision was made under."""


class PolicySource:
    """Reads a policy file and what it refers to, and parses them when they have changed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._cached: tuple[dict[tuple[Path, str], bytes], Bar] | None = None

    def current(self) -> Bar:
        """The bar as it stands on disk now.

        Raises:
            ConfigError: A file cannot be read or used.
        """
        if self._cached is not None:
            known, bar = self._cached
            if all(_bytes(*place) == content for place, content in known.items()):
                return bar
        read: dict[tuple[Path, str], bytes] = {}

        def take(name: str | Path, what: str) -> bytes:
            place = (self.path.parent / name, what)
            read[place] = _bytes(*place)
            return read[place]

        policy = parse_policy(take(self.path.name, POLICY_VARIABLE), str(self.path))
        bar = _bar(policy, take(policy.key_ring, "key_ring"), self._risk_policy(policy, take))
        self._cached = (read, bar)
        return bar

    def _risk_policy(
        self, policy: PromotionPolicy, take: Callable[[str | Path, str], bytes]
    ) -> PolicyConfig:
        """The risk policy with the calibration it names; both files count as read."""
        settings, folder = policy.risk_policy, self.path.parent
        if isinstance(settings, str):
            folder = (folder / settings).parent
            settings = settings_in(take(settings, "risk_policy"), "risk_policy", settings)
        if isinstance(named := settings.get(CALIBRATION), str):
            take(folder.absolute() / named, CALIBRATION)
        return policy_of(settings, folder)


def bar_without_file(ring: Path, registry: str) -> Bar:
    """What a consumer demands where no policy is named: a good signature over level ``low``.

    Raises:
        ConfigError: There is no usable key ring either.
    """
    rule = PromotionRule(name="default", every_version=True)
    policy = PromotionPolicy(version=1, registry=registry, key_ring=str(ring), rules=[rule])
    return _bar(policy, _bytes(ring, "key_ring"), PolicyConfig())


def _bar(policy: PromotionPolicy, ring: bytes, risk: PolicyConfig) -> Bar:
    settings = canonical_json(policy.model_dump(mode="json")).encode()
    digest = hashlib.sha256(b"\n".join([settings, ring, risk.digest().encode()])).hexdigest()
    return Bar(policy, KeyRing.parse(ring), risk.digest(), digest)


def parse_policy(text: str | bytes, place: str = "file") -> PromotionPolicy:
    """Read the text of a policy file, which stands at ``place``.

    Raises:
        ConfigError: It is no YAML mapping, repeats a key, or a setting is unknown or unusable.
    """
    try:
        return PromotionPolicy.model_validate(settings_in(text, POLICY_VARIABLE, place))
    except ValidationError as error:
        faults = error.errors()  # a name that is not known explains one that is missing
        first = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
        where = ".".join(map(str, first["loc"])) or POLICY_VARIABLE
        value, need = first.get("input"), first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            value, need = None, "a value is needed"
        elif first["type"] == "extra_forbidden":
            need = "unknown setting; rlrisk policy schema prints those that are known"
        raise ConfigError(where, value, need) from error


def max_age_of(rule: PromotionRule) -> timedelta:
    """How old an attestation may be under a rule."""
    return timedelta(seconds=seconds_of(rule.max_age))


def _bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a null byte in its name
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(what, str(path), f"cannot be read: {why}") from error
