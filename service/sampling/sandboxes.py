"""Whether workers can judge programs: the code judge's self-test inside the sampling walls.

Each worker proves it when it starts and every hour, and notes what came of it. The API, which may
be elsewhere, refuses at once what every living worker would fail.
"""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable

import sqlalchemy as sa

from service.sampling import sandbox_check
from service.sampling.process import sampling_environment, walls_of
from service.settings import ServiceSettings
from service.tables.sandboxes import note, noted
from service.tables.worker_presence import living

logger = logging.getLogger(__name__)

CHECK_S = 3600.0
CHECK_LIMIT_S = 120.0


def watch(
    settings: ServiceSettings, engine: sa.Engine, worker: str, wait: Callable[[float], bool]
) -> None:
    """Prove the sandboxes of every code judge and note the outcome, until ``wait`` says stop."""
    is_stopping = False
    while judges(settings) and not is_stopping:
        for name in judges(settings):
            fault = _fault_here(settings.verifiers[name], settings)
            if fault is not None:
                logger.error("the verifier %s cannot judge programs here: %s", name, fault)
            try:
                note(engine, worker, name, fault)
            except sa.exc.SQLAlchemyError as error:
                logger.error("the database does not answer: %s", error)
        is_stopping = wait(CHECK_S)


def judges(settings: ServiceSettings) -> list[str]:
    """Names of the verifiers that run programs in the code judge."""
    return [name for name, spec in settings.verifiers.items() if spec.partition(":")[0] == "code"]


def fault_of(engine: sa.Engine, verifier: str, settings: ServiceSettings) -> str | None:
    """Why no living worker can judge with ``verifier``; ``None`` where one can or none has said."""
    names = living(engine, settings.worker_life_s)
    faults = noted(engine, verifier, names)
    return str(faults[0]) if faults and None not in faults else None


def _fault_here(spec: str, settings: ServiceSettings) -> str | None:
    """Why there is no sandbox in a process that is like the sampling one."""
    with tempfile.TemporaryDirectory(prefix="rlrisk-", ignore_cleanup_errors=True) as scratch:
        backend = settings.base_config().backend
        task = {"model_path": "", "prompts": "", "verifier": spec, "config": {"backend": backend}}
        walls = walls_of(task, settings, writable=(scratch,))
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", sandbox_check.__name__, json.dumps(walls), spec],
                env=sampling_environment(settings) | {"HOME": scratch, "TMPDIR": scratch},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CHECK_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"its self-test took more than {CHECK_LIMIT_S:g} s"
    return done.stderr.strip()[-1000:] if done.returncode == sandbox_check.FAULT else None
