"""Overrides over HTTP, before a real gated registry: who answers for what, and what nobody may."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from mlflow_rlrisk.attestation import ATTESTATION_TAG, OVERRIDE_TAG
from mlflow_rlrisk.attestation.keys import SigningKey
from service.routes.overrides import MAX_AT_ONCE
from service.signing import overrides as signing
from service.signing.client import SocketSigner, default_socket
from service.signing.protocol import SignerRefusedError
from service.tables.overrides import OverrideTable
from service.tables.tokens import Scope
from tests.gate.conftest import RULES, Gated, refused
from tests.gate.world import World as Gate
from tests.gate.world import checkpoint_folder, entries_of, ring_of
from tests.mlflow_server import sqlite_store
from tests.service.override_world import REASON, World
from tests.service.running_service import RunningService, wait_for


@pytest.fixture
def world(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for folder in ("store", "service"):
        (tmp_path / folder).mkdir()
    gate = Gate.make(tmp_path / "gate", RULES)
    monkeypatch.setenv("RLRISK_POLICY", str(gate.policy_path))
    monkeypatch.delenv("RLRISK_REGISTRY", raising=False)
    checkpoint = checkpoint_folder(tmp_path / "artifacts" / "checkpoint")
    with sqlite_store(database, tmp_path / "store") as uri:
        from mlflow_rlrisk.gate.store import make_store

        store = make_store(f"rlrisk+{uri}")
        gated = Gated(
            store=store,
            plain=SqlAlchemyStore(uri),
            world=gate,
            checkpoint=checkpoint,
            source=checkpoint.as_uri(),
            run_id=mlflow.MlflowClient().create_run("1").info.run_id,
            files=entries_of(checkpoint),
            uri=uri,
        )
        gated.version("prod-a", is_proven=True, risk_level="high")
        yield World(gated, tmp_path / "service")
        store.engine.dispose()


def slug(answer: Any) -> str:
    assert answer.mimetype == "application/problem+json", answer.text
    return str(answer.json["type"].rsplit("/", 1)[1])


@pytest.fixture
def second_key(tmp_path: Path) -> SigningKey:
    key = SigningKey.generate()
    key.write(tmp_path / "second.pem")
    return key


@pytest.fixture
def signer_process(world: World, second_key: SigningKey, tmp_path: Path) -> Iterator[SocketSigner]:
    """The real signer, with the key that the gate trusts and one for a second person."""
    files = (world.gated.world.key_path, tmp_path / "second.pem")
    options = [part for path in files for part in ("--signing-key", str(path))]
    process = RunningService(world.config, 1, "signer", {}, options=options)
    process.start()
    path = default_socket(world.settings)
    wait_for(path.exists)
    yield SocketSigner(path)
    process.stop()


def test_a_signed_override_lets_the_version_pass_and_the_log_names_who_asked(
    world: World, signer_process: SocketSigner
) -> None:
    world.serve(signer_process)
    with refused("risk level is high"):
        world.promote()

    answer = world.override()

    assert answer.status_code == 201
    told = answer.json
    assert (told["state"], told["target"], told["requested_by"]) == (
        "signed",
        "alias.champion",
        "ann",
    )
    assert told["key_ids"] == [world.gated.world.key.key_id]
    world.promote()
    said = [each.message for each in world.gated.entries() if "asked for by" in each.message]
    assert len(said) == 2  # the tag, and the alias that it let pass
    assert all(f"asked for by ann (token {world.tokens['ann'][1]}): {REASON}" in m for m in said)
    listed = world.ask("bob", method="GET").json["overrides"]
    assert [each["id"] for each in listed] == [told["id"]]
    assert world.ask("ann", f"/{told['id']}", method="GET").json == told


def test_a_bad_signature_is_never_overridden(world: World) -> None:
    version = world.gated.version("prod-a")
    stolen = world.gated.version("prod-a", is_proven=True).tags[ATTESTATION_TAG]
    world.gated.tag(version, ATTESTATION_TAG, stolen)

    answer = world.override(model=f"models:/prod-a/{version.version}")

    assert (answer.status_code, slug(answer)) == (409, "override-refused")
    assert "cannot be overridden" in answer.json["detail"]
    tags = world.gated.plain.get_model_version("prod-a", version.version).tags
    assert not [key for key in tags if key.startswith("rlrisk.override")]
    assert world.ask("ann", method="GET").json["overrides"][0]["state"] == "failed"


def test_two_signatures_need_two_people_and_two_keys(
    world: World, second_key: SigningKey, signer_process: SocketSigner
) -> None:
    gate = world.gated.world
    gate.write_policy(RULES, override={"required_signatures": 2, "min_reason_length": 20})
    ring_of(gate.key, second_key).write(gate.ring_path)

    pending = world.override()
    place = f"/{pending.json['id']}/approval"

    assert (pending.status_code, pending.json["state"]) == (202, "pending")
    with refused():
        world.promote()
    assert slug(world.ask("ann", place)) == "forbidden"
    assert slug(world.ask("reader", place)) == "forbidden"
    with pytest.raises(SignerRefusedError, match="not_approved"):
        signer_process.override(pending.json["id"])  # whoever reaches the socket
    alone = world.ask("bob", place)
    assert (alone.status_code, slug(alone)) == (409, "override-refused")
    assert "holds 1" in alone.json["detail"]

    world.serve(signer_process)
    again = world.override().json["id"]
    signed = world.ask("bob", f"/{again}/approval").json
    assert (signed["state"], signed["requested_by"], signed["approved_by"]) == (
        "signed",
        "ann",
        "bob",
    )
    assert set(signed["key_ids"]) == {gate.key.key_id, second_key.key_id}
    assert slug(world.ask("bob", f"/{again}/approval")) == "override-refused"
    world.promote()


@pytest.fixture
def two_needed(world: World, second_key: SigningKey) -> World:
    """The policy asks for two signatures, and the signer holds two keys."""
    gate = world.gated.world
    gate.write_policy(RULES, override={"required_signatures": 2})
    ring_of(gate.key, second_key).write(gate.ring_path)
    world.signer.keys = [gate.key, second_key]
    return world


@contextmanager
def all_places_taken(world: World) -> Iterator[None]:
    """As many overrides as are signed at once are being signed."""
    begun, go_on = threading.Semaphore(0), threading.Event()
    sign = world.signer.override

    def slowly(override_id: str) -> str:
        begun.release()
        assert go_on.wait(60)
        return sign(override_id)

    world.signer.override = slowly  # type: ignore[method-assign]
    places = [f"/{world.override().json['id']}/approval" for _ in range(MAX_AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        approvals = [pool.submit(world.ask, "bob", place) for place in places]
        assert all(begun.acquire(timeout=60) for _ in places)
        try:
            yield
        finally:
            go_on.set()
    world.signer.override = sign  # type: ignore[method-assign]
    assert [each.result().status_code for each in approvals] == [201] * MAX_AT_ONCE


def test_an_approval_that_finds_no_room_can_be_given_again(two_needed: World) -> None:
    asked = two_needed.override().json["id"]

    with all_places_taken(two_needed):
        full = two_needed.ask("bob", f"/{asked}/approval")
        waiting = two_needed.ask("ann", f"/{asked}", method="GET").json

    assert (full.status_code, slug(full), full.headers["Retry-After"]) == (429, "quota", "30")
    assert (waiting["state"], waiting["approved_by"]) == ("pending", None)
    again = two_needed.ask("bob", f"/{asked}/approval")
    assert (again.status_code, again.json["state"]) == (201, "signed")


def test_what_finds_no_room_is_not_kept_as_if_somebody_would_sign_it(two_needed: World) -> None:
    with all_places_taken(two_needed):
        two_needed.gated.world.write_policy(RULES)  # one signature, at once
        full = two_needed.override()
        kept = two_needed.ask("ann", method="GET").json["overrides"]
        two_needed.gated.world.write_policy(RULES, override={"required_signatures": 2})

    assert (full.status_code, slug(full)) == (429, "quota")
    assert len(kept) == MAX_AT_ONCE


def test_whoever_approved_goes_on_with_what_broke_off_before_it_was_signed(
    two_needed: World,
) -> None:
    asked = two_needed.override().json["id"]
    _, carol = two_needed.table.create("carol", [Scope.OVERRIDE])
    overrides = OverrideTable(two_needed.engine)
    assert overrides.approve(asked, (two_needed.tokens["bob"][1], "bob"))  # and then a kill

    assert not overrides.approve(asked, (carol.id, "carol"))
    assert slug(two_needed.ask("ann", f"/{asked}/approval")) == "forbidden"
    signed = two_needed.ask("bob", f"/{asked}/approval")

    assert (signed.status_code, signed.json["state"]) == (201, "signed")
    assert signed.json["approved_by"] == "bob"
    assert slug(two_needed.ask("bob", f"/{asked}/approval")) == "override-refused"
    two_needed.promote()


def test_what_was_signed_is_told_as_signed_also_where_a_try_beside_it_failed(
    two_needed: World,
) -> None:
    asked = two_needed.override().json["id"]
    overrides = OverrideTable(two_needed.engine)
    sign = two_needed.signer.override

    def beside_a_failure(override_id: str) -> str:
        envelope = sign(override_id)
        overrides.failed(override_id, "upstream: no answer")
        return envelope

    two_needed.signer.override = beside_a_failure  # type: ignore[method-assign]
    told = two_needed.ask("bob", f"/{asked}/approval").json

    assert (told["state"], told["error"]) == ("signed", None)
    overrides.failed(asked, "upstream: no answer")
    assert two_needed.ask("ann", f"/{asked}", method="GET").json == told


def test_approvals_of_one_person_that_overlap_are_signed_once(
    two_needed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = two_needed.override().json["id"]
    both_read, draw_up, envelopes = threading.Barrier(2), signing.draw_up, []

    def after_both_read(*given: Any, **named: Any) -> Any:
        slower = both_read.wait(10)
        time.sleep(1.1 * slower)  # what is signed holds times, in seconds
        return draw_up(*given, **named)

    def told(override_id: str) -> str:
        envelopes.append(two_needed.signer.__class__.override(two_needed.signer, override_id))
        return envelopes[-1]

    monkeypatch.setattr(signing, "draw_up", after_both_read)
    monkeypatch.setattr(two_needed.signer, "override", told)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: two_needed.ask("bob", f"/{asked}/approval"), range(2)))

    assert [each.status_code for each in answers] == [201, 201]
    assert len(envelopes) == 2
    assert len(set(envelopes)) == 1
    (carried,) = (
        value
        for key, value in two_needed.gated.plain.get_model_version("prod-a", "1").tags.items()
        if key.startswith(OVERRIDE_TAG)
    )
    assert carried == envelopes[0]


def test_a_token_that_was_revoked_meanwhile_has_asked_for_nothing(world: World) -> None:
    row = OverrideTable(world.engine).ask(
        model="prod-a",
        version="1",
        target=("alias", "champion"),
        reason=REASON,
        expires="24h",
        person=(world.tokens["ann"][1], "ann"),
        needs_approval=False,
    )
    world.table.revoke(world.tokens["ann"][1])

    with pytest.raises(SignerRefusedError, match="no longer allows overrides"):
        world.signer.override(row.id)


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"reason": " "}, 422, "/reason"),
        ({"expires": "8d"}, 422, "/expires"),
        ({"expires": "soon"}, 422, "/expires"),
        ({"stage": "Production"}, 422, "/alias"),
        ({"alias": None}, 422, "/alias"),
        ({"alias": "champoin"}, 422, "/alias"),  # no rule protects it
        ({"alias": None, "stage": "Staging"}, 422, "/stage"),
        ({"key": "/etc/passwd"}, 422, "/key"),
        ({"model": "models:/prod-a@champion"}, 422, "model-uri-refused"),
        ({"model": "models:/prod-a/9"}, 404, "not-found"),
    ],
)
def test_what_the_policy_or_the_form_refuses_is_not_even_asked_for(
    world: World, changes: dict[str, Any], status: int, word: str
) -> None:
    answer = world.override(**changes)

    assert answer.status_code == status
    assert word in (slug(answer), *(each["pointer"] for each in answer.json["errors"]))
    assert world.ask("ann", method="GET").json["overrides"] == []


def test_files_that_the_operator_did_not_list_are_not_signed_for(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    made = world.gated.plain.create_model_version("prod-a", str(tmp_path / "elsewhere"))

    answer = world.override(model=f"models:/prod-a/{made.version}")

    assert (answer.status_code, slug(answer)) == (409, "override-refused")
    assert "did not list" in answer.json["detail"]
    assert str(tmp_path) not in answer.text


def test_without_signer_or_policy_the_service_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.signer.is_away = True
    away = world.override()
    assert (away.status_code, slug(away)) == (503, "override-unavailable")
    assert away.headers["Retry-After"] == "10"

    monkeypatch.delenv("RLRISK_POLICY")
    assert slug(world.override()) == "override-unavailable"
    assert slug(world.override(who="reader")) == "forbidden"
