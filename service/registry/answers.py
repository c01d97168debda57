"""What MLflow answers, and what it means where it answers with an error or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_rlrisk.errors import ModelReferenceError, ReportError, RLRiskError, SinkError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Tell what is not there from a server that does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise ModelReferenceError(f"{what}: {error.message}") from error
        raise SinkError(f"{what}: MLflow does not answer ({error.error_code})") from error
    except Exception as error:  # an answer of another kind fails anywhere in its client
        raise SinkError(f"{what}: MLflow does not answer ({type(error).__name__})") from error


def read_artifact(client: "MlflowClient", run_id: str, path: str, limit: int) -> str:
    """The text of a run's artifact.

    Raises:
        SinkError: It cannot be fetched.
        ReportError: It is too large or no text.
    """
    folder = path.rpartition("/")[0]
    try:
        sizes = {each.path: each.file_size for each in client.list_artifacts(run_id, folder)}
        if path not in sizes:
            raise SinkError(f"run {run_id} has no {path}: it was deleted or never written")
        if (sizes[path] or 0) > limit:
            raise ReportError(f"{path} of run {run_id} has {sizes[path]:,} bytes; {limit:,} fit")
        with tempfile.TemporaryDirectory(prefix="rlrisk-") as private:
            local = Path(client.download_artifacts(run_id, path, private))
            return local.read_bytes()[: limit + 1].decode("utf-8")
    except RLRiskError:
        raise
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} of run {run_id} is no UTF-8 text") from error
    except Exception as error:
        text = f"{path} of run {run_id} cannot be fetched: {type(error).__name__}"
        raise SinkError(text) from error
