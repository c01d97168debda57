"""Run the whole corpus on one tier and print what came of it as JSON; a process of its own.

``python -m tests.verifiers.code.run_corpus TIER``
"""

import json
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlflow_rlrisk.verifiers.code import CodeJudge, Limits
from tests.verifiers.code.corpus_reader import TASK, hostile, programs

SECRET_VARIABLE = "RLRISK_CORPUS_SECRET"
HOSTILE_LIMITS = Limits(timeout_s=0.6)
BENIGN_LIMITS = Limits(timeout_s=30.0)


def main(tier: str) -> dict[str, Any]:
    os.environ[SECRET_VARIABLE] = "secret"
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        local.bind(f"\0rlrisk-corpus-{os.getpid()}")
        local.listen()
        secret = Path(folder) / "secret"
        secret.write_text("an expected value")
        secret.chmod(0o644)
        Path(folder).chmod(0o755)
        replaced = {
            "@SECRET@": str(secret),
            "@PORT@": str(port),
            "@LOCAL@": f"rlrisk-corpus-{os.getpid()}",
            "@VARIABLE@": SECRET_VARIABLE,
        }
        told = {
            "hostile": _grade(tier, dict(hostile()), HOSTILE_LIMITS, replaced, lanes=8),
            "benign": _grade(tier, programs("benign"), BENIGN_LIMITS, replaced, lanes=2),
        }
        reached = []
        for listener in (tcp, udp, local):
            listener.setblocking(False)
            try:
                listener.recv(16) if listener is udp else listener.accept()
            except BlockingIOError:
                continue
            reached.append(str(listener))
        told["reached"] = reached
        told["changed"] = [
            str(path)
            for path in Path(folder).iterdir()
            if path != secret or path.read_text() != "an expected value"
        ]
        told["mode"] = secret.stat().st_mode & 0o777
    return told


def _grade(
    tier: str, sources: dict[str, str], limits: Limits, replaced: dict[str, str], lanes: int
) -> dict[str, Any]:
    def judged(source: str) -> dict[str, object]:
        for mark, value in replaced.items():
            source = source.replace(mark, value)
        return judge.grade(source, TASK).to_dict()

    with CodeJudge(tier, limits=limits, lanes=lanes) as judge, ThreadPoolExecutor(lanes) as pool:
        return dict(zip(sources, pool.map(judged, sources.values()), strict=True))


if __name__ == "__main__":
    print(json.dumps({"uid": os.getuid(), **main(sys.argv[1])}))
