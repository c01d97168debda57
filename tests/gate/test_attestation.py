"""An attestation is accepted as it was signed, by a key that counts, and in no other form."""

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from mlflow_rlrisk.attestation import (
    AttestedMetric,
    changed_files,
    is_expired,
    sign_attestation,
    sign_override,
    verify_attestation,
    verify_override,
)
from mlflow_rlrisk.attestation.envelope import (
    MAX_ENVELOPE,
    PAYLOAD_TYPE,
    add_signature,
    canonical_json,
    open_envelope,
    pre_authentication_encoding,
    sign_envelope,
)
from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey, to_text
from mlflow_rlrisk.attestation.statement import ATTESTATION_TYPE, OVERRIDE_TYPE, STATEMENT_TYPE
from mlflow_rlrisk.content import FileEntry, content_digest
from mlflow_rlrisk.errors import AttestationError
from tests.gate.world import ENTRIES, NOW, PLACE, attestation, override_of, ring_of

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
RING = ring_of(KEY)
ENVELOPE = sign_attestation(attestation(), KEY)


def refusal(envelope: str, ring: KeyRing = RING, **changes: str) -> str:
    with pytest.raises(AttestationError) as caught:
        verify_attestation(envelope, ring, replace(PLACE, **changes), NOW)
    return caught.value.reason


def test_what_was_signed_is_what_is_read() -> None:
    proven = verify_attestation(ENVELOPE, RING, PLACE, NOW)

    assert proven.statement == attestation()
    assert [key.key_id for key in proven.signers] == [KEY.key_id]


def test_the_envelope_is_dsse_over_an_in_toto_statement() -> None:
    # The oracle is the text of the two specifications, assembled here by hand.
    envelope = json.loads(ENVELOPE)
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    statement = json.loads(payload)

    KEY.private.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "coder/3", "digest": {"sha256": content_digest(ENTRIES)}}
    ]


def test_a_content_digest_is_sha256_over_sorted_path_size_and_sha256() -> None:
    import hashlib

    lines = '["a", 1, "00"]\n["b", 2, "11"]'

    found = content_digest([FileEntry("b", 2, "11"), FileEntry("a", 1, "00")])

    assert found == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("field", ["registry", "workspace", "model", "version"])
def test_an_attestation_of_another_place_is_refused(field: str) -> None:
    assert refusal(ENVELOPE, **{field: "4"}) == "wrong_subject"


def test_keys_that_do_not_count_are_refused() -> None:
    revoked = RING.keys[KEY.key_id].model_copy(update={"revoked_at": to_text(NOW)})
    early = RING.keys[KEY.key_id].model_copy(update={"not_before": to_text(NOW)})
    late = {"not_after": to_text(NOW - timedelta(minutes=2))}
    ended = RING.keys[KEY.key_id].model_copy(update=late)

    assert refusal(ENVELOPE, ring_of(OTHER)) == "unknown_key"
    assert refusal(ENVELOPE, KeyRing({})) == "unknown_key"
    assert refusal(ENVELOPE, KeyRing({KEY.key_id: revoked})) == "revoked_key"
    assert refusal(ENVELOPE, KeyRing({KEY.key_id: early})) == "key_expired"
    assert refusal(ENVELOPE, KeyRing({KEY.key_id: ended})) == "key_expired"


def test_a_key_under_a_foreign_id_does_not_verify() -> None:
    # A ring cannot be built so from a file; this is what would happen if it were.
    foreign = PublicKey.of(OTHER, "b", NOW - timedelta(days=1))

    assert refusal(ENVELOPE, KeyRing({KEY.key_id: foreign})) == "bad_signature"


def test_validity_of_a_key_includes_its_ends() -> None:
    at = attestation().issued_at
    exact = RING.keys[KEY.key_id].model_copy(update={"not_before": at, "not_after": at})

    assert verify_attestation(ENVELOPE, KeyRing({KEY.key_id: exact}), PLACE, NOW)


def test_a_statement_ahead_of_the_clock_by_more_than_a_minute_is_refused() -> None:
    def ahead(seconds: int) -> str:
        issued = to_text(NOW + timedelta(seconds=seconds))
        return sign_attestation(attestation(issued_at=issued), KEY)

    assert verify_attestation(ahead(60), RING, PLACE, NOW)
    assert refusal(ahead(61)) == "from_the_future"


def test_expiry_counts_from_the_second_itself() -> None:
    statement = attestation()
    end = NOW + timedelta(days=30)

    assert not is_expired(statement, end - timedelta(seconds=1))
    assert is_expired(statement, end)


def test_two_signatures_make_no_attestation_but_may_make_an_override() -> None:
    ring = ring_of(KEY, OTHER)
    twice = add_signature(ENVELOPE, OTHER, ring)
    override = add_signature(sign_override(override_of(), [KEY]), OTHER, ring)

    assert refusal(twice, ring) == "many_signatures"
    found = verify_override(override, ring, PLACE, NOW)
    assert {key.key_id for key in found.signers} == {KEY.key_id, OTHER.key_id}


def test_signing_again_with_the_same_key_does_not_count_twice() -> None:
    again = add_signature(sign_override(override_of(), [KEY]), KEY, RING)

    assert len(verify_override(again, RING, PLACE, NOW).signers) == 1


def test_nobody_signs_beside_a_signature_that_is_not_good() -> None:
    with pytest.raises(AttestationError, match="not in the key ring"):
        add_signature(sign_override(override_of(), [OTHER]), KEY, RING)


def test_what_is_no_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_an_override_is_no_attestation_and_the_other_way_round() -> None:
    assert refusal(sign_override(override_of(), [KEY])) == "malformed"
    with pytest.raises(AttestationError, match="no override statement"):
        verify_override(ENVELOPE, RING, PLACE, NOW)


def test_a_statement_that_outgrows_a_tag_is_refused_when_it_is_signed() -> None:
    many = tuple(FileEntry(f"{number:06d}", 1, "0" * 64) for number in range(1200))

    with pytest.raises(AttestationError, match="a version tag takes 100000"):
        sign_attestation(attestation(files=many), KEY)


def statement(kind: str = ATTESTATION_TYPE, **changes: Any) -> dict[str, Any]:
    predicate = {**attestation().model_dump(mode="json"), **changes}
    subject = {"name": "coder/3", "digest": {"sha256": content_digest(ENTRIES)}}
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": kind,
        "subject": [subject],
        "predicate": predicate,
    }


@pytest.mark.parametrize(
    "payload",
    [
        {},
        statement("urn:mlflow-rlrisk:attestation:v2"),
        statement(OVERRIDE_TYPE),
        {**statement(), "_type": "https://in-toto.io/Statement/v0.1"},
        {**statement(), "predicate": None},
        {**statement(), "extra": 1},
        {**statement(), "subject": [{"name": "coder/4", "digest": {"sha256": "0" * 64}}]},
        statement(risk_level="lowest"),
        statement(unheard_of=1),
        statement(version="03"),
        statement(version="0"),
        statement(files=[]),
        statement(files=[["b", 1, "0"], ["a", 1, "0"]]),
        statement(files=[["a", 1, "0"], ["a", 1, "0"]]),
        statement(files=[["a", "1", "0"]]),
        statement(files=["abc"]),
        statement(issued_at="2026-11-21T11:59:00+00:00"),
        statement(issued_at="2026-11-21 11:59:00"),
        statement(issued_at="2026-11-21T11:59:0Z"),
        statement(expires_at=attestation().issued_at),
        statement(policy_digest="A" * 64),
        statement(num_prompts="200"),
        statement(num_prompts=200.0),
        statement(num_prompts=True),
        statement(metrics={"x": {"value": "1", "ci_low": 0, "ci_high": 1, "num_prompts": 1}}),
    ],
)
def test_a_good_signature_under_a_malformed_statement_is_refused(payload: dict[str, Any]) -> None:
    assert refusal(sign_envelope(payload, [KEY])) == "malformed"


def test_a_version_of_one_file_is_attested_as_well() -> None:
    single = attestation(files=ENTRIES[:1])

    assert verify_attestation(sign_attestation(single, KEY), RING, PLACE, NOW).statement == single


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_no_number_is_never_drawn_up(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        AttestedMetric(value=value, ci_low=0.0, ci_high=1.0, num_prompts=1)


def test_an_override_says_why_and_for_whom_be_it_in_one_letter() -> None:
    short = override_of(reason="x", requested_by=("q",))

    found = verify_override(sign_override(short, [KEY]), RING, PLACE, NOW).statement

    assert (found.reason, found.requested_by) == ("x", ("q",))
    for empty in ({"reason": ""}, {"requested_by": ("q", "")}):
        with pytest.raises(ValidationError, match="at least 1 character"):
            override_of(**empty)


def test_nobody_changes_what_was_verified() -> None:
    # One proof is kept for equal bytes and given to everybody who asks.
    proven = verify_attestation(ENVELOPE, RING, PLACE, NOW)

    for record, name in ((proven.statement, "risk_level"), (proven.signers[0], "not_after")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, name, "low")


def test_an_envelope_of_another_payload_type_is_not_read() -> None:
    other = {**json.loads(ENVELOPE), "payloadType": "application/json"}

    assert refusal(canonical_json(other)) == "malformed"


def test_an_envelope_longer_than_a_tag_is_not_read() -> None:
    with pytest.raises(AttestationError, match=f"has {MAX_ENVELOPE + 1} characters"):
        open_envelope("x" * (MAX_ENVELOPE + 1), RING)


@pytest.mark.parametrize("entries", [ENTRIES[::-1], ENTRIES[:1] * 2])
def test_files_are_listed_once_and_in_order(entries: tuple[FileEntry, ...]) -> None:
    payload = statement(files=[list(each) for each in entries])
    payload["subject"][0]["digest"]["sha256"] = content_digest(entries)

    assert refusal(sign_envelope(payload, [KEY])) == "malformed"


def raw_envelope(payload: bytes, /, **changes: Any) -> str:
    signature = KEY.sign(pre_authentication_encoding(payload))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": KEY.key_id, "sig": base64.b64encode(signature).decode()},
            ],
            **changes,
        }
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":NaN}',
        '{"a":"ä"}'.encode(),
        b"\xff\xfe",
        b'{"a":1}\n',
        b"[" * 60_000,
    ],
)
def test_a_signed_payload_in_another_spelling_is_refused(payload: bytes) -> None:
    assert refusal(raw_envelope(payload)) == "malformed"


GOOD = {"keyid": KEY.key_id, "sig": "AAAA"}


@pytest.mark.parametrize(
    "envelope",
    [
        "",
        "null",
        "{}",
        ENVELOPE + " ",
        ENVELOPE + "\n",
        "\ufeff" + ENVELOPE,
        "[" * 50_000,
        " " * (MAX_ENVELOPE + 1),
        json.dumps(json.loads(ENVELOPE)),
        raw_envelope(b"{}", payloadType="application/json"),
        raw_envelope(b"{}", extra=1),
        raw_envelope(b"{}", payload=1),
        raw_envelope(b"{}", payload="e30"),
        raw_envelope(b"{}", payload="e31="),
        raw_envelope(b"{}", payload="e3=0"),
        raw_envelope(b"{}", payload="ß"),
        raw_envelope(b"{}", signatures=[]),
        raw_envelope(b"{}", signatures={}),
        raw_envelope(b"{}", signatures=["x"]),
        raw_envelope(b"{}", signatures=[{"keyid": KEY.key_id}]),
        raw_envelope(b"{}", signatures=[{"keyid": 1, "sig": "AAAA"}]),
        raw_envelope(b"{}", signatures=[GOOD, GOOD]),
    ],
)
def test_an_envelope_in_another_spelling_is_refused(envelope: str) -> None:
    assert refusal(envelope) == "malformed"


def test_a_stranger_writes_no_page_into_the_refusal_by_the_id_of_a_key() -> None:
    long = raw_envelope(b"{}", signatures=[{"keyid": "k" * 5000, "sig": "AAAA"}])

    with pytest.raises(AttestationError) as caught:
        open_envelope(long, RING)

    assert f"key '{'k' * 64}' is not in the key ring" in str(caught.value)


def test_signatures_out_of_order_are_refused() -> None:
    ring = ring_of(KEY, OTHER)
    parsed = json.loads(add_signature(ENVELOPE, OTHER, ring))
    parsed["signatures"].reverse()

    with pytest.raises(AttestationError, match="out of order"):
        open_envelope(canonical_json(parsed), ring)


def test_an_envelope_as_long_as_a_tag_is_read() -> None:
    room = MAX_ENVELOPE - len(sign_envelope({"a": ""}, [KEY]))
    longest = sign_envelope({"a": "x" * (room * 3 // 4)}, [KEY])

    assert MAX_ENVELOPE - 4 < len(longest) <= MAX_ENVELOPE
    assert open_envelope(longest, RING).payload["a"].startswith("x")


def test_changed_files_are_told_apart() -> None:
    attested = [FileEntry("a", 1, ""), FileEntry("b", 2, ""), FileEntry("c", 3, "")]

    assert changed_files(attested, {"a": 1, "b": 2, "c": 3}) == ()
    assert changed_files(attested, {"a": 1, "c": 4, "d": 9}) == (
        "b is missing",
        "d was added",
        "c has 4 bytes, 3 were attested",
    )


@pytest.mark.parametrize("signatures", [[], {}, None])
def test_a_good_payload_without_a_signature_is_refused_before_it_is_read(signatures: Any) -> None:
    stripped = canonical_json({**json.loads(ENVELOPE), "signatures": signatures})

    with pytest.raises(AttestationError, match="there is no signature"):
        open_envelope(stripped, RING)
