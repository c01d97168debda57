"""Ten thousand forgeries, made without the key: whatever they are, the gate promotes none.

Each is an edit of a good envelope; the same evidence with the good envelope is promoted.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlflow_rlrisk.attestation import sign_attestation
from mlflow_rlrisk.attestation.envelope import canonical_json, pre_authentication_encoding
from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.gate.guard import Evidence, judge
from mlflow_rlrisk.gate.promotion_policy import Bar, PromotionPolicy, Target
from tests.gate.world import NOW, PLACE, SIZES, attestation, ring_of

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
RING = ring_of(KEY)
ENVELOPE = sign_attestation(attestation(), KEY)
BAR = Bar(
    PromotionPolicy(
        version=1,
        key_ring="ring",
        rules=[{"name": "r", "aliases": ["rl-ready"]}],  # type: ignore[list-item]
    ),
    RING,
    attestation().policy_digest,
    "",
)
LOOK_ALIKES = {"o": "ο", "a": "а", "e": "е", "c": "с", "i": "і"}


def outcome(envelope: str) -> str:
    evidence = Evidence(
        place=PLACE,
        envelope=envelope,
        attested_places=(PLACE,),
        source="models:/m-1",
        files=SIZES,
    )
    return str(judge(BAR, evidence, Target("alias", "rl-ready"), NOW).outcome)


def payload_edits(rng: random.Random) -> Iterator[str]:
    """Edits of the statement under the old signature, a foreign one or none."""
    signer = rng.choice([None, OTHER, OTHER])
    statement_now = json.loads(base64.b64decode(json.loads(ENVELOPE)["payload"]))
    predicate = statement_now["predicate"]
    field = rng.choice(sorted(predicate))
    old = predicate[field]
    values: list[Any] = [None, "", [], {}, 0, -1, 1e308, "low", "4", "prod", str(old) + " "]
    if isinstance(old, str) and old:
        position = rng.randrange(len(old))
        swapped = LOOK_ALIKES.get(old[position], chr(ord(old[position]) ^ 1))
        values += [old[:position] + swapped + old[position + 1 :], old.upper(), old[:position]]
    predicate[field] = rng.choice([value for value in values if value != old])
    payload = canonical_json(statement_now).encode()
    envelope = json.loads(ENVELOPE)
    envelope["payload"] = base64.b64encode(payload).decode()
    if signer is not None:
        signature = signer.sign(pre_authentication_encoding(payload))
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        if rng.random() < 0.5:
            envelope["signatures"][0]["keyid"] = signer.key_id
    yield canonical_json(envelope)


def byte_edits(rng: random.Random) -> Iterator[str]:
    """Flipped, dropped, doubled or replaced characters, and truncation."""
    position = rng.randrange(len(ENVELOPE))
    before, at, after = ENVELOPE[:position], ENVELOPE[position], ENVELOPE[position + 1 :]
    yield rng.choice(
        [
            before + chr(ord(at) ^ (1 << rng.randrange(6))) + after,
            before + after,
            before + at + at + after,
            before,
            before + LOOK_ALIKES.get(at, "\u200b") + after,
            before + f"\\u{ord(at):04x}" + after,
        ]
    )


def signature_edits(rng: random.Random) -> Iterator[str]:
    """Bits of the signature, keys and fields of the envelope, duplicates."""
    envelope = json.loads(ENVELOPE)
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[rng.randrange(64)] ^= 1 << rng.randrange(8)
    forged = {"keyid": KEY.key_id, "sig": base64.b64encode(bytes(signature)).decode()}
    foreign = OTHER.sign(pre_authentication_encoding(base64.b64decode(envelope["payload"])))
    added = {"keyid": OTHER.key_id, "sig": base64.b64encode(foreign).decode()}
    edits: list[Callable[[], None]] = [
        lambda: envelope.update(signatures=[forged]),
        lambda: envelope.update(signatures=[added]),
        lambda: envelope["signatures"].append(added),
        lambda: envelope["signatures"].append(forged),
        lambda: envelope["signatures"][0].update(keyid=OTHER.key_id),
        lambda: envelope["signatures"][0].update(keyid=KEY.key_id.upper()),
        lambda: envelope.update(payloadType="application/vnd.in-toto+json;v=2"),
        lambda: envelope.update(payload=envelope["payload"].rstrip("=")),
    ]
    rng.choice(edits)()
    text = canonical_json(envelope)
    # Where padding was none, the last edit changes nothing; a second payload key is added then.
    yield text if text != ENVELOPE else text.replace("{", '{"payload":"e30=",', 1)


@pytest.mark.parametrize("make", [payload_edits, byte_edits, signature_edits])
def test_no_forgery_out_of_ten_thousand_is_promoted(
    make: Callable[[random.Random], Iterator[str]],
) -> None:
    rng = random.Random(20261121)
    tried = 0

    assert outcome(ENVELOPE) == "promote"
    while tried < 3400:
        for forged in make(rng):
            assert forged != ENVELOPE
            assert outcome(forged) != "promote", forged
            tried += 1
