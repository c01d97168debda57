"""Is the verifier itself the problem? ``rlrisk audit-verifier`` and `audit_verifier`.

Four kinds of evidence, each optional but the first: what it does with gold answers and with
texts made from them (`probes`), which labels of the prompt set repeat or contradict each other
(`labels`), what people say of an audit sample (`sample`), and what stored rollouts show
(`rollouts`). No language model is asked; the same inputs give the same audit.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_rlrisk.verifier_audit.audit import AuditSettings, VerifierAudit, audit_verifier

__all__ = ["AuditSettings", "VerifierAudit", "audit_verifier"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.audit"), name)
