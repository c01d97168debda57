"""The exceptions of mlflow-rlrisk: one tree, one stable ``code`` each.

An error names the field, its value and what is needed. It is raised where the fault is found
and never turned into a number on the way up::

    RLRiskError                        code
    |- ConfigError (ValueError)        invalid_config          a setting is unusable
    |- PromptSetError (ValueError)     invalid_prompts         the prompt set cannot be used
    |- ModelReferenceError (ValueError) invalid_model          the reference names no checkpoint
    |- CheckpointError (RuntimeError)  checkpoint_refused      the checkpoint cannot be trusted
    |- SamplerError (RuntimeError)     sampling_failed         sampling stopped
    |- VerifierError (RuntimeError)    verifier_failed         the verifier cannot be used
    |  |- SandboxUnavailableError      sandbox_unavailable     no sandbox to run programs in
    |  `- GoldRejectedError            verifier_rejects_gold   it rejects its own gold answers
    |- InsufficientRolloutsError (ValueError) insufficient_rollouts  n < k or n < g
    |- StatisticsError (ValueError)    invalid_statistics_input  an array breaks a contract
    |- ReportError (ValueError)        invalid_report          a stored report cannot be read
    |- ComparabilityError (ValueError) not_comparable          two reports measured other things
    |- RolloutStoreError (RuntimeError) rollout_store          stored rollouts do not fit
    |- HistoryError (ValueError)       invalid_history         an RL run's log cannot be read
    |- SinkError (RuntimeError)        sink_failed             a report cannot be written to MLflow
    |- AttestationError (RuntimeError) attestation_refused     a signed statement proves nothing
    |- PromotionRefusedError (PermissionError) promotion_refused  the gate does not allow it
    |- AuditError (RuntimeError)       audit_log               the gate's log is damaged or refuses
    `- MissingDependencyError (ImportError) missing_dependency  an extra is not installed
"""

from typing import ClassVar


class RLRiskError(Exception):
    """Base of every expected error; the command line prints it without a traceback."""

    code: ClassVar[str] = "error"


class ConfigError(RLRiskError, ValueError):
    """A setting is unusable. The message names the setting, its value and what is needed."""

    code = "invalid_config"

    def __init__(self, field: str, value: object, need: str) -> None:
        super().__init__(field, value, need)  # args mirror the signature, so pickling works
        self.field, self.value, self.need = field, value, need

    def __str__(self) -> str:
        return f"{self.field}={self.value!r}: {self.need}"


class PromptSetError(RLRiskError, ValueError):
    """The prompt set is empty, unreadable, of an unknown schema or repeats prompts."""

    code = "invalid_prompts"


class ModelReferenceError(RLRiskError, ValueError):
    """A model reference is malformed or resolves to nothing."""

    code = "invalid_model"


class CheckpointError(RLRiskError, RuntimeError):
    """A checkpoint would be sampled wrongly or unsafely: it is refused before sampling."""

    code = "checkpoint_refused"


class SamplerError(RLRiskError, RuntimeError):
    """Sampling stopped: logits that are not finite, no memory, a lost engine."""

    code = "sampling_failed"


class VerifierError(RLRiskError, RuntimeError):
    """The verifier cannot be loaded or used. A single failing call is a `Grade`, not this."""

    code = "verifier_failed"


class SandboxUnavailableError(VerifierError):
    """No sandbox that may be used; the message says why, tier by tier."""

    code = "sandbox_unavailable"


class GoldRejectedError(VerifierError):
    """The verifier rejects gold answers of the prompt set, so its grades would mean nothing."""

    code = "verifier_rejects_gold"


class InsufficientRolloutsError(RLRiskError, ValueError):
    """An estimator needs more scored rollouts per prompt than there are (n < k, n < g)."""

    code = "insufficient_rollouts"


class StatisticsError(RLRiskError, ValueError):
    """An array handed to ``statistics/`` breaks its contract (range, shape, not finite)."""

    code = "invalid_statistics_input"


class ReportError(RLRiskError, ValueError):
    """A stored report is damaged or of an unknown schema version."""

    code = "invalid_report"


class ComparabilityError(RLRiskError, ValueError):
    """Two reports were measured on other prompts, samplers, verifiers or tokenizers."""

    code = "not_comparable"


class RolloutStoreError(RLRiskError, RuntimeError):
    """Stored rollouts are damaged or belong to another checkpoint, prompt set or sampler."""

    code = "rollout_store"


class HistoryError(RLRiskError, ValueError):
    """The log of an RL run cannot be read, or none of its rows has a step."""

    code = "invalid_history"


class SinkError(RLRiskError, RuntimeError):
    """MLflow, or the place a report goes to, does not take it. Checked before sampling."""

    code = "sink_failed"


class AttestationError(RLRiskError, RuntimeError):
    """A signed statement, or the key that signed it, is refused; ``reason`` is a stable word."""

    code = "attestation_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class PromotionRefusedError(RLRiskError, PermissionError):
    """The gate refuses. ``outcome`` is ``block`` or ``inconclusive``, ``reason`` a stable word."""

    code = "promotion_refused"
    BEGINNING = "rlrisk gate:"
    """How every sentence of the gate begins."""
    UNDECIDED = "it could not be decided"
    """What it says where it refuses because of a fault; the reason is ``undecided`` then."""
    BESIDE = "rlrisk"
    """Key of outcome and reason in MLflow's answer, beside the sentence for people."""

    def __init__(self, outcome: str, reason: str, message: str) -> None:
        super().__init__(outcome, reason, message)
        self.outcome, self.reason, self.message = outcome, reason, message

    def __str__(self) -> str:
        return self.message

    @classmethod
    def told_by(cls, error: BaseException | None) -> "PromotionRefusedError | None":
        """The refusal of the gate that an error of MLflow tells, if it does.

        The server's answer says outcome and reason; one of an older gate the sentence alone.
        """
        text = str(getattr(error, "message", ""))
        start = text.find(cls.BEGINNING)
        if start < 0:
            return None
        sentence = text[start:]
        answer = getattr(error, "json", None) or getattr(error, "json_kwargs", {})
        match answer.get(cls.BESIDE):
            case {"outcome": ("block" | "inconclusive") as outcome, "reason": str(reason)}:
                return cls(outcome, reason, sentence)
        if cls.UNDECIDED in sentence:
            return cls("inconclusive", "undecided", sentence)
        outcome = "inconclusive" if " is inconclusive " in sentence else "block"
        return cls(outcome, "registry", sentence)


class AuditError(RLRiskError, RuntimeError):
    """The gate's log does not take an entry, or its chain of hashes is broken."""

    code = "audit_log"


class MissingDependencyError(RLRiskError, ImportError):
    """A feature needs an extra that is not installed. The message names the command."""

    code = "missing_dependency"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature, self.extra = feature, extra

    def __str__(self) -> str:
        return f"{self.feature} needs an extra: pip install 'mlflow-rlrisk[{self.extra}]'"
