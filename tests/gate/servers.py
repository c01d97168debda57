"""Real ``mlflow server`` processes with the gate: two workers, two databases, basic-auth."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from tests.gate.world import World
from tests.mlflow_server import migrated_database, mlflow_server
from tests.postgresql import postgresql

ADMIN = ("admin", "correct-horse-battery")
RULES = [
    {"name": "guarded", "models": ["prod-*"], "aliases": ["champion"], "stages": ["Production"]},
    {"name": "vault", "models": ["vault-*"], "every_version": True},
]


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, its gate's files, and how to talk to it."""

    url: str
    folder: Path
    world: World
    database: str
    user: tuple[str, str] | None

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def send(
        self, method: str, path: str, body: Any, *, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send a request as it is; a ``str`` body is sent unencoded."""
        url = f"{self.url}{path}"
        data = None
        if method == "GET":
            url += "?" + urllib.parse.urlencode(body, doseq=True)
        else:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
        request = urllib.request.Request(url, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        if self.user is not None:
            token = b64encode(":".join(self.user).encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def gated_server(
    folder: Path, *, database: str = "sqlite", with_auth: bool = False, options: Any = ()
) -> Iterator[Server]:
    """Start a server with the gate in front of its registry."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World.make(folder / "gate", RULES)
    variables = {"RLRISK_POLICY": str(world.policy_path)}
    given = [*options]
    if with_auth:
        config = folder / "auth.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = EDIT\n"
            f"database_uri = sqlite:///{folder}/auth.db\n"
            "auth_cache_ttl_seconds = 600\n"  # else each request hashes the password anew
            f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        variables |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 32,
        }
        given += ["--app-name", "basic-auth"]
    with ExitStack() as stack:
        if database == "sqlite":
            uri = f"sqlite:///{migrated_database(folder)}"
        else:
            uri = stack.enter_context(postgresql())
        given += ["--registry-store-uri", f"rlrisk+{uri}"]
        if with_auth:
            stack.enter_context(_logged_in())
        url = stack.enter_context(
            mlflow_server(folder, store_uri=uri, options=given, environment=variables, workers=2)
        )
        yield Server(
            url=url,
            folder=folder,
            world=world,
            database=uri,
            user=ADMIN if with_auth else None,
        )


@contextmanager
def _logged_in() -> Iterator[None]:
    names = dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ADMIN, strict=True))
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
