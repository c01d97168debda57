"""What this machine has, what is missing, and the command that mends it.

Nothing heavy is imported but torch, and that only when it is installed: the question is what an
assessment would find, not what a lock file says.
"""

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mlflow_rlrisk.plurals import counted

Status = Literal["ok", "missing", "problem"]

_EXTRAS: tuple[tuple[str, str, str], ...] = (
    ("torch", "hf", "sampling with transformers"),
    ("transformers", "hf", "sampling with transformers"),
    ("trl", "trl", "the RL part of the demo"),
    ("math_verify", "math", "the verifier math"),
    ("evaluate", "evaluate", "modules of Hugging Face evaluate"),
    ("httpx2", "openai", "sampling from OpenAI-compatible endpoints"),
    ("vllm", "vllm", "sampling with vLLM"),
    ("ray", "ray", "sampling on a cluster"),
    ("dbos", "service", "the scoring service"),
)
WEBHOOK_SETTINGS = {
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "a Fernet key",
}
"""What ``mlflow server`` needs to send signed webhooks to a private address, and keep the secret.

Without the key every process of the server makes its own: after a restart, or in another of its
processes, no secret can be read and nothing is delivered.
"""
_FERNET = (
    "$(python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')"
)
_BASE = ("mlflow", "numpy", "scipy", "pandas", "pyarrow", "pydantic", "click", "matplotlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's answer."""

    name: str
    status: Status
    detail: str
    mend: str | None = None
    """The command that mends it; ``None`` where nothing is to be done."""
    is_optional: bool = False
    """True where the main job works without it."""


def examine() -> list[Finding]:
    """Look at versions, extras, devices, plugin registration, sandbox and the MLflow store."""
    found = [*_packages(), *_extras(), *_devices(), *_plugin(), *_sandbox(), *_tracking()]
    return [*found, *_webhooks()]


def is_healthy(findings: list[Finding]) -> bool:
    """True when nothing that the main job needs is missing or broken."""
    return all(finding.status == "ok" or finding.is_optional for finding in findings)


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as one JSON object."""
    return {"ok": is_healthy(findings), "findings": [asdict(finding) for finding in findings]}


def _packages() -> Iterator[Finding]:
    yield Finding(name="python", status="ok", detail=f"{platform.python_version()} {sys.platform}")
    yield Finding(name="mlflow-rlrisk", status="ok", detail=_version("mlflow-rlrisk") or "source")
    for name in _BASE:
        found = _version(name)
        if found:
            yield Finding(name=name, status="ok", detail=found)
        else:
            yield Finding(
                name=name, status="missing", detail="required", mend="pip install mlflow-rlrisk"
            )


def _extras() -> Iterator[Finding]:
    for module, extra, purpose in _EXTRAS:
        is_optional = extra != "hf"
        if importlib.util.find_spec(module) is not None:
            detail = _version(module.replace("_", "-")) or "installed"
            yield Finding(name=module, status="ok", detail=detail, is_optional=is_optional)
        else:
            yield Finding(
                name=module,
                status="missing",
                detail=f"needed for {purpose}",
                mend=f"pip install 'mlflow-rlrisk[{extra}]'",
                is_optional=is_optional,
            )


def _devices() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(
        name="cpu", status="ok", detail=f"{counted(os.cpu_count() or 0, 'core')}, {memory:.0f} GiB"
    )
    if importlib.util.find_spec("torch") is None:
        return
    try:
        yield from _gpus()
    except Exception as error:  # noqa: BLE001  (a broken library raises anything; this is told)
        yield Finding(
            name="gpu",
            status="problem",
            detail=f"torch cannot be used: {type(error).__name__}: {_first_line(error)}",
            mend="pip install --force-reinstall torch   (or free the GPU, or mend its driver)",
        )


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding(name="gpu", status="ok", detail="none: sampling runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        yield Finding(
            name=f"cuda:{index}",
            status="ok",
            detail=f"{properties.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free",
        )


def _plugin() -> Iterator[Finding]:
    names = {point.name for point in metadata.entry_points(group="mlflow.model_evaluator")}
    if "rlrisk" in names:
        yield Finding(name="evaluator plugin", status="ok", detail="registered as 'rlrisk'")
    else:
        yield Finding(
            name="evaluator plugin",
            status="problem",
            detail="MLflow does not see the entry point 'rlrisk'",
            mend="pip install --force-reinstall --no-deps mlflow-rlrisk",
        )


def _sandbox() -> Iterator[Finding]:
    """The tier that the code judge proves here, by attacking itself."""
    from mlflow_rlrisk.verifiers.code import CodeJudge, SandboxUnavailableError
    from mlflow_rlrisk.verifiers.code.sandbox_tiers import missing_for

    try:
        with CodeJudge() as judge:
            tier, selftest = judge.tier, judge.selftest
    except SandboxUnavailableError as error:
        yield Finding(
            name="code judge",
            status="problem",
            detail=str(error),
            mend="apt-get install bubblewrap   (and a kernel with Landlock: 5.13 or newer)",
            is_optional=True,
        )
        return
    stopped = f"all {selftest.num_attacks} attacks of its self-test stopped" if selftest else ""
    lacking = missing_for("A") or "its self-test fails here"
    why = "" if tier == "A" else f"; tier A: {lacking}"
    yield Finding(name="code judge", status="ok", detail=f"tier {tier}, {stopped}{why}")


def _tracking() -> Iterator[Finding]:
    if importlib.util.find_spec("mlflow") is None:
        return
    import mlflow

    uri, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    where = _without_password(uri if registry == uri else f"{uri}, registry {registry}")
    problem, is_new = None, False
    for store in dict.fromkeys([uri, registry]):
        file = _database_file(store)
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            problem = problem or (
                "is a folder" if file.is_dir() else f"there is no folder {file.parent}"
            )
        # Asking would create the database; a doctor leaves no traces.
        is_new |= file is not None and not file.exists()
    if problem is None and not is_new:
        problem = _refusal([uri, registry])
    if problem is None:
        made = " (made at first use, nothing asked)" if is_new else ""
        yield Finding(name="MLflow store", status="ok", detail=f"{where}{made}")
        return
    yield Finding(
        name="MLflow store",
        status="problem",
        detail=f"{where}: {problem}",
        mend="export MLFLOW_TRACKING_URI=sqlite:///mlflow.db   (or your server's address)",
    )


def _database_file(uri: str) -> Path | None:
    """The file of an SQLite store, with or without our gate before it."""
    plain = uri.removeprefix("rlrisk+")
    return Path(plain.removeprefix("sqlite:///")) if plain.startswith("sqlite:///") else None


def _refusal(stores: list[str]) -> str | None:
    """What tracking server or registry say instead of an answer."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for store in stores:
            _ask_once(store.removeprefix("rlrisk+"))
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        return _without_password(_first_line(error))
    return None


def _ask_once(uri: str) -> None:
    """Reach a database as MLflow does, which tries ten times in 100 s before it says anything."""
    import sqlalchemy
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        sqlalchemy.inspect(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _without_password(text: str) -> str:
    # To the last @: a password may hold slashes, spaces and more of them.
    return re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", text)


def missing_webhook_settings() -> list[str]:
    """Those of `WEBHOOK_SETTINGS` that this environment lacks."""
    return [name for name in WEBHOOK_SETTINGS if not os.environ.get(name)]


def webhook_exports(names: list[str]) -> str:
    """The shell commands that set them for an ``mlflow server`` started afterwards."""
    values = WEBHOOK_SETTINGS | {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": _FERNET}
    return " ".join(["export", *(f"{name}={values[name]}" for name in names)])


def _webhooks() -> Iterator[Finding]:
    """Only the environment can be looked at: a running server does not tell its own."""
    if missing := missing_webhook_settings():
        yield Finding(
            name="MLflow webhooks",
            status="missing",
            detail=(
                f"{', '.join(missing)}: an mlflow server started from here cannot call a scoring "
                "service on a private address; its poller finds new versions all the same"
            ),
            mend=webhook_exports(missing),
            is_optional=True,
        )
        return
    detail = "an mlflow server started from here may call a private address"
    yield Finding(name="MLflow webhooks", status="ok", detail=detail, is_optional=True)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
