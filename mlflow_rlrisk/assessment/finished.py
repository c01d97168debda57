"""A finished assessment that is asked for again: answered from its folder where nothing differs.

``finished.json`` holds the report, what was counted of each prompt and everything both depend on.
Whether that is still so is seen in files alone, by their content: neither the model nor the
verifier is started, no rollout is read. Whatever differs, the assessment takes its usual course,
which says what cannot be used, grades anew or samples what is missing.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mlflow_rlrisk.assessment.expert_scoring import kept_profile, with_profile
from mlflow_rlrisk.assessment.inputs import INPUTS, PROMPTS
from mlflow_rlrisk.assessment.observer import Plan
from mlflow_rlrisk.assessment.provenance import folders_of, library_versions
from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig
from mlflow_rlrisk.content import file_entry, json_digest, own_code, text_digest
from mlflow_rlrisk.errors import RLRiskError
from mlflow_rlrisk.evidence import AssessmentContext
from mlflow_rlrisk.experts.examples import ExpertSet
from mlflow_rlrisk.experts.profile import ExpertProfile
from mlflow_rlrisk.prompts import PromptSet
from mlflow_rlrisk.records import PromptStatistics
from mlflow_rlrisk.report_record import RiskReport
from mlflow_rlrisk.rollouts.evidence import EVIDENCE, graded_as, with_stored_evidence
from mlflow_rlrisk.rollouts.manifest import MANIFEST
from mlflow_rlrisk.rollouts.shards import write_text_atomically
from mlflow_rlrisk.samplers import is_settled
from mlflow_rlrisk.verifiers import LoadedVerifier
from mlflow_rlrisk.verifiers.loading import source_digest
from mlflow_rlrisk.verifiers.specs import VerifierSpec

SCHEMA_VERSION = 1
FINISHED = "finished.json"
_FILES = (MANIFEST, INPUTS, PROMPTS, EVIDENCE)
_FOLDERS = ("rollouts", "grades")
_COUNTED = tuple(each.name for each in fields(PromptStatistics))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What an assessment came to.

    Attributes:
        folder: Where its rollouts are.
        plan: What was said before sampling, as of now: nothing is left to sample.
        report: The report.
        statistics: What was counted of each prompt.
        context: Evidence beside the rollouts that the report took into account.
        expert: How the checkpoint sees the expert data, where some were given.
        train: How it sees the examples that it was trained on, where some were given.
    """

    folder: Path
    plan: Plan
    report: RiskReport
    statistics: tuple[PromptStatistics, ...]
    context: AssessmentContext | None
    expert: ExpertProfile | None
    train: ExpertProfile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything that is asked for, known before anything is started.

    Attributes:
        model: The reference as it was given.
        checkpoint: What it led to; ``None`` where there are no files.
        prompts: The prompt set.
        verifier: Spec of the verifier.
        config: Settings of the assessment.
        policy: Lines that are applied.
        expert: Held-out expert examples, where there are some.
        train: Examples that SFT was trained on, where there are some.
        is_preflight_wanted: The verifier is shown its gold answers first.
    """

    model: str
    checkpoint: Checkpoint | None
    prompts: PromptSet
    verifier: VerifierSpec
    config: AssessmentConfig
    policy: PolicyConfig
    expert: ExpertSet | None
    train: ExpertSet | None
    is_preflight_wanted: bool

    def recall(
        self,
        context: AssessmentContext | None,
        out_dir: str | Path | None,
        out_root: str | Path | None,
    ) -> Finished | None:
        """The same assessment, finished before; ``None`` where anything differs or is damaged.

        Args:
            context: Evidence that the caller gives.
            out_dir: Folder of the assessment, or ...
            out_root: ... the folder that it is below.
        """
        digest = self._verifier_digest()
        if digest is None or self.checkpoint is None:
            return None
        kept = (out_dir, out_root)
        expert, train = (
            None if each is None else kept_profile(self.checkpoint, each, self.config, kept)
            for each in (self.expert, self.train)
        )
        if (expert is None, train is None) != (self.expert is None, self.train is None):
            return None
        for folder in folders_of(out_dir, out_root, self.model):
            try:
                known = with_stored_evidence(folder, context, graded_as(digest, self.config))
                if expert is not None:
                    known = with_profile(known, expert, self.config, train)
                raw = _read(folder, self._key(digest, known))
                if raw is None:
                    continue
                return Finished(
                    folder=folder,
                    plan=Plan(**raw["plan"]),
                    report=RiskReport.from_dict(raw["report"]),
                    statistics=tuple(_statistics(row) for row in raw["statistics"]),
                    context=known,
                    expert=expert,
                    train=train,
                )
            except (OSError, ValueError, KeyError, TypeError, RLRiskError) as error:
                logger.warning("%s is not used: %s", folder / FINISHED, error)
        return None

    def keep(
        self,
        folder: Path,
        verifier: LoadedVerifier,
        plan: Plan,
        report: RiskReport,
        statistics: Sequence[PromptStatistics],
        context: AssessmentContext | None,
    ) -> None:
        """Put the answer into the folder, after everything else that is kept there."""
        if self._verifier_digest() != verifier.digest or verifier.judge_tier is not None:
            return  # nothing would tell that it is another one by then
        done = replace(plan, num_stored=plan.num_prompts, max_tokens=0, estimated_s=None)
        body = {
            "schema_version": SCHEMA_VERSION,
            "key": self._key(verifier.digest, context),
            "files": _files(folder),
            "plan": asdict(done),
            "report": report.to_dict(),
            "statistics": [[getattr(each, name) for name in _COUNTED] for each in statistics],
        }
        text = json.dumps(body | {"digest": json_digest(body)}, allow_nan=False)
        write_text_atomically(folder / FINISHED, text + "\n")

    def _verifier_digest(self) -> str | None:
        """Digest of the verifier by its files; ``None`` where files do not settle the outcome."""
        is_known = self.checkpoint is not None and is_settled(self.config.backend)
        return source_digest(self.verifier) if is_known else None

    def _key(self, verifier: str, context: AssessmentContext | None) -> dict[str, Any]:
        """Everything but the stored files that report and counts depend on, as JSON values."""
        assert self.checkpoint is not None
        source, prompts = self.checkpoint, self.prompts
        key = {
            "code": own_code(),
            "libraries": library_versions(),
            "model": [self.model, source.registered_name, source.version, source.model_id],
            "run_id": source.run_id,
            "checkpoint": [source.digest, source.tokenizer_digest, source.template_digest],
            "prompts": [prompts.digest, prompts.schema, prompts.num_duplicates],
            "order": text_digest("\n".join(prompt.id for prompt in prompts)),
            "verifier": [self.verifier.text, verifier],
            "config": self.config.model_dump(mode="json"),
            "policy": self.policy.model_dump(mode="json"),
            "expert": [each and each.digest for each in (self.expert, self.train)],
            "preflight": self.is_preflight_wanted,
            "context": None if context is None else asdict(context),
        }
        found: dict[str, Any] = json.loads(json.dumps(key))
        return found


def _read(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is kept, if it is whole and answers ``key`` with the files as they are now.

    Raises:
        ValueError, KeyError, TypeError: It is damaged.
    """
    path = folder / FINISHED
    if not path.is_file():
        return None
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if raw["schema_version"] != SCHEMA_VERSION or json_digest(raw["key"]) != json_digest(key):
        return None
    if raw.pop("digest") != json_digest(raw):
        raise ValueError("it is not as it was written")
    return raw if raw["files"] == _files(folder) else None


def _statistics(row: Sequence[Any]) -> PromptStatistics:
    values = (tuple(value) if isinstance(value, list) else value for value in row)
    named: dict[str, Any] = dict(zip(_COUNTED, values, strict=True))
    return PromptStatistics(**named)


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 by name of what rollouts, grades and evidence are read from."""
    paths = [folder / name for name in _FILES]
    for name in _FOLDERS:
        paths += [folder / name / MANIFEST, *sorted((folder / name).glob("*.parquet"))]
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {name: file_entry(name, path).sha256 for name, path in names.items()}
