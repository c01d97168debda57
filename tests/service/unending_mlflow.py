"""A real MLflow in this process; any answer of it can come a byte at a time for ever."""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

DRIP_S = 0.02
Request = tuple[str, str]
"""Method and path."""


class OnceEach:
    """Lets the first answer of every kind come to no end.

    Not those to downloads: MLflow reads them in threads of its own, which nobody can end.
    """

    def __init__(self) -> None:
        self.seen: set[Request] = set()

    def __call__(self, request: Request) -> bool:
        method, path = request
        if "server-info" in path or (method == "GET" and "-artifacts/artifacts/" in path):
            return False
        is_new = request not in self.seen
        self.seen.add(request)
        return is_new


@dataclass
class UnendingMlflow:
    """Does what it is asked; only the answer may not end.

    Attributes:
        app: MLflow's own application.
        url: Where it listens.
        drips: Tells of a request whether its answer never ends; ``None``: of none.
    """

    app: Any
    url: str = ""
    drips: Callable[[Request], bool] | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.drips is None or not self.drips(request):
            return self.app(environ, start_response)  # type: ignore[no-any-return]
        for _ in self.app(environ, lambda *_: None):
            pass
        start_response("200 OK", [("Content-Length", "1000000")])
        return self._bytes()

    def _bytes(self) -> Iterator[bytes]:
        is_over = self._is_over
        while not is_over.wait(DRIP_S):
            yield b" "

    def let_go(self) -> None:
        """End what has not ended so far."""
        self._is_over.set()
        self._is_over = threading.Event()


@contextmanager
def unending_mlflow(store: str, artifacts: Path) -> Iterator[UnendingMlflow]:
    """Serve ``store`` with its artifacts by proxy; what MLflow keeps for a process is put back."""
    from mlflow.server import app, constants, handlers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a request would import it
        import mlflow.server.auth  # noqa: F401

    unending = UnendingMlflow(app)
    server = make_server("127.0.0.1", 0, unending, threaded=True)
    unending.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            constants.BACKEND_STORE_URI_ENV_VAR: store,
            constants.REGISTRY_STORE_URI_ENV_VAR: store,
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts.as_uri(),
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        }.items():
            patch.setenv(name, value)
        for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
            patch.setattr(handlers, name, None)
        handlers.initialize_backend_stores(store, store, "mlflow-artifacts:/")  # sets addresses
        thread.start()
        try:
            yield unending
        finally:
            unending.let_go()
            server.shutdown()
            server.server_close()
            thread.join()
