"""What a request asks of MLflow; an MLflow that is away is a problem document, not a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.problems import Problem, without_paths
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def point_mlflow(settings: ServiceSettings) -> "MlflowClient":
    """Set both addresses for the process; without the second MLflow probes for Spark."""
    import mlflow

    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.registry)
    return mlflow.MlflowClient(settings.tracking_uri, settings.registry)


@contextmanager
def mlflow_problems() -> Iterator[None]:
    """Turn what MLflow answers into ``not-found`` or ``upstream``."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise Problem("not-found", without_paths(str(error.message))[:500]) from error
        raise Problem("upstream", headers={"Retry-After": "30"}) from error


def version_of_alias(settings: ServiceSettings, name: str, alias: str) -> str:
    """The version that an alias names.

    Raises:
        Problem: ``not-found`` or ``upstream``.
    """
    client = point_mlflow(settings)
    with mlflow_problems():
        return str(client.get_model_version_by_alias(name, alias).version)
