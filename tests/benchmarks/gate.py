"""What the promotion gate adds to setting an alias: latency at 8 clients, promotions a second.

Two real servers (two workers, a database each), one with the gate and one without, are asked in
turn over HTTP for the same: move a protected alias to the other of two proven versions. (To set it
where it is already costs a server without the gate no write at all.) Run by hand:
``python -m tests.benchmarks.gate --database postgresql``.
"""

import argparse
import json
import os
import sqlite3
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import mlflow
import numpy as np

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from tests.gate.servers import gated_server, postgresql
from tests.gate.world import entries_of, logged_source
from tests.mlflow_server import migrated_database, mlflow_server


def ask(url: str, model: str, version: int) -> float:
    """Set the alias once; returns seconds."""
    body = json.dumps({"name": model, "alias": "champion", "version": str(version)}).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/registered-models/alias",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return time.perf_counter() - started


def prepare(url: str, folder: Path, num_models: int, sign: object) -> None:
    """Make two attested versions for each client, and set each alias once."""
    client = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)
    source, run_id = logged_source(client, folder)
    files = entries_of(folder)
    for number in range(num_models):
        client.create_registered_model(f"prod-{number}")
        for _ in range(2):
            version = client.create_model_version(f"prod-{number}", source, run_id)
            envelope = sign(version, files)  # type: ignore[operator]
            client.set_model_version_tag(version.name, version.version, ATTESTATION_TAG, envelope)
        ask(url, version.name, 2)


def measure(url: str, num_clients: int, num_requests: int) -> tuple[list[float], float]:
    """Latencies in seconds, and requests a second."""

    def one_client(number: int) -> list[float]:
        return [ask(url, f"prod-{number}", 1 + turn % 2) for turn in range(num_requests)]

    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as clients:
        found = [each for times in clients.map(one_client, range(num_clients)) for each in times]
    return found, len(found) / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=25, help="Of each client and round.")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--journal", default="delete", help="Journal mode of SQLite.")
    given = parser.parse_args()
    times: dict[str, list[float]] = {"without": [], "with": []}
    rates: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        with ExitStack() as stack:
            gated = stack.enter_context(gated_server(root / "gated", database=given.database))
            plain_folder = root / "plain"
            plain_folder.mkdir()
            if given.database == "sqlite":
                uri = f"sqlite:///{migrated_database(plain_folder)}"
                for each in (uri, gated.database):
                    with closing(sqlite3.connect(each.removeprefix("sqlite:///"))) as connection:
                        connection.execute(f"PRAGMA journal_mode = {given.journal}")
            else:
                uri = stack.enter_context(postgresql(plain_folder / "pg"))
            plain = stack.enter_context(mlflow_server(plain_folder, store_uri=uri, workers=2))
            servers = {"without": plain, "with": gated.url}
            for name, url in servers.items():
                prepare(url, root / f"c-{name}", given.clients, gated.world.sign)
            for _ in range(given.rounds):
                for name, url in servers.items():
                    found, rate = measure(url, given.clients, given.requests)
                    times[name] += found
                    rates[name].append(rate)
    where = given.database + (f" ({given.journal})" if given.database == "sqlite" else "")
    print(f"set alias, {where}, {given.clients} clients, load average {os.getloadavg()[0]:.1f}")
    print(f"{'gate':<8} {'p50 ms':>8} {'p99 ms':>8} {'promotions/s':>13} {'requests':>9}")
    for name in times:
        half, most = np.percentile(np.array(times[name]) * 1000, [50, 99])
        rate = float(np.median(rates[name]))
        print(f"{name:<8} {half:>8.1f} {most:>8.1f} {rate:>13.0f} {len(times[name]):>9}")
    added = [np.percentile(np.array(times[n]) * 1000, [50, 99]) for n in ("without", "with")]
    print(f"added    {added[1][0] - added[0][0]:>8.1f} {added[1][1] - added[0][1]:>8.1f}")


if __name__ == "__main__":
    main()
