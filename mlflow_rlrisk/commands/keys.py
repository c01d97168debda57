"""``rlrisk keys``: the private key of a signer and the public ring that verifiers hold."""

from datetime import datetime
from pathlib import Path

import click

from mlflow_rlrisk.attestation.keys import (
    KeyRing,
    PublicKey,
    SigningKey,
    changing_ring,
    key_path,
    ring_path,
    to_text,
)
from mlflow_rlrisk.commands.options import json_option, key_option
from mlflow_rlrisk.commands.output import OK, print_json, tell
from mlflow_rlrisk.errors import ConfigError

ring_option = click.option(
    "--ring",
    "ring_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Public key ring. Default: RLRISK_KEY_RING, else key_ring.json in ~/.config/rlrisk.",
)
name_option = click.option("--name", default="signer", show_default=True, help="Shown to people.")


@click.group()
def keys() -> None:
    """Make, show, rotate and revoke the keys that attestations are signed with."""


@keys.command()
@key_option
@ring_option
@name_option
@json_option
def init(key_file: Path | None, ring_file: Path | None, name: str, as_json: bool) -> int:
    """Make a private key (mode 0600) and add its public half to the ring."""
    private, ring_at = key_file or key_path(), ring_file or ring_path()
    key = SigningKey.generate()
    with changing_ring(ring_at):
        ring = KeyRing.load(ring_at) if ring_at.exists() else KeyRing({})
        key.write(private)
        try:
            ring.with_key(PublicKey.of(key, name, _now())).write(ring_at)
        except ConfigError:
            private.unlink()  # it counts nowhere, and would be in the way of the next try
            raise
    return _tell(as_json, key.key_id, private, ring_at, f"key {key.key_id} ({name}) made")


@keys.command()
@key_option
@ring_option
@json_option
def show(key_file: Path | None, ring_file: Path | None, as_json: bool) -> int:
    """List the keys of the ring: validity, revocation, and which one is held here."""
    private, ring_at = key_file or key_path(), ring_file or ring_path()
    ring = KeyRing.load(ring_at)
    held = SigningKey.load(private).key_id if private.exists() else None
    if as_json:
        print_json({"ring": str(ring_at), "key": str(private), "held": held, **ring.to_dict()})
        return OK
    for key in ring.keys.values():
        ends = f"revoked {key.revoked_at}" if key.revoked_at else f"until {key.not_after or 'open'}"
        mark = "*" if key.key_id == held else " "
        click.echo(f"{mark} {key.key_id}  {key.name:<16} from {key.not_before} {ends}")
    click.echo(f"ring {ring_at}; * is held in {private}")
    return OK


@keys.command()
@key_option
@ring_option
@json_option
def rotate(key_file: Path | None, ring_file: Path | None, as_json: bool) -> int:
    """Replace the private key; what the old one signed stays valid until it expires."""
    private, ring_at = key_file or key_path(), ring_file or ring_path()
    with changing_ring(ring_at):
        ring, old = KeyRing.load(ring_at), SigningKey.load(private)
        known = ring.keys.get(old.key_id)
        if known is None:
            raise ConfigError("key", str(private), f"key {old.key_id} is not in {ring_at}")
        place = private.resolve()  # a link stays one
        beside = place.with_name(f"{place.name}.new")
        if beside.exists():  # a rotation broke off: it is finished
            new = SigningKey.load(beside)
        else:
            new = SigningKey.generate()
            new.write(beside)
        if new.key_id not in ring.keys:
            now = _now()
            ring = ring.with_key(known.model_copy(update={"not_after": to_text(now)}))
            ring.with_key(PublicKey.of(new, known.name, now)).write(ring_at)
        beside.replace(place)  # the old private key is gone: it is needed for nothing any more
    return _tell(as_json, new.key_id, private, ring_at, f"key {new.key_id} replaces {old.key_id}")


@keys.command()
@click.argument("key_id")
@click.option("--reason", default=None, help="Kept in the ring.")
@ring_option
@json_option
def revoke(key_id: str, reason: str | None, ring_file: Path | None, as_json: bool) -> int:
    """Make everything that KEY_ID ever signed worthless, at once."""
    ring_at = ring_file or ring_path()
    with changing_ring(ring_at):
        ring = KeyRing.load(ring_at)
        key = ring.keys.get(key_id)
        if key is None:
            raise ConfigError("key_id", key_id, f"not in {ring_at}; it has {', '.join(ring.keys)}")
        told = {"revoked_at": key.revoked_at or to_text(_now())}
        if reason is not None:
            told["revoked_reason"] = reason
        ring.with_key(key.model_copy(update=told)).write(ring_at)
    return _tell(as_json, key_id, None, ring_at, f"key {key_id} ({key.name}) is revoked")


def _now() -> datetime:
    from mlflow_rlrisk.gate.gatekeeper import utc_now

    return utc_now()


def _tell(as_json: bool, key_id: str, private: Path | None, ring: Path, text: str) -> int:
    held, lines = {}, [text]
    if private is not None:
        held = {"key": str(private)}
        lines.append(f"private key {private} (mode 0600; keep it where attestations are signed)")
    lines.append(f"public ring {ring} (give it to the gate and to trainers)")
    tell({"key_id": key_id, **held, "ring": str(ring)}, *lines, as_json=as_json)
    return OK
