"""What an assessment was made of, kept beside its rollouts, so that they can be judged again.

``inputs.json`` holds the settings, the verifier and the provenance, ``prompts.jsonl`` the prompts
with all their columns. Together with the stored rollouts they need neither model nor dataset.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow_rlrisk.budget_record import Look, SequentialBudget
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.content import text_digest
from mlflow_rlrisk.errors import RLRiskError, RolloutStoreError
from mlflow_rlrisk.prompts import PromptSet
from mlflow_rlrisk.records import Message, Prompt
from mlflow_rlrisk.report_record import Provenance
from mlflow_rlrisk.rollouts.evidence import graded_as
from mlflow_rlrisk.rollouts.shards import write_text_atomically

SCHEMA_VERSION = 1
INPUTS, PROMPTS = "inputs.json", "prompts.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessmentInputs:
    """All inputs but the rollouts.

    Attributes:
        config: Settings of the assessment.
        verifier: Spec of the verifier as it can be loaded again.
        prompts: The prompt set.
        provenance: Where the rollouts come from.
        budget: How a budget in rounds ended; ``None`` while it is not finished, and for a fixed
            one.
    """

    config: AssessmentConfig
    verifier: str
    prompts: PromptSet
    provenance: Provenance
    budget: SequentialBudget | None = None

    @property
    def graded_as(self) -> str:
        """What the first updates of an RL run, tried on these rollouts, depend on."""
        return graded_as(self.provenance.digests["verifier"], self.config)

    def prompt_places(self) -> dict[str, int]:
        """Place of each prompt in the set, by its id."""
        return {prompt.id: place for place, prompt in enumerate(self.prompts)}

    def save(self, folder: Path) -> None:
        """Write both files; each appears whole or not at all."""
        head = {
            "schema_version": SCHEMA_VERSION,
            "config": self.config.model_dump(mode="json"),
            "verifier": self.verifier,
            "provenance": asdict(self.provenance),
            "budget": None if self.budget is None else asdict(self.budget),
            "prompts": {
                "digest": self.prompts.digest,
                "schema": self.prompts.schema,
                "num_duplicates": self.prompts.num_duplicates,
            },
        }
        text = "".join(json.dumps(_prompt_to_json(prompt)) + "\n" for prompt in self.prompts)
        head["digest"] = _digest(head, text)
        write_text_atomically(folder / PROMPTS, text)
        write_text_atomically(folder / INPUTS, json.dumps(head, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "AssessmentInputs":
        """Read both files.

        Raises:
            RolloutStoreError: They are missing, damaged or of another schema version.
        """
        try:
            head = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
            if head["schema_version"] != SCHEMA_VERSION:
                raise RolloutStoreError(
                    f"{folder / INPUTS} has schema version {head['schema_version']}, "
                    f"{SCHEMA_VERSION} is needed"
                )
            text = (folder / PROMPTS).read_text(encoding="utf-8")
            if head.pop("digest") != _digest(head, text):
                raise ValueError(f"{INPUTS} and {PROMPTS} are not as they were written")
            return cls(
                config=AssessmentConfig(**head["config"]),
                verifier=head["verifier"],
                prompts=PromptSet(
                    prompts=tuple(
                        _prompt_from_json(json.loads(line)) for line in text.splitlines()
                    ),
                    **head["prompts"],
                ),
                provenance=Provenance(**head["provenance"]),
                budget=_budget_from_json(head.get("budget")),
            )
        except FileNotFoundError as error:
            raise RolloutStoreError(
                f"{folder} is not the folder of an assessment: {error.filename} is missing"
            ) from error
        except RolloutStoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError, RLRiskError) as error:
            raise RolloutStoreError(f"the inputs in {folder} are damaged: {error}") from error


def as_sampled(config: AssessmentConfig, rollouts: Path) -> AssessmentConfig:
    """The settings with the sampling of stored rollouts, where their folder says it.

    What is replayed was drawn as it was: a report that named other settings would be compared with
    what it cannot be compared with, and advise on limits that nobody set. A dump does not say.

    Raises:
        RolloutStoreError: The folder is damaged.
    """
    if not (rollouts / INPUTS).is_file():
        return config
    sampling = AssessmentInputs.load(rollouts).config.sampling
    return config.model_copy(update={"sampling": sampling})


def _budget_from_json(raw: dict[str, Any] | None) -> SequentialBudget | None:
    if raw is None:
        return None
    return SequentialBudget(**raw | {"looks": tuple(Look(**look) for look in raw["looks"])})


def _digest(head: dict[str, Any], prompts: str) -> str:
    """SHA-256 over both files: prompts that were cut off would be judged as if they were all."""
    return text_digest(json.dumps(head, sort_keys=True) + prompts)


def _prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "content": prompt.content if isinstance(prompt.content, str) else prompt.turns,
        "truth": prompt.truth,
        "columns": dict(prompt.columns),
    }


def _prompt_from_json(raw: dict[str, Any]) -> Prompt:
    content = raw["content"]
    if not isinstance(content, str):
        content = tuple(Message(**message) for message in content)
    return Prompt(id=raw["id"], content=content, truth=raw["truth"], columns=raw["columns"])
