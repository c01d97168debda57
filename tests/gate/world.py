"""A small world for the gate: keys, a ring, a policy file, versions and what is signed of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import yaml

from mlflow_rlrisk.attestation import (
    Attestation,
    AttestedMetric,
    Override,
    Place,
    sign_attestation,
    sign_override,
)
from mlflow_rlrisk.attestation.keys import KeyRing, PublicKey, SigningKey, to_text
from mlflow_rlrisk.config import PolicyConfig
from mlflow_rlrisk.content import FileEntry, hash_folder, text_digest

FILES = {
    "config.json": '{"model_type": "llama"}',
    "model.safetensors": "weights " * 64,
    "tokenizer/tokenizer.json": "{}",
}
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
PLACE = Place(registry="mlflow", workspace="default", model="coder", version="3")
ENTRIES = (
    FileEntry("config.json", 23, "1" * 64),
    FileEntry("model.safetensors", 512, "2" * 64),
)
SIZES = {entry.path: entry.size for entry in ENTRIES}


def attestation(place: Place = PLACE, **changes: Any) -> Attestation:
    """A complete attestation of level ``low``, made a minute before `NOW`."""
    values: dict[str, Any] = {
        "registry": place.registry,
        "workspace": place.workspace,
        "model": place.model,
        "version": place.version,
        "files": ENTRIES,
        "issued_at": to_text(NOW - timedelta(minutes=1)),
        "expires_at": to_text(NOW + timedelta(days=30)),
        "source": "models:/m-1",
        "checkpoint_digest": "c" * 64,
        "run_id": "f" * 32,
        "report_uri": "runs:/ffff/rlrisk/report.html",
        "report_digest": "d" * 64,
        "risk_level": "low",
        "metrics": {
            "rlrisk/risk_index": AttestedMetric(
                value=0.1, ci_low=0.05, ci_high=0.2, num_prompts=200
            ),
            "rlrisk/pass_at_8": AttestedMetric(
                value=0.8, ci_low=0.75, ci_high=0.85, num_prompts=200
            ),
        },
        "num_prompts": 200,
        "num_rollouts": 3200,
        "policy": "default",
        "policy_digest": PolicyConfig().digest(),
        "prompts_digest": "a" * 64,
        "verifier": "math",
        "verifier_digest": "b" * 64,
        "sampler_digest": "e" * 64,
        "judge_tier": "none",
        "code_version": "0.1.0",
        "tags": {"rlrisk.risk_level": text_digest("low")},
        "started_at": "2026-11-21T10:00:00+00:00",
        "finished_at": "2026-11-21T11:00:00+00:00",
    }
    return Attestation(**(values | changes))


def override_of(place: Place = PLACE, **changes: Any) -> Override:
    """An override for the alias ``rl-ready`` that lasts a day."""
    values: dict[str, Any] = {
        "registry": place.registry,
        "workspace": place.workspace,
        "model": place.model,
        "version": place.version,
        "files": ENTRIES,
        "issued_at": to_text(NOW - timedelta(minutes=1)),
        "expires_at": to_text(NOW + timedelta(hours=23)),
        "target": "alias.rl-ready",
        "reason": "agreed with the owners",
    }
    return Override(**(values | changes))


def ring_of(*keys: SigningKey, since: datetime = NOW - timedelta(days=1)) -> KeyRing:
    """A ring with these keys, named a, b, c ..."""
    ring = KeyRing({})
    for letter, key in zip("abcdefgh", keys, strict=False):
        ring = ring.with_key(PublicKey.of(key, letter, since))
    return ring


@dataclass(frozen=True, kw_only=True)
class World:
    """Files of one gate, and a signing key that its ring knows."""

    folder: Path
    key: SigningKey

    @classmethod
    def make(cls, folder: Path, rules: Sequence[dict[str, Any]], **policy: Any) -> "World":
        """Write private key, ring and policy into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        world = cls(folder=folder, key=SigningKey.generate())
        world.key.write(world.key_path)
        ring_of(world.key, since=datetime.now(UTC) - timedelta(days=1)).write(world.ring_path)
        world.write_policy(rules, **policy)
        return world

    @property
    def policy_path(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def ring_path(self) -> Path:
        return self.folder / "ring.json"

    @property
    def key_path(self) -> Path:
        return self.folder / "key.pem"

    def write_policy(self, rules: Sequence[dict[str, Any]], **policy: Any) -> None:
        content = {"version": 1, "key_ring": "ring.json", "rules": list(rules), **policy}
        self.policy_path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def sign(self, version: Any, entries: tuple[FileEntry, ...], **changes: Any) -> str:
        """Attest a registered version with these files."""
        now = datetime.now(UTC)
        place = replace(
            PLACE,
            model=version.name,
            version=str(version.version),
            workspace=version.workspace,
        )
        times = {
            "issued_at": to_text(now - timedelta(seconds=2)),
            "expires_at": to_text(now + timedelta(days=30)),
        }
        made = attestation(
            place, **({"files": entries, "source": version.source, **times} | changes)
        )
        return sign_attestation(made, self.key)

    def sign_override(
        self, version: Any, entries: tuple[FileEntry, ...], target: str, **changes: Any
    ) -> str:
        """Override the policy for a registered version."""
        now = datetime.now(UTC)
        place = replace(PLACE, model=version.name, version=str(version.version))
        times = {
            "issued_at": to_text(now - timedelta(seconds=2)),
            "expires_at": to_text(now + timedelta(hours=23)),
        }
        made = override_of(place, **({"files": entries, "target": target, **times} | changes))
        return sign_override(made, [self.key])


def checkpoint_folder(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Write a folder that stands for a checkpoint."""
    for name, text in (files or FILES).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def logged_source(client: mlflow.MlflowClient, folder: Path) -> tuple[str, str]:
    """Log a checkpoint to a new run; returns the source of a version and the run's id."""
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(checkpoint_folder(folder)), "checkpoint")
    return f"runs:/{run.info.run_id}/checkpoint", run.info.run_id


def entries_of(folder: Path) -> tuple[FileEntry, ...]:
    """What is attested of a folder."""
    return hash_folder(folder)


def one_object(text: str) -> dict[str, Any]:
    """The one JSON object that a command printed."""
    found = json.loads(text)
    assert isinstance(found, dict)
    return found
