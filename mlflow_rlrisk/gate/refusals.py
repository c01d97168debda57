"""What callers of the registry are told when the gate refuses, or cannot decide."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_rlrisk.errors import PromotionRefusedError

logger = logging.getLogger(__name__)


@contextmanager
def refusing(action: str) -> Iterator[None]:
    """Turn a refusal, or any fault of the gate, into what MLflow answers with status 403."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    try:
        yield
    except MlflowException:
        raise
    except PromotionRefusedError as error:
        raise MlflowException(error.message, error_code=PERMISSION_DENIED) from error
    except Exception as error:  # fail closed: what could not be decided is refused
        logger.exception("rlrisk gate: %s could not be decided", action)
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        text = (
            f"{PromotionRefusedError.BEGINNING} '{action}' is refused, "
            f"{PromotionRefusedError.UNDECIDED} ({what})"
        )
        raise MlflowException(text, error_code=PERMISSION_DENIED) from error
