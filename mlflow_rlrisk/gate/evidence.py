"""Collects what is known of a version: its attestation, its overrides, its files.

A copy (``models:/name/version`` as source) shares the artifacts of the version it was made from;
where it carries no attestation of its own, that of the original speaks for it, under the
original's name and while both lie in one place. A renamed model keeps what was signed under the
names it had before.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

from mlflow_rlrisk.attestation import ATTESTATION_TAG, OVERRIDE_TAG, Place
from mlflow_rlrisk.errors import CheckpointError
from mlflow_rlrisk.gate.files import list_sizes
from mlflow_rlrisk.gate.guard import Evidence

REPORT_TAG = "rlrisk.report_uri"
MAX_COPIES = 16
"""Copies of copies that are followed."""
MAX_REPORT_URI = 200

_COPY = re.compile(r"models:/(?P<name>[^/@:%\\]+)/(?P<version>[0-9]+)")


class Registry(Protocol):
    """What is asked of a registry: a store inside the server, ``MlflowClient`` outside."""

    def get_model_version(self, name: str, version: str) -> Any:
        """The version with tags and source, and perhaps its ``artifact_location``."""

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        """Where its artifacts lie."""


FormerNames = Callable[[str], Sequence[str]]
"""Names that a model had before, as far as the gate's log knows."""


def no_former_names(_: str) -> Sequence[str]:
    """For readers that have no log: a model is known under its present name only."""
    return ()


def gather(
    registry: Registry,
    place: Place,
    former_names: FormerNames = no_former_names,
    *,
    with_files: bool = True,
) -> Evidence:
    """Collect the evidence on the version at ``place``.

    Raises:
        MlflowException: There is no such version.
        CheckpointError: It is a copy of more than `MAX_COPIES` copies.
    """
    version = registry.get_model_version(place.model, place.version)
    speaker = _speaker(registry, version)
    at = replace(place, model=speaker.name, version=str(speaker.version))
    envelope = speaker.tags.get(ATTESTATION_TAG)
    names = [speaker.name]
    if envelope is not None and not _names_itself(envelope, speaker.name):
        names += [name for name in former_names(speaker.name) if name not in names]
    files, fault = None, "not asked for"
    if with_files:
        files, fault = _files(registry, version)
    report = str(version.tags.get(REPORT_TAG) or speaker.tags.get(REPORT_TAG) or "")
    return Evidence(
        place=place,
        envelope=envelope,
        attested_places=tuple(replace(at, model=name) for name in names),
        source=str(speaker.source),
        overrides={k: v for k, v in version.tags.items() if k.startswith(OVERRIDE_TAG)},
        files=files,
        files_fault=fault,
        report_uri=" ".join(report.split())[:MAX_REPORT_URI],
    )


def original_of(source: str) -> tuple[str, str] | None:
    """Name and version that a ``source`` says it is a copy of."""
    match = _COPY.fullmatch(source)
    return (match["name"], match["version"]) if match else None


def _speaker(registry: Registry, version: Any) -> Any:
    """The version whose attestation counts: the first that has one of its own."""
    for _ in range(MAX_COPIES + 1):  # the copies, and what they are of
        original = original_of(str(version.source))
        source = None if original is None else _version(registry, *original)
        if source is None or _location(registry, source) != _location(registry, version):
            return version  # nor does one that has taken the name of the original
        own = version.tags.get(ATTESTATION_TAG)
        is_own = own is not None and own != source.tags.get(ATTESTATION_TAG)
        # What was copied along stays the original's, also once that has a newer one.
        if is_own and not _names_itself(own, source.name, str(source.version)):
            return version
        version = source
    raise CheckpointError(f"more than {MAX_COPIES} copies of copies")


def _version(registry: Registry, name: str, version: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return registry.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # the original was deleted; nobody else speaks for the copy


@lru_cache(maxsize=128)
def _names_itself(envelope: str, name: str, version: str | None = None) -> bool:
    """Whether an attestation says it is about this model, and version.

    Nothing is verified here: it only says where to look, and a lie gains nothing, for what is
    verified in the end is the very name.
    """
    try:
        said = json.loads(base64.b64decode(json.loads(envelope)["payload"]))["predicate"]
        return bool(said["model"] == name and version in (None, said["version"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _location(registry: Registry, version: Any) -> str:
    """Where the artifacts of a version lie."""
    known = getattr(version, "artifact_location", None)
    return known or registry.get_model_version_download_uri(version.name, version.version)


def _files(registry: Registry, version: Any) -> tuple[dict[str, int] | None, str]:
    try:
        return list_sizes(_location(registry, version)), ""
    except Exception as error:  # noqa: BLE001  any store may raise anything; unknown files refuse
        return None, fault_of(error)


def fault_of(error: Exception) -> str:
    """What a store raised, in no more than a line of a refusal."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
