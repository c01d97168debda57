"""What the promotion gate adds to setting an alias: latency at 8 clients, CPU time, promotions/s.

Two real servers (two workers, a database each), one with the gate and one without, are asked in
turn over HTTP for the same: move a protected alias to the other of two proven versions. (To set it
where it is already costs a server without the gate no write at all.) Rounds are short and change
sides, so that both meet the same load from elsewhere. Run by hand:
``python -m tests.benchmarks.gate --database postgresql [--json FILE]``.
"""

import argparse
import json
import os
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from tests.gate.servers import gated_server
from tests.gate.world import entries_of, logged_source
from tests.mlflow_server import migrated_database, mlflow_server
from tests.postgresql import postgresql


@dataclass
class Side:
    """One server, and what was measured of it: a list of latencies in ms for each round."""

    url: str
    processes: list[psutil.Process]
    rounds: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """CPU time of server and database, a request, for each round."""

    def cpu_s(self) -> float:
        """CPU time that workers and database processes have used so far."""
        used = 0.0
        for top in self.processes:
            for each in (top, *top.children(recursive=True)):
                used += each.cpu_times().user + each.cpu_times().system
        return used

    def measure(self, num_clients: int, num_requests: int) -> None:
        """One round: every client asks one after the other, and waits for each answer."""

        def one_client(number: int) -> list[float]:
            return [ask(self.url, f"prod-{number}", 1 + turn % 2) for turn in range(num_requests)]

        before, started = self.cpu_s(), time.perf_counter()
        with ThreadPoolExecutor(num_clients) as clients:
            found = [t for times in clients.map(one_client, range(num_clients)) for t in times]
        self.rates.append(len(found) / (time.perf_counter() - started))
        self.cpu_ms.append(1000 * (self.cpu_s() - before) / len(found))
        self.rounds.append(found)

    def percentile(self, share: float, rounds: Sequence[int] | None = None) -> float:
        """Of all latencies, or of those of the rounds with these numbers."""
        chosen = self.rounds if rounds is None else [self.rounds[each] for each in rounds]
        return float(np.percentile(np.concatenate(chosen), share))

    def row(self) -> dict[str, float]:
        """What is printed of it."""
        return {
            "p50_ms": self.percentile(50),
            "p99_ms": self.percentile(99),
            "cpu_ms_a_request": float(np.mean(self.cpu_ms)),
            "promotions_a_second": float(np.median(self.rates)),
            "requests": sum(map(len, self.rounds)),
        }


def ask(url: str, model: str, version: int) -> float:
    """Set the alias once; returns milliseconds."""
    body = json.dumps({"name": model, "alias": "champion", "version": str(version)}).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/registered-models/alias",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - started)


def prepare(url: str, folder: Path, num_models: int, sign: Any) -> None:
    """Make two attested versions for each client, and set each alias once."""
    client = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)
    source, run_id = logged_source(client, folder)
    files = entries_of(folder)
    for number in range(num_models):
        client.create_registered_model(f"prod-{number}")
        for _ in range(2):
            version = client.create_model_version(f"prod-{number}", source, run_id)
            envelope = sign(version, files)
            client.set_model_version_tag(version.name, version.version, ATTESTATION_TAG, envelope)
        ask(url, version.name, 2)


def started_by(before: set[int], database: Path) -> list[psutil.Process]:
    """Servers that are children of this process since ``before``, and their PostgreSQL."""
    found = [each for each in psutil.Process().children() if each.pid not in before]
    postmaster = database / "postmaster.pid"
    if postmaster.exists():
        found.append(psutil.Process(int(postmaster.read_text().split()[0])))
    return found


def sides(stack: ExitStack, root: Path, given: argparse.Namespace) -> dict[str, Side]:
    """Start both servers."""
    before = {each.pid for each in psutil.Process().children()}
    gated = stack.enter_context(gated_server(root / "gated", database=given.database))
    processes = {"with": started_by(before, root / "gated" / "pg")}
    before |= {each.pid for each in processes["with"]}
    folder = root / "plain"
    folder.mkdir()
    if given.database == "sqlite":
        uri = f"sqlite:///{migrated_database(folder)}"
        for each in (uri, gated.database):
            with closing(sqlite3.connect(each.removeprefix("sqlite:///"))) as connection:
                connection.execute(f"PRAGMA journal_mode = {given.journal}")
    else:
        uri = stack.enter_context(postgresql())
    plain = stack.enter_context(mlflow_server(folder, store_uri=uri, workers=2))
    processes["without"] = started_by(before, folder / "pg")
    urls = {"without": plain, "with": gated.url}
    for name, url in urls.items():
        prepare(url, root / f"c-{name}", given.clients, gated.world.sign)
    return {name: Side(url, processes[name]) for name, url in urls.items()}


def added(plain: Side, gated: Side) -> dict[str, Any]:
    """Differences, that of the 99th percentile with its interval over rounds."""
    rng, number = np.random.default_rng(0), len(plain.rounds)
    draws = [rng.integers(0, number, number) for _ in range(1000)]
    differences = [gated.percentile(99, d) - plain.percentile(99, d) for d in draws]
    low, high = np.percentile(differences, [2.5, 97.5])
    one, other = plain.row(), gated.row()
    return {
        **{name: other[name] - one[name] for name in ("p50_ms", "p99_ms", "cpu_ms_a_request")},
        "p99_ms_ci95": [float(low), float(high)],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=8, help="Of each client and round.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--journal", default="delete", help="Journal mode of SQLite.")
    parser.add_argument("--json", type=Path, help="Also write the result there.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        both = sides(stack, Path(temporary), given)
        for turn in range(given.rounds):
            for name in ("without", "with") if turn % 2 else ("with", "without"):
                both[name].measure(given.clients, given.requests)
    where = given.database + (f" ({given.journal})" if given.database == "sqlite" else "")
    title = f"set alias, {where}, {given.clients} clients, load average {os.getloadavg()[0]:.1f}"
    rows = {name: side.row() for name, side in both.items()}
    more = added(both["without"], both["with"])
    print(f"{title}\n{'gate':<8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8} {'a second':>9}")
    for name, row in [*rows.items(), ("added", more)]:
        cells = [row["p50_ms"], row["p99_ms"], row["cpu_ms_a_request"]]
        rate = f"{row['promotions_a_second']:>9.0f}" if name != "added" else ""
        print(f"{name:<8} " + " ".join(f"{cell:>8.1f}" for cell in cells) + f" {rate}")
    low, high = more["p99_ms_ci95"]
    print(f"added p99: 95 % interval over rounds {low:.1f} to {high:.1f} ms")
    if given.json:
        given.json.write_text(json.dumps({"title": title, **rows, "added": more}, indent=1) + "\n")


if __name__ == "__main__":
    main()
