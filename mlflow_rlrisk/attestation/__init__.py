"""What a key holder says of a model version, signed: in-toto statements in DSSE envelopes.

`statement` says what is signed and verifies it, `envelope` signs bytes, `keys` are the key files.
"""

from mlflow_rlrisk.attestation.statement import (
    ATTESTATION_TAG,
    DEFAULT_LIFETIME,
    OVERRIDE_TAG,
    Attestation,
    AttestedMetric,
    Override,
    Place,
    Proven,
    changed_files,
    is_expired,
    sign_attestation,
    sign_override,
    verify_attestation,
    verify_override,
)

__all__ = [
    "ATTESTATION_TAG",
    "DEFAULT_LIFETIME",
    "OVERRIDE_TAG",
    "Attestation",
    "AttestedMetric",
    "Override",
    "Place",
    "Proven",
    "changed_files",
    "is_expired",
    "sign_attestation",
    "sign_override",
    "verify_attestation",
    "verify_override",
]
