"""A service before a gated registry, and people with tokens who ask it for overrides."""

from pathlib import Path
from typing import Any

from mlflow_rlrisk.attestation.keys import SigningKey
from service.app import create_app
from service.deps import Dependencies
from service.settings import ServiceSettings, load_settings
from service.signing.overrides import signed_override
from service.signing.protocol import Signer, SignerUnavailableError
from service.tables.assessments import AssessmentTable
from service.tables.opening import open_database
from service.tables.overrides import OverrideTable
from service.tables.tokens import Scope, TokenTable
from tests.gate.conftest import Gated
from tests.service.running_service import write_settings

REASON = "the owners of the product agreed to it"


class _KeysAtHand:
    """Signs in this process what the signer process signs in its own."""

    def __init__(self, settings: ServiceSettings, keys: list[SigningKey]) -> None:
        self._settings, self.keys = settings, keys
        self.is_away = False

    def is_there(self) -> bool:
        return not self.is_away

    def attest(self, assessment_id: str, run_id: str) -> str:
        raise AssertionError(f"{assessment_id} of {run_id}: nothing is assessed here")

    def override(self, override_id: str) -> str:
        if self.is_away:
            raise SignerUnavailableError("away")
        engine = open_database(self._settings.database)
        return signed_override(
            override_id,
            overrides=OverrideTable(engine),
            tokens=TokenTable(engine),
            settings=self._settings,
            keys=self.keys,
        )


class World:
    """A service over a gated registry, and people with tokens."""

    def __init__(self, gated: Gated, folder: Path) -> None:
        self.config = write_settings(
            folder,
            gated.uri,
            registry_uri=f"rlrisk+{gated.uri}",
            artifact_roots=[str(gated.checkpoint.parent)],
        )
        self.gated, self.settings = gated, load_settings(self.config)
        self.signer = _KeysAtHand(self.settings, [gated.world.key])
        self.engine = open_database(self.settings.database)
        self.table = TokenTable(self.engine)
        self.tokens: dict[str, tuple[str, str]] = {}
        for name in ("ann", "bob", "reader"):
            scope = Scope.READ if name == "reader" else Scope.OVERRIDE
            text, record = self.table.create(name, [scope])
            self.tokens[name] = (text, record.id)
        self.serve(self.signer)

    def serve(self, signer: Signer) -> None:
        deps = Dependencies(jobs=AssessmentTable(self.engine), tokens=self.table, signer=signer)
        self.app = create_app(self.settings, deps)

    def ask(self, who: str, path: str = "", method: str = "POST", **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[who][0]}"}
        sent = {"json": body} if method == "POST" and body else {}
        browser = self.app.test_client()
        return browser.open(f"/v1/overrides{path}", method=method, headers=headers, **sent)

    def override(self, who: str = "ann", **changes: Any) -> Any:
        body = {"model": "models:/prod-a/1", "alias": "champion", "reason": REASON} | changes
        return self.ask(who, **body)

    def promote(self, version: str = "1") -> None:
        self.gated.client.set_registered_model_alias("prod-a", "champion", version)
