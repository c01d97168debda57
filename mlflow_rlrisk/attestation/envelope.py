"""DSSE envelopes: exact bytes, signed with Ed25519, in a form that has one spelling only.

Nothing in the payload is read before its signatures are verified. Envelope and payload must be
canonical JSON: whitespace, key order, duplicate keys and escapes then leave no room for a second
text with the same meaning, and any altered byte is a refusal.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey
from mlflow_rlrisk.errors import AttestationError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE = 100_000
"""Characters that a version tag of MLflow takes."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A payload whose signatures are good, and who signed it."""

    payload: dict[str, Any]
    signers: tuple[PublicKey, ...]


def canonical_json(value: object) -> str:
    """The one spelling: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pre_authentication_encoding(payload: bytes) -> bytes:
    """What is signed: type and payload with their lengths (DSSE v1, PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign_envelope(payload: object, keys: Sequence[SigningKey]) -> str:
    """Sign the canonical JSON of ``payload`` with every key.

    Raises:
        AttestationError: ``too_large`` for a version tag.
    """
    return _assemble(canonical_json(payload).encode(), keys, [])


def add_signature(envelope: str, key: SigningKey, ring: KeyRing) -> str:
    """Add one more signature to an envelope whose signatures are good."""
    open_envelope(envelope, ring)
    parsed = json.loads(envelope)
    kept = [each for each in parsed["signatures"] if each["keyid"] != key.key_id]
    return _assemble(base64.b64decode(parsed["payload"]), [key], kept)


def _assemble(payload: bytes, keys: Sequence[SigningKey], kept: list[dict[str, str]]) -> str:
    message = pre_authentication_encoding(payload)
    made: list[dict[str, str]] = [
        {"keyid": key.key_id, "sig": base64.b64encode(key.sign(message)).decode()} for key in keys
    ]
    signatures = sorted([*kept, *made], key=lambda each: each["keyid"])
    envelope = canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": signatures,
        }
    )
    if len(envelope) > MAX_ENVELOPE:
        text = f"the attestation has {len(envelope)} characters, a version tag takes {MAX_ENVELOPE}"
        raise AttestationError("too_large", text)
    return envelope


def open_envelope(text: str, ring: KeyRing) -> Opened:
    """Verify every signature, then read the payload.

    Raises:
        AttestationError: ``malformed``, ``unknown_key``, ``revoked_key`` or ``bad_signature``.
    """
    parsed = _canonical_object(text, "the envelope")
    payload, signatures = _parts(parsed)
    message = pre_authentication_encoding(payload)
    signers = []
    for key_id, signature in signatures:
        key = ring.trusted(key_id)
        if not key.verify(signature, message):
            raise AttestationError("bad_signature", f"the signature of key {key_id} is not good")
        signers.append(key)
    return Opened(
        _canonical_object(payload.decode("ascii", "replace"), "the payload"), tuple(signers)
    )


def _parts(parsed: dict[str, Any]) -> tuple[bytes, list[tuple[str, bytes]]]:
    if parsed.keys() != {"payload", "payloadType", "signatures"}:
        raise _malformed("the envelope has other fields than DSSE's")
    if parsed["payloadType"] != PAYLOAD_TYPE:
        raise _malformed(f"payloadType is not {PAYLOAD_TYPE}")
    listed = parsed["signatures"]
    if not isinstance(listed, list) or not listed:
        raise _malformed("there is no signature")
    signatures = []
    for each in listed:
        if not isinstance(each, dict) or each.keys() != {"keyid", "sig"}:
            raise _malformed("a signature has other fields than DSSE's")
        if not isinstance(each["keyid"], str):
            raise _malformed("a keyid is no text")
        signatures.append((each["keyid"], _bytes(each["sig"])))
    ids = [key_id for key_id, _ in signatures]
    if ids != sorted(set(ids)):
        raise _malformed("signatures are repeated or out of order")
    return _bytes(parsed["payload"]), signatures


def _bytes(text: object) -> bytes:
    """Decode base64 of one spelling: the last character's spare bits must be zero."""
    if isinstance(text, str):
        try:
            raw = base64.b64decode(text)  # passes over what is not base64
        except ValueError as error:
            raise _malformed("it is not base64") from error
        if base64.b64encode(raw).decode() == text:
            return raw
    raise _malformed("it is not base64 in its one spelling")


def _canonical_object(text: str, what: str) -> dict[str, Any]:
    if len(text) > MAX_ENVELOPE:
        raise _malformed(f"{what} has {len(text)} characters")
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, dict) and canonical_json(value) == text:
            return value
    raise _malformed(f"{what} is not one canonical JSON object")


def _malformed(text: str) -> AttestationError:
    return AttestationError("malformed", text)
