"""``rlrisk keys`` beside others, broken off, and where nothing can be written."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_rlrisk.attestation.keys import KeyRing, SigningKey


@pytest.fixture
def files(rlrisk: Any, tmp_path: Path) -> list[str]:
    """Options that name a key and its ring, both made."""
    named = ["--key", str(tmp_path / "key.pem"), "--ring", str(tmp_path / "ring.json")]
    assert rlrisk("keys", "init", *named)[0] == 0
    return named


@pytest.mark.slow
def test_keys_that_are_made_and_revoked_at_once_are_all_in_the_ring(tmp_path: Path) -> None:
    ring = tmp_path / "ring.json"

    def keys(*arguments: str) -> None:
        command = [sys.executable, "-m", "mlflow_rlrisk", "keys", *arguments, "--ring", str(ring)]
        subprocess.run(command, check=True, capture_output=True)

    def init(place: int) -> None:
        keys("init", "--key", str(tmp_path / f"{place}.pem"))

    init(0)
    stolen = next(iter(KeyRing.load(ring).keys))
    with ThreadPoolExecutor(5) as pool:
        made = [pool.submit(init, place) for place in range(1, 5)]
        pool.submit(keys, "revoke", stolen).result()
        assert [each.result() for each in made] == [None] * 4

    found = KeyRing.load(ring).keys
    assert {SigningKey.load(tmp_path / f"{n}.pem").key_id for n in range(5)} == set(found)
    assert [each.key_id for each in found.values() if each.revoked_at] == [stolen]


def test_a_rotation_that_broke_off_is_finished_by_the_next(
    rlrisk: Any, tmp_path: Path, files: list[str]
) -> None:
    old, left = SigningKey.load(tmp_path / "key.pem"), SigningKey.generate()
    left.write(tmp_path / "key.pem.new")  # before the ring had it
    before = (tmp_path / "key.pem").read_bytes()

    assert rlrisk("keys", "rotate", *files)[0] == 0
    ring = (tmp_path / "ring.json").read_bytes()
    left.write(tmp_path / "key.pem.new")  # after the ring had it
    (tmp_path / "key.pem").write_bytes(before)
    assert rlrisk("keys", "rotate", *files)[0] == 0

    assert SigningKey.load(tmp_path / "key.pem").key_id == left.key_id
    assert (tmp_path / "ring.json").read_bytes() == ring
    keys = KeyRing.load(tmp_path / "ring.json").keys
    assert [keys[each].not_after is None for each in (old.key_id, left.key_id)] == [False, True]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.pem", "ring.json"]


def test_a_key_behind_a_link_is_replaced_where_it_lies(
    rlrisk: Any, tmp_path: Path, files: list[str]
) -> None:
    old = SigningKey.load(tmp_path / "key.pem").key_id
    (tmp_path / "link.pem").symlink_to(tmp_path / "key.pem")

    assert rlrisk("keys", "rotate", "--key", str(tmp_path / "link.pem"), *files[2:])[0] == 0

    assert (tmp_path / "link.pem").is_symlink()
    assert SigningKey.load(tmp_path / "key.pem").key_id != old


def test_a_second_revocation_keeps_the_reason_of_the_first(
    rlrisk: Any, tmp_path: Path, files: list[str]
) -> None:
    key_id = SigningKey.load(tmp_path / "key.pem").key_id

    rlrisk("keys", "revoke", key_id, "--reason", "stolen", *files[2:])
    first = KeyRing.load(tmp_path / "ring.json").keys[key_id]
    rlrisk("keys", "revoke", key_id, *files[2:])

    assert KeyRing.load(tmp_path / "ring.json").keys[key_id] == first
    assert first.revoked_reason == "stolen"


def test_no_key_is_left_behind_where_its_ring_cannot_be_written(
    rlrisk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["--key", str(tmp_path / "key.pem"), "--ring", str(tmp_path / "ring.json")]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        assert rlrisk("keys", "init", *files) == (2, "")

    assert list(tmp_path.iterdir()) == []
    code, out = rlrisk("keys", "init", *files, "--json")
    assert (code, list(KeyRing.load(tmp_path / "ring.json").keys)) == (
        0,
        [json.loads(out)["key_id"]],
    )
