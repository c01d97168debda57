"""Where the service listens: whether it may and can, before any of its processes is started."""

import errno
import logging
import socket
import time

from mlflow_rlrisk import ConfigError
from service.deps import LOOPBACK
from service.settings import ServiceSettings
from service.tables.opening import open_database
from service.tables.tokens import TokenTable

logger = logging.getLogger(__name__)

PATIENCE_S = 35.0
"""A service that was killed may hold its port until its last request is answered, or cut off."""
PAUSE_S = 0.2


def check_address(settings: ServiceSettings, host: str) -> None:
    """Refuse to be reachable from elsewhere while everybody is let in.

    Raises:
        ConfigError: ``host`` is not loopback and there is no valid token.
    """
    if host in (*LOOPBACK, "::1"):
        return
    engine = open_database(settings.database)
    try:
        if not TokenTable(engine).has_valid(time.time()):
            need = "beyond loopback a token is needed; make one: rlrisk tokens create"
            raise ConfigError("host", host, need)
    finally:
        engine.dispose()


def check_port(host: str, port: int) -> None:
    """Refuse a port that another program has, or that this user may not take.

    Raises:
        ConfigError: Nothing can listen there.
    """
    began = time.monotonic()
    is_told = False
    while (fault := _fault_of(host, port)) is not None:
        if fault.errno != errno.EADDRINUSE or time.monotonic() > began + PATIENCE_S:
            need = f"no service can listen there on {host} ({fault.strerror}); --port names another"
            raise ConfigError("port", port, need)
        if not is_told:
            logger.warning("port %d on %s is taken, %g s for it to be free", port, host, PATIENCE_S)
            is_told = True
        time.sleep(PAUSE_S)


def _fault_of(host: str, port: int) -> OSError | None:
    bare = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
        try:
            probe.bind((bare, port))
        except OSError as error:
            return error
    return None
