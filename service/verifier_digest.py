"""The digest of a configured verifier, computed where no key is: loading one runs its code."""

import subprocess
import sys
from functools import lru_cache

from mlflow_rlrisk import ConfigError
from mlflow_rlrisk.errors import VerifierError
from mlflow_rlrisk.verifiers.loading import source_digest
from mlflow_rlrisk.verifiers.specs import parse_spec
from service.sampling_process import sampling_environment
from service.settings import ServiceSettings

LIMIT_S = 120.0


def verifier_digest(spec: str, settings: ServiceSettings) -> str:
    """The digest that a report names for this verifier.

    Raises:
        ConfigError: It cannot be loaded.
    """
    try:
        stamp = source_digest(parse_spec(spec))  # of files alone: nothing is run here
    except VerifierError:
        stamp = None  # loading it says why
    return _digest(spec, stamp, tuple(sampling_environment(settings).items()))


@lru_cache(maxsize=64)
def _digest(spec: str, stamp: str | None, environment: tuple[tuple[str, str], ...]) -> str:
    command = [sys.executable, "-m", "service.verifier_digest", spec]
    done = subprocess.run(
        command,
        env=dict(environment),
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
