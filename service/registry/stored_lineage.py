"""The part of a stored ``lineage.json`` that a page shows."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_rlrisk.errors import ReportError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StoredChoice(_Part):
    """Which version to start from, and why not the best pass@1."""

    start_from: str | None
    best_pass_at_1: str | None
    is_advised: bool
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]


class StoredPhase(_Part):
    """Where in the series a version stands."""

    name: str
    phase: str
    confidence: Annotated[float, Field(ge=0, le=1)]


class StoredPhases(_Part):
    """Phases of the series; no labels where they are not told."""

    labels: tuple[StoredPhase, ...]
    undefined: str | None
    recommended: tuple[str, str] | None
    caution: str


class StoredCopy(_Part):
    """A version that is another one with its logits multiplied."""

    name: str
    original: str


class StoredLineage(_Part):
    """What a lineage run found: the paired comparison that reports alone cannot give."""

    names: tuple[str, ...]
    num_prompts: int
    choice: StoredChoice
    phases: StoredPhases
    notes: tuple[str, ...]
    rescaled: tuple[StoredCopy, ...] = ()


def parse_lineage(text: str) -> StoredLineage:
    """Read the JSON of a lineage report.

    Raises:
        ReportError: It is none.
    """
    try:
        return StoredLineage.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "lineage"
        raise ReportError(f"the stored lineage cannot be read: {where}: {first['msg']}") from error
