"""Processes that start together on databases that nobody has used yet."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.running_service import write_settings

pytestmark = pytest.mark.mlflow

OPEN = """
import sys
from service.settings import load_settings
from service.registry.upstream import point_mlflow
client = point_mlflow(load_settings(sys.argv[1]))
assert client.search_experiments() and not client.search_registered_models()
"""


@pytest.mark.parametrize("registry", ["mlflow", "registry"])
def test_processes_that_begin_with_an_empty_mlflow_database_at_once_all_open_it(
    tmp_path: Path, registry: str
) -> None:
    addresses = (f"sqlite:///{tmp_path}/{name}.db" for name in ("mlflow", registry))
    config = write_settings(tmp_path, next(addresses), registry_uri=next(addresses))
    command = [sys.executable, "-c", OPEN, str(config)]

    begun = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    told = [each.communicate(timeout=240)[1] for each in begun]
    assert [each.returncode for each in begun] == [0, 0], told
