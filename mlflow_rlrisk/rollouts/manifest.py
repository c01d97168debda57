"""``manifest.json``: which inputs the rollouts or grades of a folder belong to, by digests."""

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.rollouts.shards import write_text_atomically

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, str]:
    """Digests by name; empty where there is no manifest.

    Raises:
        RolloutStoreError: It is damaged or of another schema version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, identity = manifest["schema_version"], dict(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RolloutStoreError(f"{path} is damaged: {error}") from error
    if version != SCHEMA_VERSION:
        raise RolloutStoreError(f"{path} has schema version {version}, {SCHEMA_VERSION} is needed")
    return {str(name): str(value) for name, value in identity.items()}


def write_manifest(folder: Path, identity: Mapping[str, str]) -> None:
    """Write it whole or not at all."""
    manifest = {"schema_version": SCHEMA_VERSION, "identity": dict(identity)}
    write_text_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def refuse_difference(folder: Path, identity: Mapping[str, str]) -> None:
    """Refuse a folder that belongs to other inputs; one without a manifest belongs to nobody.

    Raises:
        RolloutStoreError: Names what differs.
    """
    known = read_manifest(folder)
    if not known:
        return
    names = sorted(
        name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name)
    )
    if names:
        shown = "; ".join(
            f"{name}: stored {known.get(name)}, wanted {identity.get(name)}" for name in names
        )
        raise RolloutStoreError(
            f"{folder} holds rollouts of other inputs ({shown}); choose another folder"
        )
