"""Whether a webhook is MLflow's: its signature, its time, and the form of what it tells.

MLflow 3.17 signs ``delivery_id.timestamp.body`` with HMAC-SHA256 under the secret that the webhook
was registered with, and sends base64 after ``v1,``; a webhook without a secret is sent unsigned.
What it tells is a hint: the registry is read again before anything starts.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.datastructures import Headers

from service.problems import Problem
from service.schemas import NO_NULL

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "RLRISK_WEBHOOK_SECRET"
MIN_SECRET = 16
"""Characters; a shorter one could be guessed from one signed delivery."""
MAX_AGE_S = 300
"""Clocks and MLflow's retries (1, 2 and 4 s, or our Retry-After) fit into it many times."""
SIGNATURE, TIMESTAMP, DELIVERY = "X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"
CREATED, ALIAS_SET, TAG_SET = (
    "model_version.created",
    "model_version_alias.created",
    "model_version_tag.set",
)
EVENTS = (CREATED, ALIAS_SET, TAG_SET)
"""What a trigger can be about."""

_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,128}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class MlflowEvent(BaseModel):
    """What MLflow posts; fields that are not listed are let pass, for MLflow may add some."""

    model_config = ConfigDict(extra="allow")

    entity: Annotated[str, Field(max_length=64, pattern=NO_NULL)]
    action: Annotated[str, Field(max_length=64, pattern=NO_NULL)]
    data: dict[str, Any]
    workspace: str | None = None

    @property
    def kind(self) -> str:
        """The event as a webhook is registered for it."""
        return f"{self.entity}.{self.action}"


class Secrets:
    """The secrets that count, read for every delivery, so that rotation needs no restart."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def current(self) -> list[bytes]:
        """Every usable secret: lines of the file, and the environment's."""
        lines = [os.environ.get(SECRET_VARIABLE, "")]
        try:
            if self._path is not None and Path(self._path).exists():
                lines += Path(self._path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            logger.error("the webhook secrets cannot be read: %s", error)
        found = [line.strip() for line in lines if line.strip()]
        if any(len(each) < MIN_SECRET for each in found):
            logger.error("a webhook secret has fewer than %d characters: not used", MIN_SECRET)
        return [each.encode() for each in found if len(each) >= MIN_SECRET]


def check_signature(headers: Headers, body: bytes, secrets: list[bytes], now: float) -> str:
    """The id of a delivery that MLflow signed just now.

    Raises:
        Problem: ``not-found`` without any secret, ``bad-signature`` or ``stale-delivery``.
    """
    if not secrets:
        raise Problem("not-found", "no webhook secret is configured here")
    given, stamp = headers.get(SIGNATURE, ""), headers.get(TIMESTAMP, "")
    delivery_id = headers.get(DELIVERY, "")
    version, _, text = given.partition(",")
    is_readable = _DELIVERY.fullmatch(delivery_id) and _TIMESTAMP.fullmatch(stamp)
    if version != "v1" or not is_readable:
        raise _bad("it carries no v1 signature with time and id: register it with a secret")
    try:
        signature = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _bad("the signature is no base64") from error
    signed = f"{delivery_id}.{stamp}.".encode() + body
    matches = [
        hmac.compare_digest(hmac.digest(secret, signed, hashlib.sha256), signature)
        for secret in secrets
    ]
    if not any(matches):
        raise _bad("no secret that is configured here makes this signature")
    if not abs(now - int(stamp)) <= MAX_AGE_S:
        raise Problem(
            "stale-delivery",
            f"signed more than {MAX_AGE_S} s from the time here",
            headers=_CHALLENGE,
        )
    return delivery_id


_CHALLENGE = {"WWW-Authenticate": SIGNATURE}


def _bad(why: str) -> Problem:
    return Problem("bad-signature", why, headers=_CHALLENGE)
