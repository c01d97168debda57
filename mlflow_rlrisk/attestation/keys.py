"""Ed25519 keys: the private key file of a signer, and the public key ring that verifiers hold.

A key id is derived from the key itself, so that a ring cannot map a known id to a foreign key.
Rotation ends a key's validity and leaves what it signed valid; revocation makes everything that
it ever signed worthless, since a stolen key can backdate.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from mlflow_rlrisk.errors import AttestationError, ConfigError

RING_VERSION = 1
KEY_VARIABLE, RING_VARIABLE = "RLRISK_KEY", "RLRISK_KEY_RING"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_NOT_OURS = 0o077
"""Permission bits by which others than the owner could read or change a private key."""


def to_text(moment: datetime) -> str:
    """A moment in UTC with whole seconds, the only form of a time in anything signed."""
    return moment.astimezone(UTC).strftime(_TIME_FORMAT)


def to_moment(text: str) -> datetime:
    """Read what `to_text` wrote; any other spelling is a ``ValueError``."""
    moment = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    if to_text(moment) != text:
        raise ValueError(f"{text!r} is not written as {_TIME_FORMAT}")
    return moment


def _checked_time(text: str) -> str:
    to_moment(text)
    return text


Timestamp = Annotated[str, AfterValidator(_checked_time)]
"""ISO 8601 in UTC with whole seconds and a ``Z``."""


def home() -> Path:
    """Folder of key and ring where no other place is named."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "rlrisk"


def key_path() -> Path:
    """The private key file: ``RLRISK_KEY``, else ``signing_key.pem`` in `home`."""
    return Path(os.environ.get(KEY_VARIABLE) or home() / "signing_key.pem")


def ring_path() -> Path:
    """The public key ring: ``RLRISK_KEY_RING``, else ``key_ring.json`` in `home`."""
    return Path(os.environ.get(RING_VARIABLE) or home() / "key_ring.json")


def key_id_of(public_key: bytes) -> str:
    """The id of a raw public key: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in memory."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a private key file.

        Raises:
            ConfigError: It is not there, no Ed25519 key, or others than its owner may read it.
        """
        try:
            mode = path.stat().st_mode
            pem = path.read_bytes()
        except OSError as error:
            need = f"no private key can be read ({error.strerror}); rlrisk keys init makes one"
            raise ConfigError("key", str(path), need) from error
        if mode & _NOT_OURS:
            need = f"its mode is {mode & 0o777:04o}; only its owner may read it: chmod 600"
            raise ConfigError("key", str(path), need)
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError("key", str(path), f"is no private key: {error}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError("key", str(path), "is no Ed25519 key")
        return cls(private)

    def write(self, path: Path) -> None:
        """Write a private key file of mode 0600; one that is there is never overwritten.

        Raises:
            ConfigError: There is a file already, or it cannot be written.
        """
        pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            need = f"cannot be written: {error.strerror}"
            if path.is_file() or path.is_symlink():
                need = "there is a file already; rlrisk keys rotate replaces a key"
            raise ConfigError("key", str(path), need) from error
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)

    @property
    def public_bytes(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_id(self) -> str:
        """The id under which the ring knows the key."""
        return key_id_of(self.public_bytes)

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature."""
        return self.private.sign(message)


class PublicKey(BaseModel):
    """A key of the ring: what it verifies and when that counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key_id: str
    public_key: str
    """The raw 32 bytes in base64."""
    name: str
    not_before: Timestamp
    not_after: Timestamp | None = None
    revoked_at: Timestamp | None = None
    revoked_reason: str | None = None

    @model_validator(mode="after")
    def _id_belongs_to_the_key(self) -> Self:
        raw = base64.b64decode(self.public_key)  # passes over what is not base64
        if base64.b64encode(raw).decode() != self.public_key or len(raw) != 32:
            raise ValueError("public_key must be 32 bytes in base64")
        if key_id_of(raw) != self.key_id:
            raise ValueError(f"key_id {self.key_id!r} is not the id of its public_key")
        return self

    @classmethod
    def of(cls, key: SigningKey, name: str, not_before: datetime) -> Self:
        """The public half of a signing key."""
        public = base64.b64encode(key.public_bytes).decode()
        return cls(key_id=key.key_id, public_key=public, name=name, not_before=to_text(not_before))

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature over exactly this message."""
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public_key))
        try:
            public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def check_time(self, issued_at: str) -> None:
        """Refuse what was signed outside of the key's validity.

        Raises:
            AttestationError: ``key_expired``.
        """
        ends = self.not_after
        if not self.not_before <= issued_at or not (ends is None or issued_at <= ends):
            text = f"signed at {issued_at}, when key {self.key_id} ({self.name}) was not valid"
            raise AttestationError("key_expired", text)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The public keys that count, by id."""

    keys: Mapping[str, PublicKey]

    def __hash__(self) -> int:
        return hash(tuple(self.keys.values()))

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read a ring.

        Raises:
            ConfigError: It is no ring, or holds a key, or a field of one, twice.
        """
        try:
            raw = json.loads(text, object_pairs_hook=_unrepeated)
            if not isinstance(raw, dict) or raw.keys() != {"schema_version", "keys"}:
                raise ValueError("an object with schema_version and keys is needed")
            if raw["schema_version"] != RING_VERSION or not isinstance(raw["keys"], list):
                raise ValueError(f"schema_version {RING_VERSION} and a list of keys are needed")
            keys = [PublicKey.model_validate(each) for each in raw["keys"]]
        except (ValidationError, ValueError, RecursionError) as error:
            raise ConfigError("key_ring", _first_line(error), "is no key ring") from error
        found = {key.key_id: key for key in keys}
        if len(found) != len(keys):
            raise ConfigError("key_ring", [key.key_id for key in keys], "holds a key twice")
        return cls(found)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ring from a file; errors as in `parse`, or `ConfigError` where there is none."""
        try:
            return cls.parse(path.read_bytes())
        except OSError as error:
            need = f"no key ring can be read there ({error.strerror}); rlrisk keys init makes one"
            raise ConfigError("key_ring", str(path), need) from error

    def trusted(self, key_id: str) -> PublicKey:
        """The key of this id.

        Raises:
            AttestationError: ``unknown_key`` or ``revoked_key``.
        """
        key = self.keys.get(key_id)
        if key is None:
            raise AttestationError("unknown_key", f"key {key_id[:64]!r} is not in the key ring")
        if key.revoked_at is not None:
            text = f"key {key_id} ({key.name}) was revoked at {key.revoked_at}"
            raise AttestationError("revoked_key", text)
        return key

    def with_key(self, key: PublicKey) -> "KeyRing":
        """The ring with one key added or replaced."""
        return replace(self, keys={**self.keys, key.key_id: key})

    def to_dict(self) -> dict[str, Any]:
        """The ring as JSON values."""
        keys = [key.model_dump(mode="json") for key in self.keys.values()]
        return {"schema_version": RING_VERSION, "keys": keys}

    def write(self, path: Path) -> None:
        """Replace a ring file as a whole, so that no reader sees half of one.

        A link stays one: the ring that it leads to is replaced, which others read.

        Raises:
            ConfigError: It cannot be written.
        """
        place = path.resolve()
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            if place.exists():  # who may read it stays as it was
                beside.chmod(place.stat().st_mode & 0o777)
            beside.replace(place)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            need = f"cannot be written: {error.strerror}"
            raise ConfigError("key_ring", str(path), need) from error


@contextmanager
def changing_ring(path: Path) -> Iterator[None]:
    """Read, change and write a ring in one block, in which nobody else does.

    Raises:
        ConfigError: The ring's folder cannot be made.
    """
    folder = path.resolve().parent
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY)
    except ImportError:  # Windows
        yield
        return
    except OSError as error:
        need = f"cannot be written: {error.strerror}"
        raise ConfigError("key_ring", str(path), need) from error
    try:
        with suppress(OSError):  # some network file systems
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without a field that stands twice: the second would win silently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands twice")
    return found


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
