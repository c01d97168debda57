"""Which versions start an assessment by themselves, and starting it once.

A trigger asks what a version *is* (new, holder of an alias, carrier of a tag), not what happened,
so that a webhook and the poller come to the same answer. What was started is known by version,
content and request; the same again is never started twice, by whom and however late it is found.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk import ConfigError
from service.problems import Problem
from service.registry.references import check_form
from service.schemas import AssessmentRequest, SamplingRequest
from service.settings import ServiceSettings, TriggerSettings
from service.submission import resolved
from service.tables.assessment_rows import Assessment
from service.tables.assessments import AssessmentTable
from service.tables.tokens import TRIGGERED
from service.triggering.webhooks import ALIAS_SET, CREATED, TAG_SET

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FOREVER_S = 1e10
"""A version is never assessed again because it was long ago."""
PROMPT_TAG = "mlflow.prompt.is_prompt"
_AS_ASKED = {"prompt_set", "verifier", "policy", "group_size", "rl_config", "lookahead"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One trigger of the settings, and the request that it makes but for the model."""

    name: str
    settings: TriggerSettings
    request: Mapping[str, Any]

    def names(self, model: str) -> bool:
        """Whether it speaks about this model."""
        return any(fnmatchcase(model, pattern) for pattern in self.settings.models)

    def may_want(self, event: str, data: Mapping[str, Any]) -> bool:
        """Whether an event can make a version fit; the version itself is looked at later."""
        if not self.names(str(data.get("name"))):
            return False
        if event == CREATED:
            return self.settings.created or bool(self.settings.tags)  # it may be made with tags
        if event == ALIAS_SET:
            return data.get("alias") in self.settings.aliases
        return event == TAG_SET and data.get("key") in self.settings.tags

    def cause(
        self, version: "ModelVersion", aliases: tuple[str, ...], *, is_new: bool
    ) -> str | None:
        """Why this version fits; ``None`` where it does not."""
        tags = version.tags or {}
        if not self.names(version.name) or tags.get(PROMPT_TAG) == "true":
            return None
        if is_new and self.settings.created:
            return "version created"
        for alias in self.settings.aliases:
            if alias in aliases:
                return f"alias {alias}"
        for key, pattern in self.settings.tags.items():
            if key in tags and fnmatchcase(tags[key], pattern):
                return f"tag {key}"
        return None


def load_triggers(settings: ServiceSettings) -> tuple[Trigger, ...]:
    """The triggers of the settings.

    Raises:
        ConfigError: One asks for what a caller could not ask for either.
    """
    found = []
    for name, each in settings.triggers.items():
        kept = each.model_dump(include=_AS_ASKED)
        try:
            sampling = SamplingRequest(**each.sampling)
            asked = AssessmentRequest(model="models:/any/1", sampling=sampling, **kept)
            request = resolved(settings, asked)
        except Problem as problem:
            first = problem.errors[0]
            raise ConfigError(f"triggers.{name}{first.pointer}", "", first.message) from problem
        except ValueError as error:
            raise ConfigError(f"triggers.{name}", kept, str(error)) from error
        found.append(Trigger(name=name, settings=each, request=request))
    return tuple(found)


def start(
    jobs: AssessmentTable,
    settings: ServiceSettings,
    trigger: Trigger,
    version: "ModelVersion",
    cause: str,
    delivery_id: str | None,
) -> tuple[Assessment, bool]:
    """Start the assessment of a version; returns it, and whether it was not there before.

    Args:
        jobs: Where it is accepted.
        settings: The service.
        trigger: Which one fits.
        version: As the registry has it.
        cause: Why it fits.
        delivery_id: MLflow's delivery that told of it; ``None`` where the poller found it.

    Raises:
        Problem: ``model-uri-refused``; the name is none that is taken.
        QueueFullError: Too many are open: come again.
    """
    reference = f"models:/{version.name}/{version.version}"
    check_form(reference, settings)
    asked = {**trigger.request, "model": reference}
    # A version that was deleted and made anew has the same name and number, and other content.
    content = [version.source, version.creation_timestamp]
    key = hashlib.sha256(json.dumps([asked, content], sort_keys=True).encode()).hexdigest()
    by = "poller" if delivery_id is None else "webhook"
    told = {"name": trigger.name, "cause": cause, "by": by, "delivery_id": delivery_id}
    return jobs.submit(
        {**asked, "trigger": told},
        owner=TRIGGERED,
        body_digest=key,
        key=key,
        max_open=settings.limits.max_open,
        max_open_per_owner=settings.limits.max_open_per_token,
        key_life_s=FOREVER_S,
    )
