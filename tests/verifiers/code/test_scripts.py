"""Scripts end in the sandbox as they end in an interpreter, which is the oracle here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_rlrisk.verifiers.code import CodeJudge, Judgement, Limits, read_task
from tests.verifiers.code.settings import need_namespaces

SCRIPTS = {
    "leaves by exit": "print(input()); exit()",
    "leaves by quit": "print(input()); quit(0)",
    "leaves by exit with a status": "print(input()); exit(3)",
    "leaves by exit with a message": "print(input()); exit('no')",
    "never joins its thread": (
        "import threading, time\n"
        "def main():\n    time.sleep(0.2); print(input())\n"
        "threading.Thread(target=main).start()"
    ),
    "leaves a daemon behind": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(60), print(1)), daemon=True).start()\n"
        "print(input())"
    ),
    "leaves work to a pool": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "ThreadPoolExecutor(2).submit(lambda: print(input()))"
    ),
    "writes all at its exit": (
        "import atexit, io, sys\n"
        "sys.stdout = io.StringIO()\n"
        "@atexit.register\n"
        "def write(): sys.__stdout__.write(sys.stdout.getvalue())\n"
        "print(input())"
    ),
    "fails in its exit handler": "import atexit\natexit.register(lambda: 1 / 0)\nprint(input())",
    "wraps its output anew": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(input())"
    ),
    "brings classes for faster input and output": (
        "import os, sys\n"
        "from io import BytesIO, IOBase\n"
        "class FastIO(IOBase):\n"
        "    def __init__(self, file):\n"
        "        self.number, self.buffer = file.fileno(), BytesIO()\n"
        "        self.write = self.buffer.write\n"
        "    def readline(self):\n"
        "        return os.read(self.number, 8192)\n"
        "    def flush(self):\n"
        "        os.write(self.number, self.buffer.getvalue())\n"
        "        self.buffer.truncate(0), self.buffer.seek(0)\n"
        "class Wrapper(IOBase):\n"
        "    def __init__(self, file):\n"
        "        self.buffer = FastIO(file)\n"
        "        self.flush = self.buffer.flush\n"
        "        self.write = lambda text: self.buffer.write(text.encode())\n"
        "        self.readline = lambda: self.buffer.readline().decode()\n"
        "sys.stdin, sys.stdout = Wrapper(sys.stdin), Wrapper(sys.stdout)\n"
        "print(sys.stdin.readline())"
    ),
    "closes its output": "import sys\nprint(input()); sys.stdout.close()",
    "leaves a file of its own open": "out = open(1, 'w', closefd=False)\nout.write(input())",
    "has an object with last words": (
        "class Last:\n    def __del__(self): print('bye')\nlast = Last()\nprint(input())"
    ),
    "looks into its own module": (
        "import __main__, pickle\n"
        "class Own: pass\n"
        "pickle.loads(pickle.dumps(Own()))\n"
        "print(input(), __main__.Own is Own)"
    ),
    "has only what it imports": "print(input()); os.getcwd()",
    "raises behind its output": "print(input()); raise ValueError",
    "begins with the mark of a file": "\ufeffprint(input())",
}


def run_and_judge(
    judge: CodeJudge, folder: Path, script: str
) -> tuple["subprocess.CompletedProcess[str]", Judgement]:
    """What an interpreter makes of a script, and its grade for writing just that."""
    file = folder / "script.py"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, file], input="42", capture_output=True, text=True)
    return done, judge.grade(script, read_task({"inputs": ["42"], "outputs": [done.stdout]}, None))


@pytest.fixture(scope="module", params=["A", "B"])
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    if request.param == "A":
        need_namespaces()
    with CodeJudge(request.param, limits=Limits(timeout_s=20.0), lanes=1) as opened:
        yield opened


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_graded_by_what_an_interpreter_writes_of_it(
    judge: CodeJudge, tmp_path: Path, name: str
) -> None:
    # Honest scripts were graded 0: `exit` was unknown, threads and exit handlers were cut off.
    done, judgement = run_and_judge(judge, tmp_path, SCRIPTS[name])

    assert "42" in done.stdout
    assert (judgement.grade == "pass") is (done.returncode == 0), judgement.detail
