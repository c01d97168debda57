"""The calibration record: JSON that says on what it rests, how it did, and whether it may be used.

It names itself by a hash over everything else in it. One that was changed by hand, or written by
a later release in another form, is refused as a whole.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_rlrisk.errors import ConfigError

SCHEMA_VERSION = 1
KIND = "rlrisk calibration"


class _Part(BaseModel):
    """What is read of a record; there is more in it, for people."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Formula(_Part):
    digest: str


class _Model(_Part):
    feature: Literal["risk_index", "lookahead_reach"] = "risk_index"
    curve: list[Annotated[list[float], Field(min_length=2, max_length=2)]]


class _Content(_Part):
    formula: _Formula
    model: _Model
    num_outcomes: Annotated[int, Field(ge=0)]
    lineages: dict[str, Any]
    used: bool
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A record as it stands in its file.

    Attributes:
        content: All of it but the digest; `calibrate` says what is in it.
    """

    content: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the content."""
        text = json.dumps(self.content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_used(self) -> bool:
        """Whether a policy that names it may use it."""
        return bool(self.content["used"])

    @property
    def reasons(self) -> list[str]:
        """Why it is used, or is not."""
        return list(self.content["reasons"])

    @property
    def formula(self) -> str:
        """Hash of the formula of the index that it calibrates."""
        return str(self.content["formula"]["digest"])

    @property
    def feature(self) -> str:
        """What it calibrates: ``risk_index``, also where none is named, or ``lookahead_reach``."""
        return str(self.content["model"].get("feature", "risk_index"))

    @property
    def curve(self) -> list[list[float]]:
        """Pairs of score and chance of failure, neither falling; empty without a model."""
        return [list(pair) for pair in self.content["model"]["curve"]]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, with its digest."""
        return {**self.content, "digest": self.digest}

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "CalibrationRecord":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: The file cannot be read, is no record of this release, or its digest does
                not fit its content.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError("calibration", str(path), f"cannot be read: {error}") from error
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise ConfigError("calibration", str(path), "is no record of rlrisk calibrate")
        if raw.get("schema_version") != SCHEMA_VERSION:
            version = raw.get("schema_version")
            raise ConfigError(
                "calibration", str(path), f"schema {version!r}: this release reads {SCHEMA_VERSION}"
            )
        digest = raw.pop("digest", None)
        record = cls(raw)
        try:
            is_unchanged = digest == record.digest
        except ValueError:  # NaN and infinity, which no record holds
            is_unchanged = False
        if not is_unchanged:
            raise ConfigError("calibration", str(path), "was changed: its digest does not fit")
        try:
            _Content.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError("calibration", str(path), f"{where}: {first['msg']}") from error
        return record
