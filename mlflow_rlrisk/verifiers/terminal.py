"""Leaves a session's terminal without leaving the session.

Foreign code must not read from the terminal of who started it, nor type into it. A session of its
own would keep it from that too, but Linux shares the processors out by session first and counts
niceness only within one (``man 7 sched``, autogroup): such a process would take as much as the
whole program that waits for it, however nice it is, and would be alone against other sessions.
"""

import contextlib
import fcntl
import os
import termios


def leave_terminal() -> None:
    """Give up the controlling terminal, for this process and what it starts."""
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)
