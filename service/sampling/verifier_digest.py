"""The digest of a configured verifier, computed where no key is: loading one runs its code."""

import subprocess
import sys

from mlflow_rlrisk import ConfigError
from service.sampling.process import sampling_environment
from service.settings import ServiceSettings

LIMIT_S = 120.0


def verifier_digest(spec: str, settings: ServiceSettings) -> str:
    """The digest that a report names for this verifier.

    Raises:
        ConfigError: It cannot be loaded.
    """
    command = [sys.executable, "-P", "-m", "service.sampling.verifier_digest", spec]
    done = subprocess.run(
        command,
        env=sampling_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError("verifiers", spec, f"it cannot be loaded: {done.stderr[-500:]}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    from mlflow_rlrisk.verifiers import load_verifier

    print(load_verifier(sys.argv[1]).digest)
