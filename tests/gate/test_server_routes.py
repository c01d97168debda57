"""Every route of a real server by which a version can reach a protected place."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.content import FileEntry
from mlflow_rlrisk.errors import PromotionRefusedError
from tests.gate.route_lists import ENDPOINTS, PREFIXES, TAKES_LINE_BREAKS
from tests.gate.servers import Server, gated_server
from tests.gate.world import entries_of, logged_source


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A gated server with a checkpoint that versions can be made of."""

    server: Server
    source: str
    run_id: str
    files: tuple[FileEntry, ...]
    counter: "itertools.count[int]"

    def version(self, model: str, *, is_proven: bool) -> Any:
        """The version of a new model, attested or not."""
        client = self.server.client
        client.create_registered_model(model)
        made = client.create_model_version(model, self.source, self.run_id)
        if is_proven:
            envelope = self.server.world.sign(made, self.files)
            client.set_model_version_tag(model, made.version, ATTESTATION_TAG, envelope)
        return made

    def name(self, prefix: str) -> str:
        return f"{prefix}-{next(self.counter)}"

    def call(self, method: str, body: Any, prefix: str = PREFIXES[0]) -> tuple[int, str]:
        verb, path = ENDPOINTS[method][0]
        return self.server.send(verb, f"{prefix}{path}", body)

    @property
    def weights(self) -> Path:
        found = (self.server.folder / "artifacts").glob(f"**/{self.run_id}/**/model.safetensors")
        return next(iter(found))


@pytest.fixture(
    scope="module",
    params=[
        # One worker of xdist each, so that no server is started twice.
        pytest.param(
            (database, with_auth),
            id=name,
            marks=pytest.mark.xdist_group(f"routes-{name}"),
        )
        for database, with_auth, name in (
            ("sqlite", False, "sqlite"),
            ("sqlite", True, "sqlite-basic-auth"),
            ("postgresql", False, "postgresql"),
            ("postgresql", True, "postgresql-basic-auth"),
        )
    ],
)
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    database, with_auth = request.param
    folder = tmp_path_factory.mktemp("gated")
    with gated_server(folder / "server", database=database, with_auth=with_auth) as server:
        source, run_id = logged_source(server.client, folder / "checkpoint")
        yield Registry(
            server=server,
            source=source,
            run_id=run_id,
            files=entries_of(folder / "checkpoint"),
            counter=itertools.count(),
        )


def was_refused(answer: tuple[int, str]) -> bool:
    status, text = answer
    if status != 403:
        return False
    message: str = json.loads(text)["message"]
    return message.startswith("rlrisk gate: ") and "\n" not in message


Body = Callable[[Registry, Any], Any]


def alias(name: str = "champion") -> Body:
    return lambda _, v: {"name": v.name, "alias": name, "version": v.version}


def stage(name: str = "Production") -> Body:
    return lambda _, v: {
        "name": v.name,
        "version": v.version,
        "stage": name,
        "archive_existing_versions": False,
    }


def copy_into_vault(registry: Registry, version: Any) -> Any:
    name = registry.name("vault")
    registry.server.client.create_registered_model(name)
    return {"name": name, "source": f"models:/{version.name}/{version.version}"}


def rename_into(registry: Registry, version: Any) -> Any:
    """The version's model is unprotected, and has what is protected under its new name."""
    client = registry.server.client
    client.set_registered_model_alias(version.name, "champion", version.version)
    return {"name": version.name, "new_name": registry.name("prod")}


def verdict_tag(_: Registry, version: Any) -> Any:
    return {
        "name": version.name,
        "version": version.version,
        "key": "rlrisk.risk_level",
        "value": "low",
    }


def stale_tag(_: Registry, version: Any) -> Any:
    return {"name": version.name, "version": version.version, "key": "rlrisk.risk_index"}


MOVES: dict[str, tuple[str, str, Body]] = {
    "alias": ("setRegisteredModelAlias", "prod", alias()),
    "alias in other case": ("setRegisteredModelAlias", "prod", alias("ChAmPiOn")),
    "alias with a line break": ("setRegisteredModelAlias", "prod", alias("champion\n")),
    "alias in full width": ("setRegisteredModelAlias", "prod", alias("ｃｈａｍｐｉｏｎ")),
    "alias with a Cyrillic letter": ("setRegisteredModelAlias", "prod", alias("сhampion")),
    "alias of a model in other case": ("setRegisteredModelAlias", "PROD", alias()),
    "alias of a look-alike model": ("setRegisteredModelAlias", "рrod", alias()),
    "alias of an escaped model": ("setRegisteredModelAlias", "%70rod", alias()),
    "alias of a model after a space": ("setRegisteredModelAlias", " prod", alias()),
    "alias, doubly encoded": (
        "setRegisteredModelAlias",
        "prod",
        lambda r, v: json.dumps(json.dumps(alias()(r, v))),
    ),
    "alias of version 01": (
        "setRegisteredModelAlias",
        "prod",
        lambda r, v: {**alias()(r, v), "version": f"0{v.version}"},
    ),
    "stage": ("transitionModelVersionStage", "prod", stage()),
    "stage in other case": ("transitionModelVersionStage", "prod", stage("pRODUCTION")),
    "copy into a protected model": ("createModelVersion", "dev", copy_into_vault),
    "rename into a protected name": ("renameRegisteredModel", "dev", rename_into),
    "tag that shows a verdict": ("setModelVersionTag", "prod", verdict_tag),
    "removal of a tag": ("deleteModelVersionTag", "prod", stale_tag),
}


@pytest.mark.slow
@pytest.mark.mlflow
@pytest.mark.parametrize("move", MOVES)
def test_a_move_is_refused_unproven_and_allowed_proven(registry: Registry, move: str) -> None:
    method, model, body = MOVES[move]
    unproven = registry.version(registry.name(model), is_proven=False)
    proven = registry.version(registry.name(model), is_proven=True)

    for prefix in PREFIXES:
        assert was_refused(registry.call(method, body(registry, unproven), prefix))
    for prefix in PREFIXES:
        status, text = registry.call(method, body(registry, proven), prefix)
        if move == "alias with a line break" and not TAKES_LINE_BREAKS:
            assert "Invalid alias name" in text  # MLflow's own word, where the gate has none
            continue
        assert status == 200, text
        if method == "renameRegisteredModel":
            proven = registry.version(registry.name(model), is_proven=True)

    held = registry.server.client.get_model_version(unproven.name, unproven.version)
    assert held.current_stage == "None"
    assert held.aliases == ([] if model != "dev" or "rename" not in move else ["champion"])


@pytest.mark.slow
@pytest.mark.mlflow
def test_verdicts_are_not_set_on_models_nor_brought_along_by_creation(registry: Registry) -> None:
    name = registry.name("prod")
    tags = [{"key": "rlrisk.risk_level", "value": "low"}]
    registry.server.client.create_registered_model(name)
    created = {"name": name, "source": registry.source, "run_id": registry.run_id}

    refusals = [
        registry.call("createModelVersion", {**created, "tags": tags}),
        registry.call("createRegisteredModel", {"name": registry.name("prod"), "tags": tags}),
        registry.call("setRegisteredModelTag", {"name": name, **tags[0]}),
        registry.call("deleteRegisteredModelTag", {"name": name, "key": "rlrisk.risk_level"}),
        registry.call("createModelVersion", {**created, "name": registry.name("vault")}),
    ]

    assert [was_refused(answer) for answer in refusals] == [True] * 5
    plain = {"name": name, "key": "team", "value": "rl"}
    assert registry.call("setRegisteredModelTag", plain)[0] == 200
    assert registry.call("createModelVersion", created)[0] == 200


@pytest.mark.slow
@pytest.mark.mlflow
def test_a_protected_alias_or_stage_is_not_read_after_its_files_changed(registry: Registry) -> None:
    version = registry.version(registry.name("prod"), is_proven=True)
    by_alias = {"name": version.name, "alias": "champion"}
    by_stage = {"name": version.name, "stages": ["Production"]}
    assert registry.call("setRegisteredModelAlias", alias()(registry, version))[0] == 200
    assert registry.call("transitionModelVersionStage", stage()(registry, version))[0] == 200
    weights, before = registry.weights, registry.weights.read_bytes()

    weights.write_bytes(before + b"!")
    answers = [
        registry.call("getModelVersionByAlias", by_alias),
        registry.call("getLatestVersions", by_stage),
    ]
    weights.write_bytes(before)

    assert [was_refused(answer) for answer in answers] == [True, True]
    assert "has 513 bytes, 512 were attested" in answers[0][1]
    assert registry.call("getModelVersionByAlias", by_alias)[0] == 200
    assert registry.call("getLatestVersions", by_stage)[0] == 200
    assert registry.call("deleteRegisteredModelAlias", by_alias)[0] == 200


@pytest.mark.slow
@pytest.mark.mlflow
def test_the_stock_client_shows_the_refusal_as_one_sentence(registry: Registry) -> None:
    version = registry.version(registry.name("prod"), is_proven=False)

    with pytest.raises(mlflow.MlflowException) as caught:
        registry.server.client.set_registered_model_alias(version.name, "champion", version.version)

    assert str(caught.value) == (
        f"PERMISSION_DENIED: rlrisk gate: alias 'champion' of '{version.name}' version 1 is "
        f"blocked by rule 'guarded': it has no signed attestation; no report; run: rlrisk assess "
        f"models:/{version.name}/1 --prompts FILE --verifier VERIFIER --register --sign"
    )
    refusal = PromotionRefusedError.told_by(caught.value)
    assert refusal is not None
    assert (refusal.outcome, refusal.reason) == ("block", "unscored")


@pytest.mark.slow
@pytest.mark.mlflow
def test_a_copy_by_the_client_is_let_in_where_its_original_is_proven(registry: Registry) -> None:
    client = registry.server.client
    proven = registry.version(registry.name("dev"), is_proven=True)
    unproven = registry.version(registry.name("dev"), is_proven=False)

    copied = client.copy_model_version(f"models:/{proven.name}/1", registry.name("vault"))
    with pytest.raises(mlflow.MlflowException, match=r"rlrisk gate: .* has no signed attestation"):
        client.copy_model_version(f"models:/{unproven.name}/1", registry.name("vault"))
    onward = client.copy_model_version(f"models:/{copied.name}/1", registry.name("prod"))
    client.set_registered_model_alias(onward.name, "champion", onward.version)

    assert client.get_model_version_by_alias(onward.name, "champion").version == onward.version


@pytest.mark.slow
@pytest.mark.mlflow
def test_everything_unprotected_works_as_before(registry: Registry) -> None:
    client = registry.server.client
    version = registry.version(registry.name("dev"), is_proven=False)

    client.set_registered_model_alias(version.name, "champion", "1")
    client.set_model_version_tag(version.name, "1", "rlrisk.risk_level", "low")
    assert registry.call("transitionModelVersionStage", stage()(registry, version))[0] == 200
    assert client.get_model_version_by_alias(version.name, "champion").version == "1"
    client.set_registered_model_alias(
        registry.version(registry.name("prod"), is_proven=False).name, "scratch", "1"
    )
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "loss", 0.5)
    prompt = registry.server.client.register_prompt(registry.name("greeting"), "Hello {{name}}")
    client.set_prompt_alias(prompt.name, "champion", prompt.version)

    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}


@pytest.mark.slow
@pytest.mark.mlflow
def test_mlflow_evaluate_works_as_before(registry: Registry) -> None:
    if registry.server.user is not None or not registry.server.database.startswith("sqlite"):
        pytest.skip("evaluation does not touch the registry's database or its users")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(registry.server.url)
    mlflow.set_registry_uri(registry.server.url)
    try:
        with mlflow.start_run(experiment_id="0"):  # whatever another test has made the active one
            result = mlflow.models.evaluate(
                data=pd.DataFrame({"given": [1.0, 2.0, 3.0], "right": [1.0, 2.0, 4.0]}),
                predictions="given",
                targets="right",
                model_type="regressor",
                evaluators="default",
                evaluator_config={"log_explainer": False},
            )
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])

    assert result.metrics["mean_absolute_error"] == pytest.approx(1 / 3)


@pytest.mark.slow
@pytest.mark.mlflow
def test_two_workers_and_eight_clients_write_one_unbroken_log(registry: Registry) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from mlflow_rlrisk.gate.registry_database import open_log

    versions = [registry.version(registry.name("prod"), is_proven=True) for _ in range(4)]
    for version in versions:  # MLflow itself answers 400 where two clients make one alias at once
        assert registry.call("setRegisteredModelAlias", alias()(registry, version))[0] == 200
    with ThreadPoolExecutor(8) as clients:
        bodies = [alias()(registry, version) for version in versions * 10]
        answers = list(
            clients.map(lambda body: registry.call("setRegisteredModelAlias", body)[0], bodies)
        )

    entries = open_log(f"rlrisk+{registry.server.database}").read()  # checks the chain
    assert answers == [200] * 40
    assert sum(each.entry.model in {v.name for v in versions} for each in entries) >= 44
