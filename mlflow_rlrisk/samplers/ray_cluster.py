"""Reach a Ray cluster, or start one here, and refuse before sampling what would hang in it.

Ray waits for ever for resources that never come, and actors that hold every CPU starve the tasks
that feed them. Both are found out here, from what the nodes say they have.
"""

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mlflow_rlrisk.errors import ConfigError, MissingDependencyError, SamplerError
from mlflow_rlrisk.plurals import counted

CPUS_FOR_TASKS = 1
"""CPUs that the actors must leave to Ray Data's own tasks."""

RELEASE_S = 10.0
"""Seconds that actors which have just ended may take to give their resources back."""

CONNECT_S = 10.0
"""Seconds in which a cluster must answer; Ray itself tries a dead address for minutes."""

OBJECT_STORE_BYTES = 2**29
"""Shared memory of a cluster that we start: rollouts are small and leave it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the workers claim.

    Attributes:
        num_workers: Actors that sample.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each.
        takes_gpus: Whether each runs on the first GPU that it sees, claimed or not.
    """

    num_workers: int
    num_cpus: float
    num_gpus: float
    takes_gpus: bool = False


def require_ray() -> Any:
    """The library, which types too little of itself to be checked.

    Raises:
        MissingDependencyError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # both are read when Ray is imported
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("sampling on a Ray cluster", "ray") from error


def join_cluster(address: str, demand: Demand) -> bool:
    """Connect to a cluster that can carry the demand.

    A cluster that this process is connected to already is taken as it is. Else ``address`` or
    ``RAY_ADDRESS`` names one; with neither, one is started here, with enough CPUs in its books.

    Args:
        address: Of the cluster; empty for none.
        demand: What the workers claim.

    Returns:
        True where this call connected, so that it is ours to disconnect.

    Raises:
        SamplerError: The cluster cannot be reached.
        ConfigError: It does not have what the workers claim.
        MissingDependencyError: The ``ray`` extra is not installed.
    """
    ray = require_ray()

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(address or os.environ.get("RAY_ADDRESS", ""), demand)
    try:
        check_room(demand, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        deadline = time.monotonic() + RELEASE_S
        while True:
            try:
                check_free(demand, ray.available_resources())
                break
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.25)
    except ConfigError:
        if is_ours:
            ray.shutdown()
        raise
    return is_ours


def _connect(address: str, demand: Demand) -> None:
    ray = require_ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        claimed = demand.num_workers * demand.num_cpus
        quiet |= {
            "num_cpus": max(os.cpu_count() or 1, int(-(-claimed // 1)) + CPUS_FOR_TASKS),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        _require_listener(address)
        ray.init(address=address or "local", **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        raise SamplerError(f"{where} cannot be reached: {error}") from error


def _require_listener(address: str) -> None:
    """Raise `OSError` where nobody listens at ``host:port``; of other addresses, Ray will say."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def check_room(demand: Demand, nodes: Iterable[Mapping[str, float]]) -> None:
    """Refuse workers that fit on no nodes, however long one waits.

    Args:
        demand: What the workers claim.
        nodes: Resources of each living node.

    Raises:
        ConfigError: There is no room, none would be left to the tasks that feed the workers, or
            they would crowd on one GPU.
    """
    nodes = list(nodes)
    is_shared = demand.takes_gpus and demand.num_gpus == 0 and demand.num_workers > 1
    if is_shared and any(node.get("GPU", 0) > 0 for node in nodes):
        # Ray hides no GPU from workers that claim none; older versions hid all of them.
        need = "the workers of a node would share its first GPU: claim 1 each, or set device cpu"
        raise ConfigError("num_gpus_per_worker", 0, need)
    has = "; ".join(", ".join(_amounts(node.get("CPU", 0), node.get("GPU", 0))) for node in nodes)
    room = sum(_room(demand, node) for node in nodes)
    if room < demand.num_workers:
        each = " and ".join(_amounts(demand.num_cpus, demand.num_gpus))
        raise ConfigError(
            "num_workers",
            demand.num_workers,
            f"the cluster has room for {counted(room, 'worker')} of {each} "
            f"(nodes: {has or 'none'})",
        )
    check_free(
        demand, {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    )


def check_free(demand: Demand, free: Mapping[str, float]) -> None:
    """Refuse workers that would claim more than what is free, or every CPU of it.

    Args:
        demand: What the workers claim.
        free: CPUs and GPUs of the whole cluster.

    Raises:
        ConfigError: Ray would wait for ever.
    """
    for name, kind, wanted in (
        ("num_cpus_per_worker", "CPU", demand.num_cpus),
        ("num_gpus_per_worker", "GPU", demand.num_gpus),
    ):
        claimed, there = demand.num_workers * wanted, free.get(kind, 0.0)
        spare = CPUS_FOR_TASKS if kind == "CPU" else 0
        if claimed > 0 and claimed + spare > there:
            most = counted(max(there - spare, 0), kind, spec="g")
            need = f"at most {most} can be claimed of {counted(there, 'free one', spec='g')}"
            hint = ", one must be left to the tasks that feed the workers" if spare else ""
            claim = counted(demand.num_workers, "worker claims", "workers claim")
            raise ConfigError(name, wanted, f"{claim} {claimed:g}; {need}{hint}")


def _amounts(num_cpus: float, num_gpus: float) -> tuple[str, str]:
    return counted(num_cpus, "CPU", spec="g"), counted(num_gpus, "GPU", spec="g")


def _room(demand: Demand, node: Mapping[str, float]) -> int:
    """Workers that fit on one node."""
    claims = [
        node.get(kind, 0.0) // wanted
        for kind, wanted in (("CPU", demand.num_cpus), ("GPU", demand.num_gpus))
        if wanted > 0
    ]
    return int(min(claims, default=demand.num_workers))
