"""Loads all modules with no network and prints what they compute; run in a process of its own."""

import json
import socket
import sys
from typing import Any


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise OSError("no sockets here")


def main() -> None:
    cases = json.load(sys.stdin)
    socket.socket.connect = socket.socket.connect_ex = refuse  # type: ignore[assignment, method-assign]
    socket.getaddrinfo = refuse
    import evaluate

    from mlflow_rlrisk.evaluate_modules import evaluate_path

    found = []
    for name, arguments in cases:
        module = evaluate.load(evaluate_path(name))
        try:
            found.append(module.compute(**arguments))
        except ValueError as error:
            found.append({"error": type(error).__name__})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
