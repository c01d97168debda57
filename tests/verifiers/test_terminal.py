"""A verifier's process stays in the session of who started it, and has nothing of its terminal."""

import json
import os
import pty
import subprocess
import sys

PROBE = """
import json, os
from mlflow_rlrisk.verifiers.terminal import leave_terminal


def has_terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


before, session = has_terminal(), os.getsid(0)
leave_terminal()
leave_terminal()  # there is none any more
grandchild = os.fork()
if not grandchild:
    os._exit(has_terminal())
_, status = os.waitpid(grandchild, 0)
print(json.dumps([before, has_terminal(), bool(status), os.getsid(0) == session, session]))
"""
AT_A_TERMINAL = """
import os, subprocess, sys
done = subprocess.run(
    [sys.executable, "-c", sys.argv[1]], capture_output=True, text=True, process_group=0
)
os.write(int(sys.argv[2]), (done.stdout or done.stderr).encode())
print(os.getpid())
"""


def test_a_process_leaves_the_terminal_of_its_session_and_stays_in_the_session() -> None:
    master, terminal = pty.openpty()
    heard, said = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, PROBE, str(said)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        pass_fds=[said],
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it becomes its terminal
    )
    os.close(said)
    leader = int(process.communicate()[0])
    with os.fdopen(heard) as stream:
        before, after, of_a_child, is_same, session = json.loads(stream.read())
    for each in (master, terminal):
        os.close(each)

    assert process.returncode == 0
    assert before  # else nothing was left
    assert not after
    assert not of_a_child
    assert is_same
    assert session == leader
