"""Who may call: bearer tokens with scopes, of which only hashes are kept.

A token is ``rlr_<id>_<32 random bytes>``. Random bytes need no slow hash; the id finds the row and
the comparison takes the same time whether or not there is one.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from mlflow_rlrisk import ConfigError
from service.tables.database import METADATA, read, write
from service.unchanged import Unchanged

_TOKEN = re.compile(r"rlr_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
TRIGGERED = "registry"
"""Owner of jobs that an event of the registry started; no token has this id."""
_NOBODY = hashlib.sha256(b"nobody").hexdigest()

_TABLE = sa.Table(
    "rlrisk_tokens",
    METADATA,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("scopes", sa.String(256), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
)


class Scope(StrEnum):
    """What a token allows; ``admin`` allows all and sees the jobs of others."""

    ASSESS = "assess"
    READ = "read"
    PROMOTE = "promote"
    OVERRIDE = "override"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: id and scopes of the token."""

    id: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the token allows this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def owners(self) -> tuple[str, ...] | None:
        """Whose jobs exist for this caller; ``None``: everybody's."""
        return None if Scope.ADMIN in self.scopes else (self.id, TRIGGERED)

    def sees(self, owner: str) -> bool:
        """Whether a job of ``owner`` exists for this caller."""
        return self.owners is None or owner in self.owners


ANYBODY = Caller(id="anybody", scopes=frozenset(Scope))
"""The caller of a service without tokens, on loopback only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What is kept of a token; times are seconds since the epoch."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class TokenTable:
    """The tokens of a service."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._unchanged = Unchanged(engine.url)

    def create(
        self, name: str, scopes: Sequence[str], *, expires_at: float | None = None
    ) -> tuple[str, TokenRecord]:
        """Make a token; the text is returned once and kept nowhere.

        Raises:
            ConfigError: A scope is unknown, or there is none.
        """
        known = [str(scope) for scope in Scope]
        for scope in scopes or ("",):
            if scope not in known:
                raise ConfigError("scope", scope, f"known scopes: {', '.join(known)}")
        if not 0 < len(name) <= 128 or not name.isprintable():  # it stands in lists and pages
            raise ConfigError("name", name, "1 to 128 printable characters are needed")
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"rlr_{token_id}_{secret}"
        row = {
            "id": token_id,
            "name": name,
            "digest": hashlib.sha256(text.encode()).hexdigest(),
            "scopes": " ".join(dict.fromkeys(scopes)),
            "created_at": time.time(),
            "expires_at": expires_at,
            "revoked_at": None,
        }
        with write(self._engine) as connection:
            connection.execute(sa.insert(_TABLE).values(row))
        return text, _record(row)

    def revoke(self, token_id: str) -> None:
        """End a token at once.

        Raises:
            ConfigError: There is no such token.
        """
        change = (
            sa.update(_TABLE)
            .where(_TABLE.c.id == token_id, _TABLE.c.revoked_at.is_(None))
            .values(revoked_at=time.time())
        )
        with write(self._engine) as connection:
            if connection.execute(change).rowcount != 1:
                raise ConfigError("token", token_id, "no valid token has this id")

    def list(self) -> list[TokenRecord]:
        """All tokens, the oldest first."""
        with read(self._engine) as connection:
            rows = connection.execute(sa.select(_TABLE).order_by(_TABLE.c.created_at)).mappings()
            return [_record(dict(row)) for row in rows]

    def has_valid(self, now: float) -> bool:
        """Whether anybody at all may call."""
        return any(
            each.revoked_at is None and (each.expires_at is None or each.expires_at > now)
            for each in self.list()
        )

    def still_allows(self, token_id: str, scope: Scope, now: float) -> bool:
        """Whether the token of this id is valid and has the scope."""
        for each in self.list():
            if each.id == token_id and each.revoked_at is None:
                is_current = each.expires_at is None or each.expires_at > now
                return is_current and bool({scope, Scope.ADMIN} & set(each.scopes))
        return False

    def name_of(self, token_id: str) -> str:
        """Whom a token was made for; the id itself where there is no such token."""
        return next((each.name for each in self.list() if each.id == token_id), token_id)

    def identify(self, text: str, now: float) -> Caller | None:
        """Whose token this is; ``None`` where it is unknown, revoked or expired."""
        match = _TOKEN.fullmatch(text)
        row = None
        if match is not None:
            token_id = match[1]
            row = self._unchanged.get(token_id, lambda: self._row(token_id))
        digest = hashlib.sha256(text.encode()).hexdigest()
        is_same = hmac.compare_digest(digest, _NOBODY if row is None else row["digest"])
        if row is None or not is_same or row["revoked_at"] is not None:
            return None
        if row["expires_at"] is not None and row["expires_at"] <= now:
            return None
        return Caller(id=row["id"], scopes=frozenset(map(Scope, row["scopes"].split())))

    def _row(self, token_id: str) -> sa.RowMapping | None:
        with read(self._engine) as connection:
            found = sa.select(_TABLE).where(_TABLE.c.id == token_id)
            return connection.execute(found).mappings().one_or_none()


def _record(row: dict[str, object]) -> TokenRecord:
    kept = {name: row[name] for name in TokenRecord.__slots__ if name != "scopes"}
    return TokenRecord(**kept, scopes=tuple(str(row["scopes"]).split()))  # type: ignore[arg-type]
