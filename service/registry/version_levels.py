"""The levels of the versions of many models in few questions, as their tags claim them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.registry.answers import answers
from service.registry.records import VersionRecord, record_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 200
MAX_READ = 2000
"""Versions that one page of models reads; of models beyond it only the newest is shown."""


def versions_of(
    client: "MlflowClient", names: Sequence[str]
) -> dict[str, tuple[VersionRecord, ...]]:
    """Versions by model, the newest first; a name that cannot be asked for is left out.

    Raises:
        SinkError: The registry does not answer.
    """
    asked = ", ".join(f"'{name}'" for name in names if "'" not in name)
    found: dict[str, tuple[VersionRecord, ...]] = {}
    token, num_read = None, 0
    while asked and num_read < MAX_READ:
        with answers("the versions"):
            page = client.search_model_versions(
                f"name IN ({asked})",
                max_results=PAGE,
                order_by=["version_number DESC"],
                page_token=token,
            )
            for each in page:
                found[each.name] = (*found.get(each.name, ()), record_of(each, ()))
        num_read += len(page)
        if not (token := page.token):
            break
    return found
