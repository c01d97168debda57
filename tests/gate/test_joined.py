"""The entry and the change it allows stand or fall together; what the gate reads is MLflow's."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from mlflow_rlrisk.gate.promotion_policy import Target
from mlflow_rlrisk.gate.turns import turns_of
from tests.gate.conftest import Gated, refused


def test_an_alias_that_cannot_be_written_leaves_no_entry_that_it_was(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    with gated.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON registered_model_aliases "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )

    with pytest.raises(MlflowException, match="disk full"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert gated.plain.get_registered_model("prod-a").aliases == {}
    assert [each.outcome for each in gated.entries()] == ["failed"]


def test_on_postgresql_an_alias_that_cannot_be_written_leaves_no_entry_either(
    gated_on_postgresql: Gated,
) -> None:
    """There the entry brings the ``COMMIT`` along: what comes after it is another transaction."""
    gated = gated_on_postgresql
    gated.version("prod-a", is_proven=True)
    with gated.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION 'disk full'; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER no_room BEFORE INSERT ON registered_model_aliases "
            "FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )

    with pytest.raises(MlflowException, match="disk full"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert gated.plain.get_registered_model("prod-a").aliases == {}
    assert [each.outcome for each in gated.entries()] == ["failed"]


def test_a_registry_that_writes_by_other_means_is_noticed(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.version("prod-a", is_proven=True)
    monkeypatch.setattr(SqlAlchemyStore, "set_registered_model_alias", lambda *_: None)

    with refused("the registry wrote by other means"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_a_registry_that_commits_twice_commits_the_entry_with_the_first(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.version("prod-a", is_proven=True)
    seen: list[tuple[dict[str, int], list[str]]] = []

    def twice(store: Any, name: str, alias: str, version: str) -> None:
        with store.ManagedSessionMaker(read_only=False) as session:
            session.merge(
                SqlRegisteredModelAlias(
                    workspace="default", name=name, alias=alias, version=int(version)
                )
            )
            session.commit()
            held = gated.plain.get_registered_model(name).aliases
            seen.append((dict(held), [each.outcome for each in gated.entries()]))

    monkeypatch.setattr(SqlAlchemyStore, "set_registered_model_alias", twice)

    gated.store.set_registered_model_alias("prod-a", "champion", "1")

    assert seen == [({"champion": 1}, ["promote"])]
    assert [each.outcome for each in gated.entries()] == ["promote"]


def test_reading_takes_no_entry_along(gated: Gated) -> None:
    gated.version("prod-a", is_proven=True)
    maker, keeper = gated.store.ManagedSessionMaker, gated.store.gatekeeper
    entry = keeper.admit("set_alias", "prod-a", "1", Target("alias", "champion"))

    with refused("by other means"), maker.carrying(entry, keeper.clock()), maker() as session:
        session.connection()

    assert gated.entries() == []


def test_an_entry_is_carried_by_the_thread_that_it_belongs_to(gated: Gated) -> None:
    """Another thread that writes meanwhile neither takes it nor waits for it."""
    gated.version("prod-a", is_proven=True)
    gated.plain.create_registered_model("dev-a")
    acting = SqlAlchemyStore.set_registered_model_alias
    between, go_on = threading.Event(), threading.Event()

    def slowly(store: Any, *args: Any) -> None:
        between.set()
        assert go_on.wait(20)
        acting(store, *args)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as other:
        patch.setattr(SqlAlchemyStore, "set_registered_model_alias", slowly)
        setting = other.submit(gated.store.set_registered_model_alias, "prod-a", "champion", "1")
        assert between.wait(20)
        gated.store.update_registered_model("dev-a", "written meanwhile")
        assert gated.entries() == []
        go_on.set()
        setting.result(20)

    assert [each.outcome for each in gated.entries()] == ["promote"]


def test_the_gate_reads_the_version_that_mlflow_reads(gated: Gated) -> None:
    made = gated.version("prod-a", is_proven=True)
    stored = gated.version("prod-a")
    with gated.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE model_versions SET storage_location = '/elsewhere' WHERE version = 2"
        )

    for version in (made, stored):
        name, number = version.name, str(version.version)
        read = gated.store.gatekeeper.registry.get_model_version(name, number)
        told = gated.plain.get_model_version(name, number)
        assert (read.name, read.source, read.tags) == (told.name, told.source, told.tags)
        uri = gated.plain.get_model_version_download_uri(name, number)
        assert read.artifact_location == uri
        assert gated.store.gatekeeper.registry.get_model_version_download_uri(name, number) == uri
    gated.plain.delete_model_version("prod-a", "1")
    with pytest.raises(MlflowException, match="not found"):
        gated.store.gatekeeper.registry.get_model_version("prod-a", "1")


def test_writers_of_a_file_take_turns_and_other_databases_queue_by_rows(tmp_path: Path) -> None:
    turn = turns_of(sa.make_url(f"sqlite:///{tmp_path}/a.db"))
    inside, most = 0, 0

    def write(_: int) -> None:
        nonlocal inside, most
        with turn():
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.002)
            inside -= 1

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(40)))
    assert most == 1
    for url in ("sqlite://", "sqlite:///:memory:", "postgresql+psycopg://localhost/x"):
        with turns_of(sa.make_url(url))():
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.rlrisk-lock"]


def test_where_the_system_has_no_such_lock_writers_meet_sqlites_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with turns_of(sa.make_url(f"sqlite:///{tmp_path}/a.db"))():
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["postgresql+psycopg://h/db", "sqlite://", "sqlite:///:memory:"])
def test_only_writers_of_a_sqlite_file_queue_by_a_lock_beside_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with turns_of(sa.make_url(url))():
        assert list(tmp_path.iterdir()) == []
    with turns_of(sa.make_url("sqlite:///here.db"))():
        assert [each.name for each in tmp_path.iterdir()] == ["here.db.rlrisk-lock"]
