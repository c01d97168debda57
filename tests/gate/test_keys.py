"""Keys: 0600, never overwritten; a ring that cannot be talked into a foreign key."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mlflow_rlrisk.attestation.keys import (
    KeyRing,
    PublicKey,
    SigningKey,
    changing_ring,
    home,
    key_path,
    ring_path,
    to_moment,
    to_text,
)
from mlflow_rlrisk.errors import AttestationError, ConfigError
from tests.gate.world import ring_of

KEY, OTHER = SigningKey.generate(), SigningKey.generate()


def test_a_key_comes_back_from_its_file_which_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key.pem"

    KEY.write(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).key_id == KEY.key_id
    with pytest.raises(ConfigError, match="there is a file already"):
        OTHER.write(path)
    assert SigningKey.load(path).key_id == KEY.key_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_touch_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    KEY.write(path)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}"):
        SigningKey.load(path)


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(ConfigError, match="No such file"):
        SigningKey.load(path)
    path.touch(mode=0o600)
    with pytest.raises(ConfigError, match="is no private key"):
        SigningKey.load(path)
    rsa = generate_private_key(65537, 1024)
    path.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="is no Ed25519 key"):
        SigningKey.load(path)


def test_files_are_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RLRISK_KEY", "RLRISK_KEY_RING", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".config" / "rlrisk"
    assert key_path() == home() / "signing_key.pem"
    assert ring_path() == home() / "key_ring.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "x" / "rlrisk"
    monkeypatch.setenv("RLRISK_KEY", "k")
    monkeypatch.setenv("RLRISK_KEY_RING", "r")
    assert (key_path(), ring_path()) == (Path("k"), Path("r"))


def test_a_ring_comes_back_from_its_file(tmp_path: Path) -> None:
    ring = ring_of(KEY, OTHER)
    path = tmp_path / "deep" / "ring.json"

    ring.write(path)

    assert KeyRing.load(path) == ring
    assert [each.name for each in tmp_path.rglob("*.json*")] == ["ring.json"]
    with pytest.raises(ConfigError, match="No such file"):
        KeyRing.load(tmp_path / "none.json")


def ring_text(**changes: Any) -> str:
    raw = ring_of(KEY).to_dict()
    raw["keys"][0].update(changes)
    return json.dumps(raw)


def respelled(text: str) -> str:
    """The same 32 bytes in base64 whose spare bits are not zero."""
    return f"{text[:-2]}{chr(ord(text[-2]) + 1)}="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 2, "keys": []}',
        '{"schema_version": 1, "keys": {}}',
        '{"schema_version": 1, "keys": [], "more": 1}',
        '{"schema_version": 1, "keys": [1]}',
        "[" * 100_000,
        ring_text(key_id=OTHER.key_id),
        ring_text(public_key="AAAA"),
        ring_text(public_key="!"),
        ring_text(public_key=respelled(ring_of(KEY).to_dict()["keys"][0]["public_key"])),
        ring_text(public_key=ring_of(OTHER).to_dict()["keys"][0]["public_key"]),
        ring_text(not_before="yesterday"),
        ring_text(not_after="2026-11-21T12:00:00+00:00"),
        ring_text(revoked_at=1),
        ring_text(unknown=1),
        json.dumps({"schema_version": 1, "keys": ring_of(KEY).to_dict()["keys"] * 2}),
    ],
)
def test_a_damaged_ring_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(ConfigError, match="key_ring"):
        KeyRing.parse(text)


def test_a_damaged_ring_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        KeyRing.parse(ring_text(unknown=1))

    told = "key_ring='unknown: Extra inputs are not permitted': is no key ring"
    assert str(caught.value) == told


def test_folders_of_key_and_ring_are_made_for_their_owner(tmp_path: Path) -> None:
    KEY.write(tmp_path / "a" / "b" / "key.pem")
    ring_of(KEY).write(tmp_path / "c" / "d" / "ring.json")
    with changing_ring(tmp_path / "e" / "f" / "ring.json"):
        pass

    made = ("a/b", "c/d", "e/f")
    assert {(tmp_path / each).stat().st_mode & 0o777 for each in made} == {0o700}


def test_unknown_and_revoked_keys_are_told_apart() -> None:
    ring = ring_of(KEY)
    revoked = ring.with_key(
        ring.keys[KEY.key_id].model_copy(update={"revoked_at": "2026-01-01T00:00:00Z"})
    )

    assert ring.trusted(KEY.key_id).name == "a"
    with pytest.raises(AttestationError) as unknown:
        ring.trusted(OTHER.key_id)
    with pytest.raises(AttestationError) as gone:
        revoked.trusted(KEY.key_id)
    assert unknown.value.reason == "unknown_key"
    assert gone.value.reason == "revoked_key"
    assert "was revoked at 2026-01-01T00:00:00Z" in str(gone.value)


def test_a_moment_has_one_spelling() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

    assert to_text(moment) == "2026-01-02T03:04:05Z"
    assert to_moment("2026-01-02T03:04:05Z") == moment.replace(microsecond=0)
    for other in ("2026-1-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z"):
        with pytest.raises(ValueError, match=r"2026"):
            to_moment(other)


def test_a_field_of_a_key_that_stands_twice_is_refused_for_the_second_would_win() -> None:
    revoked = ring_text(revoked_at="2026-01-01T00:00:00Z")
    text = revoked.replace('"revoked_reason"', '"revoked_at": null, "revoked_reason"')
    assert json.loads(text)["keys"][0]["revoked_at"] is None

    with pytest.raises(ConfigError, match="a field stands twice"):
        KeyRing.parse(text)


def test_a_ring_behind_a_link_is_changed_where_its_readers_look(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared" / "ring.json", tmp_path / "ring.json"
    ring_of(KEY).write(shared)
    shared.chmod(0o640)
    link.symlink_to(shared)

    ring_of(KEY, OTHER).write(link)

    assert link.is_symlink()
    assert set(KeyRing.load(shared).keys) == {KEY.key_id, OTHER.key_id}
    assert shared.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_is_told_by_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    below = tmp_path / "file" / "below"

    with pytest.raises(ConfigError, match=r"key='.*below': cannot be written: "):
        KEY.write(below)
    for place in (below, tmp_path / "folder"):
        with pytest.raises(ConfigError, match=r"key_ring='.*': cannot be written: "):
            ring_of(KEY).write(place)
    with pytest.raises(ConfigError, match="cannot be written: "), changing_ring(below / "ring"):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_writers_of_one_ring_wait_for_one_another(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ring.json"
    keys = [SigningKey.generate() for _ in range(8)]

    def add(key: SigningKey) -> None:
        with changing_ring(path):
            known = KeyRing.load(path) if path.exists() else KeyRing({})
            time.sleep(0.01)
            known.with_key(PublicKey.of(key, "k", datetime.now(UTC))).write(path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, keys))

    assert set(KeyRing.load(path).keys) == {key.key_id for key in keys}
    assert [each.name for each in path.parent.iterdir()] == ["ring.json"]


def test_a_ring_is_changed_where_the_system_has_no_such_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with changing_ring(tmp_path / "ring.json"):
        ring_of(KEY).write(tmp_path / "ring.json")

    assert KeyRing.load(tmp_path / "ring.json") == ring_of(KEY)
