"""Stands between MLflow and the service: records genuine deliveries, and loses them on demand."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class RecordingProxy:
    """Forwards every POST to ``target``.

    Attributes:
        target: Address of the service.
        loses: True: it answers 200 and forwards nothing, so that MLflow thinks all is well.
        deliveries: Headers and body of each delivery, and the status that was answered.
    """

    target: str
    url: str = ""
    loses: bool = False
    deliveries: list[tuple[dict[str, str], bytes, int]] = field(default_factory=list)

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(self.target + path, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextmanager
def recording_proxy(target: str) -> Iterator[RecordingProxy]:
    """Run a proxy on a free port of this machine."""
    proxy = RecordingProxy(target)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent = {name: value for name, value in self.headers.items() if name != "Host"}
            status, answer = (200, b"") if proxy.loses else proxy.forward(self.path, sent, body)
            proxy.deliveries.append((sent, body, status))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
