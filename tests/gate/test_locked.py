"""Who else may write between the comparison with what was judged and the commit."""

from typing import Any

import pytest
import sqlalchemy as sa

from mlflow_rlrisk.gate.judged_state import Judged, state_of
from tests.gate.conftest import Gated

WRITES = {
    "the model": "UPDATE registered_models SET last_updated_time = 1 WHERE name = 'prod-a'",
    "an alias": (
        "INSERT INTO registered_model_aliases (workspace, name, alias, version) "
        "VALUES ('default', 'prod-a', 'x', 1)"
    ),
    "a stage": "UPDATE model_versions SET current_stage = 'Staging' WHERE name = 'prod-a'",
    "a tag": (
        "INSERT INTO model_version_tags (workspace, name, version, key, value) "
        "VALUES ('default', 'prod-a', 1, 'owner', 'x')"
    ),
    "another model": "UPDATE registered_models SET last_updated_time = 1 WHERE name = 'dev-a'",
}


def waiting(gated: Gated, version: str | None, patience: str) -> set[str]:
    """What another session cannot write while a decision about ``version`` is being carried out."""
    gated.version("prod-a")
    gated.version("dev-a")
    about: dict[str, Any] = {"workspace": "default", "name": "prod-a", "version": version}
    with gated.plain.engine.connect() as connection:
        state = state_of(connection, **about)
    found = set()
    with gated.plain.ManagedSessionMaker(read_only=False) as session:
        Judged(action="set_tag", state=state, **about).check(session)
        for what, write in WRITES.items():
            with gated.store.engine.connect() as another:
                another.exec_driver_sql(patience)
                try:
                    another.exec_driver_sql(write)
                except sa.exc.OperationalError:
                    found.add(what)
                another.rollback()
                another.exec_driver_sql(patience)
                assert state_of(another, **about) == state  # who only decides waits for nobody
    return found


@pytest.mark.parametrize("version", ["1", None])
def test_in_a_file_nobody_writes_meanwhile(gated: Gated, version: str | None) -> None:
    assert waiting(gated, version, "PRAGMA busy_timeout = 50") == set(WRITES)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1", {"the model"}),  # which every writer of a verdict tag locks
        (None, {"the model", "an alias", "a stage", "a tag"}),
    ],
)
def test_on_postgresql_nobody_writes_meanwhile_what_was_judged(
    gated_on_postgresql: Gated, version: str | None, expected: set[str]
) -> None:
    assert waiting(gated_on_postgresql, version, "SET LOCAL lock_timeout = '200ms'") == expected
