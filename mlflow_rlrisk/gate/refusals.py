"""What callers of the registry are told when the gate refuses, or cannot decide."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    except Exception as error:
        refusal = error if isinstance(error, PromotionRefusedError) else _undecided(action, error)
        told = {"outcome": refusal.outcome, "reason": refusal.reason}
        beside: dict[str, Any] = {refusal.BESIDE: told}
        raise MlflowException(refusal.message, error_code=PERMISSION_DENIED, **beside) from error


def _undecided(action: str, error: Exception) -> PromotionRefusedError:
    """Fail closed: what could not be decided is refused."""
    logger.error("rlrisk gate: %s could not be decided", action, exc_info=error)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    text = (
        f"{PromotionRefusedError.BEGINNING} '{action}' is refused, "
        f"{PromotionRefusedError.UNDECIDED} ({what})"
    )
    return PromotionRefusedError("inconclusive", "undecided", text)
