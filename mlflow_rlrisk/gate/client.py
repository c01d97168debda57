"""The gate seen from outside the server: the same judgement over MLflow's client.

For CI, and for registries that take no plugin. What is decided here binds nobody; where the
plugin runs, the server decides again.
"""

import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.attestation import Place
from mlflow_rlrisk.errors import ConfigError, ModelReferenceError, PromotionRefusedError
from mlflow_rlrisk.gate.evidence import gather
from mlflow_rlrisk.gate.gatekeeper import utc_now
from mlflow_rlrisk.gate.guard import Verdict, judge
from mlflow_rlrisk.gate.names import readable
from mlflow_rlrisk.gate.promotion_policy import (
    DEFAULT_REGISTRY,
    POLICY_VARIABLE,
    Bar,
    PolicySource,
    Target,
)
from mlflow_rlrisk.model_reference import quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient

REGISTRY_VARIABLE = "RLRISK_REGISTRY"

_MODEL = re.compile(
    r"(?:models:/)?(?P<name>[^/@:%\\]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@:%\\]+))?"
)


def load_bar(path: str | None = None) -> Bar:
    """The policy file that is named, or that of ``RLRISK_POLICY``.

    Raises:
        ConfigError: There is none, or it cannot be used.
    """
    chosen = path or os.environ.get(POLICY_VARIABLE)
    if not chosen:
        need = "the gate's policy file is needed: --policy FILE, or rlrisk policy init makes one"
        raise ConfigError(POLICY_VARIABLE, chosen, need)
    return PolicySource(chosen).current()


def registry_name() -> str:
    """The registry's name, as its policy spells it: what a statement has to name.

    ``RLRISK_REGISTRY`` where it is set, else that of the policy file, else the default.
    """
    if named := os.environ.get(REGISTRY_VARIABLE):
        return named
    if path := os.environ.get(POLICY_VARIABLE):
        return PolicySource(path).current().policy.registry
    return DEFAULT_REGISTRY


def find_version(client: "MlflowClient", model: str, target: Target | None) -> Any:
    """The version that a command names.

    Args:
        client: The registry.
        model: ``models:/name/version``, ``models:/name@alias``, either without ``models:/``, or
            the bare name for the version that has the target now.
        target: Alias or stage.

    Raises:
        ModelReferenceError: It names no version.
    """
    match = _MODEL.fullmatch(model)
    if match is None:
        need = "models:/name/version, models:/name@alias or a name is needed"
        raise ModelReferenceError(f"model={model!r}: {need}")
    name, version = match["name"], match["version"]
    with mlflow_refusals(model):
        if version is None:
            # Listing is always allowed; reading a protected alias whose proof is gone is not.
            wanted = Target("alias", match["alias"]) if match["alias"] else target
            version = _holder(client, name, wanted)
        return client.get_model_version(name, version)


def _holder(client: "MlflowClient", name: str, target: Target | None) -> str:
    if target is not None and target.kind == "alias":
        aliases = dict(client.get_registered_model(name).aliases)
        held = [aliases[a] for a in aliases if readable(a) == readable(target.name)]
    elif target is not None and target.kind == "stage":
        found = client.search_model_versions(f"name = {quoted(name)}")
        held = [v.version for v in found if readable(str(v.current_stage)) == readable(target.name)]
    else:
        held = []
    if len(held) != 1:
        how_many = "" if target is None else f"; {len(held)} have {target}"
        raise ModelReferenceError(f"model={name!r}: name a version{how_many}")
    return str(held[0])


def place_of(version: Any, registry: str) -> Place:
    """The place of a version that the client found."""
    return Place(
        registry=registry,
        workspace=version.workspace,
        model=version.name,
        version=str(version.version),
    )


def check(model: str, target: Target, policy: str | None = None) -> Verdict:
    """Judge as the gate would: signature, subject, policy, expiry, file list and sizes.

    Raises:
        ConfigError: There is no usable policy file.
        ModelReferenceError: There is no such version.
    """
    from mlflow import MlflowClient

    bar, client = load_bar(policy), MlflowClient()
    version = find_version(client, model, target)
    with mlflow_refusals(model):
        evidence = gather(client, place_of(version, bar.policy.registry))
    return judge(bar, evidence, target, utc_now())


def promote(model: str, target: Target) -> str:
    """Ask the registry to let a version take an alias or a stage; returns ``name/version``.

    Raises:
        PromotionRefusedError: The registry refuses.
        ModelReferenceError: There is no such version, or the registry does not answer.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    version = find_version(client, model, None)
    with mlflow_refusals(model):
        if target.kind == "alias":
            client.set_registered_model_alias(version.name, target.name, version.version)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # stages are on their way out
                client.transition_model_version_stage(version.name, version.version, target.name)
    return f"{version.name}/{version.version}"


class mlflow_refusals:  # noqa: N801  (used as a context manager function)
    """Turn what MLflow raises into our errors; a refusal of the gate stays one."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            if refusal := PromotionRefusedError.told_by(error):
                raise refusal from error
            raise ModelReferenceError(f"model={self._model!r}: {error.message}") from error
