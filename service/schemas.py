"""What goes in and out over HTTP; the OpenAPI document is made from these models.

An input names things that the operator configured. There is no field for a path or for code.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from mlflow_rlrisk import SamplingConfig
from service.tables.assessment_rows import Assessment, State
from service.tables.overrides import OverrideRow

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Reference = Annotated[str, Field(min_length=1, max_length=1024)]
NO_NULL = r"^[^\x00]*$"
"""PostgreSQL keeps no text with U+0000."""
BARE_NAME = r"^[^\x00/:]*$"
"""MLflow takes neither ``/`` nor ``:`` in a name."""

TemplateVariables = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")],
        Annotated[str, Field(max_length=1024, pattern=NO_NULL)] | bool | int | float,
    ],
    Field(max_length=16),
]
"""Variables of the chat template by name."""


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256, pattern=NO_NULL)]],
    Field(max_length=16),
]
"""Texts that end a completion."""


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SamplingRequest(_Input):
    """How rollouts are drawn; what is absent is as the operator configured."""

    num_samples: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: StopStrings | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    chat_template: Literal["auto", "always", "never"] | None = None
    chat_template_kwargs: TemplateVariables | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Idempotency keys live longer than a release that did not know these."""
        values: dict[str, Any] = dump(self)
        for name in ("chat_template_kwargs", "min_p", "repetition_penalty", "stop"):
            if getattr(self, name) is None:
                values.pop(name, None)
        return values

    def onto(self, defaults: SamplingConfig) -> SamplingConfig:
        """The defaults with what was asked for."""
        return SamplingConfig(**(defaults.model_dump() | self.model_dump(exclude_none=True)))


class AssessmentRequest(_Input):
    """Ask for an assessment."""

    model: Reference
    """``models:/name/version``, ``models:/name@alias``, ``runs:/<id>/path`` or a listed folder."""
    prompt_set: Name
    verifier: Name
    policy: Name = "default"
    sampling: SamplingRequest = SamplingRequest()
    group_size: Annotated[int, Field(ge=2)] | None = None
    rl_config: Name | None = None
    """The RL run as which rollouts are drawn; ``sampling`` and ``group_size`` count more."""
    lookahead: Name | None = None
    """The RL run whose first updates are tried on the rollouts; absent, none are."""


class Progress(BaseModel):
    """How far an assessment is; a value that is not known yet is absent."""

    num_prompts: int | None = None
    num_prompts_done: int = 0
    num_samples_done: int = 0
    num_samples: int | None = None
    tokens_per_s: float | None = None
    pass_at_1: float | None = None
    """Mean over the prompts graded so far."""
    eta_s: float | None = None
    """Until everything is sampled; absent while updates are tried."""


class AssessmentError(BaseModel):
    """Why an assessment failed."""

    code: str
    detail: str


class TriggerView(BaseModel):
    """What started an assessment that nobody asked for."""

    name: str
    """The trigger, as the operator named it."""
    cause: str
    """What fits it: ``version created``, ``alias <name>`` or ``tag <key>``."""
    by: Literal["webhook", "poller"]
    delivery_id: str | None = None
    """Id of MLflow's delivery; absent where the poller found it."""


class AssessmentView(BaseModel):
    """An assessment as it is."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stage: str
    model: str
    pinned: str | None
    """``models:/name/version`` that an alias led to; absent until it is resolved."""
    prompt_set: str
    verifier: str
    policy: str
    rl_config: str | None = None
    """The RL run as which rollouts are drawn, where one was asked for."""
    lookahead: str | None = None
    """The RL run whose first updates are tried, where one was asked for."""
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: Progress | None
    risk_level: Literal["low", "medium", "high", "unknown"] | None
    outcome: Literal["promote", "block", "inconclusive"] | None
    error: AssessmentError | None
    run_id: str | None
    report_uri: str | None
    published_at: str | None
    publish_error: str | None
    trigger: TriggerView | None = None

    @classmethod
    def of(cls, row: Assessment) -> Self:
        """The view of a row."""
        name, version = row.model_name, row.model_version
        error = None
        if row.error_code is not None:
            error = AssessmentError(code=row.error_code, detail=row.error_detail or "")
        kept = ("id", "stage", "risk_level", "outcome", "report_uri", "publish_error")
        return cls.model_validate(
            {each: getattr(row, each) for each in kept}
            | {each: row.request[each] for each in ("model", "prompt_set", "verifier", "policy")}
            | {each: moment(getattr(row, each)) for each in _MOMENTS}
            | {
                "state": str(row.state),
                "pinned": f"models:/{name}/{version}" if name and version else None,
                "rl_config": row.request.get("rl_config"),
                "lookahead": row.request.get("lookahead"),
                "progress": None if row.progress is None else Progress(**row.progress),
                "trigger": row.request.get("trigger"),
                "run_id": None if row.published_at is None else row.run_id,
                "error": error,
            }
        )


_MOMENTS = ("created_at", "started_at", "finished_at", "published_at")


class _Page(BaseModel):
    next_before: float | None
    """Pass it as ``before`` for the following ones; absent at the end."""
    next_before_id: str | None
    """Pass it as ``before_id`` with it: several may have come at the same time."""


class PageQuery(BaseModel):
    """Which part of a list, the newest first."""

    model_config = ConfigDict(extra="forbid")

    before: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    """``next_before`` of the page before."""
    before_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{0,36}$")] = ""
    """Its ``next_before_id``."""
    limit: Annotated[int, Field(ge=1, le=200)] = 100

    def following(self, rows: Sequence[Assessment] | Sequence[OverrideRow]) -> dict[str, Any]:
        """What asks for the rows after these."""
        last = rows[-1] if len(rows) == self.limit else None
        return {
            "next_before": None if last is None else last.number,
            "next_before_id": None if last is None else last.id,
        }


class AssessmentPage(_Page):
    """Some assessments, the newest first."""

    assessments: list[AssessmentView]


class ListQuery(PageQuery):
    """What to list."""

    model: Annotated[str, Field(min_length=1, max_length=256, pattern=BARE_NAME)] | None = None
    """Name of a registered model, not a reference to one."""
    state: State | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class ModelQuery(PageQuery):
    """Which part of a model's history."""

    limit: Annotated[int, Field(ge=1, le=200)] = 200


class ReportQuery(BaseModel):
    """In which form the report is wanted."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["json", "html"] | None = None
    """Absent: by the ``Accept`` header, JSON unless HTML is preferred."""


class DecisionRequest(_Input):
    """Ask whether a version may start RL under a policy."""

    model: Reference
    """``models:/name/version`` or ``models:/name@alias``."""
    policy: Name = "default"


class DecisionView(BaseModel):
    """The decision. ``block`` and ``inconclusive`` are answers: the status is 200."""

    model: str
    outcome: Literal["promote", "block", "inconclusive"]
    reasons: list[str]
    next_steps: list[str]
    policy: str
    policy_digest: str
    report_digest: str | None
    assessment_id: str | None
    risk_level: Literal["low", "medium", "high", "unknown"] | None


class ModelView(_Page):
    """What the service assessed of one registered model, the newest first."""

    name: str
    assessments: list[AssessmentView]


class MonitorRequest(_Input):
    """How a run is judged."""

    trainer: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    group_size: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    success_metric: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    write: bool = False
    """Write alarms and chart to the run."""


class JudgementView(BaseModel):
    """A judged run, as ``rlrisk monitor --json`` gives it."""

    model_config = ConfigDict(extra="allow")

    run_id: str


class OverrideRequest(_Input):
    """Ask to let a version take an alias or a stage that the gate's policy refuses it."""

    model: Reference
    """``models:/name/version``."""
    alias: Annotated[str, Field(min_length=1, max_length=255, pattern=NO_NULL)] | None = None
    stage: Literal["Staging", "Production", "Archived"] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=2000, pattern=NO_NULL)]
    """Kept in what is signed, and in the log."""
    expires: Annotated[str, Field(min_length=2, max_length=8)] = "24h"
    """From its signature: ``90m``, ``24h``, ``7d``."""


class OverrideView(BaseModel):
    """An override that was asked for; only a ``signed`` one lets anything pass."""

    id: str
    state: Literal["pending", "approved", "signed", "failed"]
    model: str
    target: str
    reason: str
    expires: str
    requested_by: str
    approved_by: str | None
    created_at: str
    expires_at: str | None
    key_ids: list[str]
    error: str | None

    @classmethod
    def of(cls, row: OverrideRow) -> Self:
        """The view of a row."""
        return cls(
            id=row.id,
            state=row.state.value,
            model=f"models:/{row.model}/{row.version}",
            target=f"{row.target_kind}.{row.target_name}",
            reason=row.reason,
            expires=row.expires,
            requested_by=row.requested_name,
            approved_by=row.approved_name,
            created_at=moment(row.created_at) or "",
            expires_at=row.expires_at,
            key_ids=(row.key_ids or "").split(),
            error=row.error,
        )


class OverridePage(_Page):
    """Some overrides, the newest first."""

    overrides: list[OverrideView]


class DeliveryView(BaseModel):
    """What became of a webhook: ``ignored`` where no trigger is about it."""

    delivery_id: str
    status: Literal["accepted", "ignored"]


class Health(BaseModel):
    """Whether the service is up, and what is not."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str] = {}


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 with offset."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
