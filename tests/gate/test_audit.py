"""The log: append-only, chained, one chain whatever the number of writers."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflow_rlrisk.errors import AuditError, ConfigError
from mlflow_rlrisk.gate.audit import GENESIS, AuditLog, Entry
from mlflow_rlrisk.gate.audit_tables import LOG
from mlflow_rlrisk.gate.registry_database import find_store_uri, open_log

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def entry(**changes: str) -> Entry:
    given = {"action": "set_alias", "outcome": "promote", "reason": "proven", "message": "m"}
    return Entry(**{**given, "workspace": "default", "model": "coder", **changes})  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    made = sa.create_engine(f"sqlite:///{tmp_path}/log.db")
    yield made
    made.dispose()


@pytest.fixture
def log(engine: Any) -> AuditLog:
    made = AuditLog(engine)
    made.prepare()
    return made


def test_entries_come_back_in_order_and_each_names_the_one_before(log: AuditLog) -> None:
    assert log.read() == []

    for number in range(3):
        log.append(entry(version=str(number)), NOW)

    read = log.read()
    assert [each.entry for each in read] == [entry(version=str(number)) for number in range(3)]
    assert [each.sequence for each in read] == [1, 2, 3]
    assert [each.previous for each in read] == [GENESIS, read[0].hash, read[1].hash]
    assert read[0].recorded_at == "2026-11-21T12:00:00Z"
    assert read[2].to_dict()["version"] == "2"


def test_an_entry_is_not_replaced_by_another_in_its_place(log: AuditLog, engine: Any) -> None:
    log.append(entry(), NOW)
    columns = ", ".join(each.name for each in LOG.columns if each.name != "outcome")
    forged = f"SELECT {columns}, 'block' FROM rlrisk_gate_log"

    for verb in ("INSERT OR REPLACE", "REPLACE"):
        told = f"{verb} INTO rlrisk_gate_log ({columns}, outcome) {forged}"
        with pytest.raises(sa.exc.DatabaseError, match="append-only"), engine.begin() as made:
            made.execute(sa.text(told))

    assert [each.entry for each in log.read()] == [entry()]


def test_the_hash_is_sha256_over_the_canonical_json_of_what_is_told(log: AuditLog) -> None:
    import hashlib
    import json
    from dataclasses import asdict

    log.append(entry(), NOW)

    (first,) = log.read()
    told = [1, "2026-11-21T12:00:00Z", asdict(entry()), "0" * 64]
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert (first.previous, first.hash) == (told[-1], hashlib.sha256(text.encode()).hexdigest())


def test_preparing_twice_keeps_what_is_there(log: AuditLog) -> None:
    log.append(entry(), NOW)

    log.prepare()

    assert len(log.read()) == 1


@pytest.mark.parametrize(
    "verb", ["UPDATE rlrisk_gate_log SET reason='x'", "DELETE FROM rlrisk_gate_log"]
)
def test_the_database_itself_refuses_to_change_an_entry(
    log: AuditLog, engine: Any, verb: str
) -> None:
    log.append(entry(), NOW)

    with pytest.raises(sa.exc.DatabaseError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql(verb)


@pytest.mark.parametrize("table", ["rlrisk_gate_log", "rlrisk_gate_head"])
def test_the_database_itself_takes_no_second_entry_of_a_number_and_none_with_a_gap(
    log: AuditLog, engine: Any, table: str
) -> None:
    log.append(entry(), NOW)
    key, *others = [each["name"] for each in sa.inspect(engine).get_columns(table)]

    def insert(number: int, missing: str = "") -> None:
        shown = ", ".join("NULL" if each == missing else each for each in others)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO {table} SELECT {number}, {shown} FROM {table}")

    with pytest.raises(sa.exc.IntegrityError, match="UNIQUE"):
        insert(1)
    for name in others:
        with pytest.raises(sa.exc.IntegrityError, match=f"NOT NULL .*{table}.{name}"):
            insert(2, missing=name)
    assert key == ("sequence" if table == "rlrisk_gate_log" else "id")
    insert(2)  # nothing else stood in the way


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("UPDATE rlrisk_gate_log SET outcome='promote' WHERE sequence=2", "broken at entry 2"),
        ("UPDATE rlrisk_gate_log SET hash='0' WHERE sequence=1", "broken at entry 1"),
        ("UPDATE rlrisk_gate_log SET recorded_at='2020' WHERE sequence=3", "broken at entry 3"),
        ("DELETE FROM rlrisk_gate_log WHERE sequence=1", "broken at entry 1"),
        ("DELETE FROM rlrisk_gate_log WHERE sequence=2", "broken at entry 2"),
        ("DELETE FROM rlrisk_gate_log WHERE sequence=3", "has 2 entries, its head is another"),
        ("DELETE FROM rlrisk_gate_head", "has no head"),
        ("UPDATE rlrisk_gate_head SET hash='0'", "its head is another"),
        ("DROP TABLE rlrisk_gate_log", "does not answer: no such table"),
    ],
)
def test_a_log_that_was_tampered_with_is_not_read(
    log: AuditLog, engine: Any, damage: str, why: str
) -> None:
    for outcome in ("block", "block", "promote"):
        log.append(entry(outcome=outcome), NOW)
    with engine.begin() as connection:
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(f"DROP TRIGGER rlrisk_gate_log_no_{verb}")
        connection.exec_driver_sql(damage)

    with pytest.raises(AuditError, match=why):
        log.read()


def test_without_a_head_nothing_is_appended(log: AuditLog, engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM rlrisk_gate_head")

    with pytest.raises(AuditError, match="has no head"):
        log.append(entry(), NOW)


def test_many_writers_make_one_chain(log: AuditLog) -> None:
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda n: log.append(entry(version=str(n)), NOW), range(80)))

    assert [each.sequence for each in log.read()] == list(range(1, 81))


def test_entries_are_found_newest_first(log: AuditLog) -> None:
    for number in range(3):
        log.append(entry(version=str(number), outcome="promote" if number else "block"), NOW)

    found = log.find(outcome="promote", model="coder")

    assert [each.version for each in found] == ["2", "1"]
    assert log.find(model="other") == []


def test_the_log_is_found_in_the_registrys_database(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(entry(), NOW)
    uri = f"sqlite:///{tmp_path}/log.db"
    monkeypatch.delenv("MLFLOW_REGISTRY_STORE_URI", raising=False)

    assert len(open_log(f"rlrisk+{uri}").read()) == 1
    monkeypatch.setenv("MLFLOW_REGISTRY_STORE_URI", f"rlrisk+{uri}")
    assert find_store_uri() == uri
    assert find_store_uri("postgresql://u@h/d") == "postgresql://u@h/d"
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_log(f"sqlite:///{tmp_path}/no/such/folder.db")
    for driver in ("mysql", "postgresql+none"):  # one that is not installed, one that is none
        with pytest.raises(ConfigError, match="registry_store_uri='h/d': cannot be opened"):
            open_log(f"{driver}://u:secret@h/d")


@pytest.mark.parametrize(
    ("uri", "need"),
    [
        ("sqlite:///{}/empty.db", "has no gate log: there is no such file"),
        ("sqlite:///{}/other.db", "has no gate log: no server with the gate has run on it"),
        ("sqlite://", "has no gate log: no server with the gate has run on it"),
        ("sqlite:///:memory:", "has no gate log: no server with the gate has run on it"),
        ("sqlite:///file:other.db?uri=true", "has no gate log: no server with the gate"),
        ("postgresql+psycopg://127.0.0.1:1/mlflow", "cannot be opened"),
    ],
)
def test_a_database_without_a_log_is_told_by_its_name(
    uri: str, need: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.db").touch()
    place = uri.format(tmp_path)

    with pytest.raises(ConfigError, match=re.escape(f"registry_store_uri='{place}': {need}")):
        open_log(place)

    assert not (tmp_path / "empty.db").exists()


def test_a_server_alone_does_not_tell_where_its_database_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_REGISTRY_STORE_URI", raising=False)
    monkeypatch.setattr(mlflow, "get_registry_uri", lambda: "http://127.0.0.1:1")

    with pytest.raises(ConfigError, match="name it by --registry-store-uri"):
        open_log()


def test_postgresql_seals_and_chains_as_well(tmp_path: Path) -> None:
    from tests.postgresql import postgresql

    with postgresql() as uri:
        engine = sa.create_engine(uri)
        log = AuditLog(engine)
        log.prepare()
        log.prepare()
        with ThreadPoolExecutor(4) as writers:
            list(writers.map(lambda n: log.append(entry(version=str(n)), NOW), range(20)))
        odd = entry(message='it\'s 100 % "x\\y" $$ é\n漢字 ${a} :b; COMMIT')
        log.append(odd, NOW)
        other = sa.create_engine(uri.replace("+psycopg:", "+psycopg2:"))
        AuditLog(other).append(odd, NOW)
        other.dispose()

        assert [each.entry for each in log.read()][20:] == [odd, odd]  # the chain is checked
        assert len(log.read()) == 22
        verbs = ("UPDATE rlrisk_gate_log SET reason='x'", "DELETE FROM rlrisk_gate_log")
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as made:
            made.exec_driver_sql("INSERT INTO rlrisk_gate_log SELECT * FROM rlrisk_gate_log")
        for verb in (*verbs, "TRUNCATE rlrisk_gate_log"):
            with pytest.raises(sa.exc.DatabaseError, match="append-only"), engine.begin() as made:
                made.exec_driver_sql(verb)
        with engine.begin() as made:
            made.exec_driver_sql("CREATE TABLE other (x int)")
            made.exec_driver_sql("DELETE FROM rlrisk_gate_head")
        with engine.connect() as made:
            made.exec_driver_sql("INSERT INTO other VALUES (1)")
            with pytest.raises(AuditError, match="has no head"):
                log.append_last(made, entry(), NOW)
        with engine.connect() as made:  # no entry, no change
            assert made.exec_driver_sql("SELECT count(*) FROM other").scalar_one() == 0
        engine.dispose()


def test_workers_of_a_server_on_postgresql_that_start_together_make_one_log() -> None:
    from tests.postgresql import postgresql

    together = threading.Barrier(8)

    def start(uri: str) -> None:
        engine = sa.create_engine(uri)
        with engine.connect():
            together.wait(30)
        AuditLog(engine).prepare()
        engine.dispose()

    with postgresql() as uri, ThreadPoolExecutor(8) as workers:
        assert [each.result() for each in [workers.submit(start, uri) for _ in range(8)]] == (
            [None] * 8
        )
