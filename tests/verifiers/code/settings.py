"""Where tests of the judge run: which tier, which user, in a container or not."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

NOBODY = 65534
ROOT = Path(__file__).parents[3]


def need_namespaces() -> None:
    """Skip where the kernel refuses user namespaces; fail where bubblewrap is merely forgotten."""
    if shutil.which("bwrap") is None:
        message = "tier A needs bubblewrap: apt-get install bubblewrap"
        if os.geteuid() == 0 and shutil.which("apt-get"):
            pytest.fail(f"{message} (make test does it)")
        pytest.skip(message)
    command = ["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("tier A: this machine refuses user namespaces")


def command_of(user: str, *, in_container: bool) -> tuple[list[str], dict[str, str]]:
    """A Python of ``user`` that can import the tests, as command and environment."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    if (user == "root") != (os.geteuid() == 0) and user == "root":
        pytest.skip("not run as root")
    prefix, python = [], sys.executable
    if user == "nobody" and os.geteuid() == 0:
        prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        found = python_of_nobody()
        if found is None:
            pytest.skip("no Python of this version that an unprivileged user may run")
        python = found
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    wrapper = [python, "-m", "tests.verifiers.code.container"] if in_container else []
    return [*prefix, *wrapper, python], environment


@cache
def python_of_nobody() -> str | None:
    """An interpreter of this version outside the home of root."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    probe = (
        "import os, sys; assert os.access(os.path.realpath(sys.executable), os.X_OK) and "
        f"sys.version.startswith('{version}.')"
    )
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        command = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", f"--regid={NOBODY}"]
        try:
            done = subprocess.run([*command, python, "-c", probe], capture_output=True, check=False)
        except OSError:
            return None
        if done.returncode == 0:
            return python
    return None
