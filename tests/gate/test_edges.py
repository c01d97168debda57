"""What happens seldom: remote artifacts, chains of copies, registries that do not answer."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.store.entities.paged_list import PagedList

import mlflow_rlrisk
from mlflow_rlrisk.attestation import ATTESTATION_TAG, sign_attestation
from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.content import hash_folder
from mlflow_rlrisk.errors import CheckpointError, PromotionRefusedError
from mlflow_rlrisk.gate import files
from mlflow_rlrisk.gate.client import registry_name
from mlflow_rlrisk.gate.evidence import gather
from mlflow_rlrisk.gate.gatekeeper import actor
from mlflow_rlrisk.gate.promotion_policy import PolicySource
from mlflow_rlrisk.gate.reconcile import Reconciler
from mlflow_rlrisk.gate.refusals import refusing
from mlflow_rlrisk.model_reference import ModelSource
from tests.gate.conftest import Gated
from tests.gate.world import PLACE, attestation, checkpoint_folder, one_object


def test_a_folder_is_hashed_only_where_it_holds_files_and_nothing_else(tmp_path: Path) -> None:
    import os

    folder = checkpoint_folder(tmp_path / "checkpoint")
    assert [entry.path for entry in hash_folder(folder)] == [
        "config.json",
        "model.safetensors",
        "tokenizer/tokenizer.json",
    ]
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(CheckpointError, match="link is a link"):
        hash_folder(folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(CheckpointError, match="pipe is neither a file nor a folder"):
        hash_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no files"):
        hash_folder(tmp_path / "empty")


def test_the_registrys_name_comes_from_the_policy(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.world.write_policy([{"name": "r", "aliases": ["x"]}], registry="ours")

    assert registry_name() == "ours"
    monkeypatch.setenv("RLRISK_REGISTRY", "theirs")
    assert registry_name() == "theirs"


class Copies:
    """A registry in which version n is a copy of version n + 1, up to the last."""

    def __init__(self, last: int, error: str = "RESOURCE_DOES_NOT_EXIST") -> None:
        self._last, self._error = last, error

    def get_model_version(self, name: str, version: str) -> Any:
        if int(version) > self._last:
            failure = MlflowException("gone", INTERNAL_ERROR)
            failure.error_code = self._error
            raise failure
        source = f"models:/{name}/{int(version) + 1}"
        return SimpleNamespace(name=name, version=version, source=source, tags={})

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        return "nowhere"


def test_copies_of_copies_are_followed_to_a_limit() -> None:
    place = replace(PLACE, version="1")

    # The seventeenth is the original: sixteen copies lead to it.
    assert gather(Copies(17), place, with_files=False).attested_places[0].version == "17"
    with pytest.raises(CheckpointError, match="more than 16 copies of copies"):
        gather(Copies(18), place, with_files=False)
    with pytest.raises(MlflowException, match="gone"):
        gather(Copies(3, "INTERNAL_ERROR"), place, with_files=False)


def test_former_names_are_asked_for_only_where_an_attestation_names_another_model() -> None:
    def names_of(tags: dict[str, str]) -> list[str]:
        registry = SimpleNamespace(
            get_model_version=lambda name, version: SimpleNamespace(
                name=name, version=version, source="/somewhere", tags=tags
            )
        )
        asked = list[str]()  # each is a search of the log, at every reading of an alias
        place = replace(PLACE, model="renamed")
        gather(registry, place, lambda name: asked.append(name) or [], with_files=False)
        return asked

    key = SigningKey.generate()
    signed = {
        name: {ATTESTATION_TAG: sign_attestation(attestation(replace(PLACE, model=name)), key)}
        for name in ("renamed", "coder")
    }
    assert [names_of(tags) for tags in ({}, signed["renamed"], signed["coder"])] == [
        [],
        [],
        ["renamed"],
    ]


def test_what_a_store_or_a_fault_says_takes_no_more_than_a_line_of_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("x\n" * 5000)

    monkeypatch.setattr(Copies, "get_model_version_download_uri", fail)
    found = gather(Copies(1), replace(PLACE, version="1"))
    with pytest.raises(MlflowException) as caught, refusing("read"):
        fail()

    assert (found.files, found.files_fault) == (None, f"RuntimeError: {'x ' * 100}")
    told = f"RuntimeError: {'x ' * 143}"
    assert caught.value.message == (
        f"rlrisk gate: 'read' is refused, it could not be decided ({told})"
    )


def listing(entries: dict[str | None, list[tuple[str, int | None]]]) -> Any:
    def list_artifacts(path: str | None) -> list[Any]:
        return [
            SimpleNamespace(path=name, is_dir=size == -1, file_size=size)
            for name, size in entries.get(path, [])
        ]

    return SimpleNamespace(list_artifacts=list_artifacts)


def test_listings_are_bounded_and_need_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(entries: dict[str | None, list[tuple[str, int | None]]]) -> dict[str, int]:
        monkeypatch.setattr(files, "_repository", lambda _: listing(entries))
        return files.list_sizes("s3://bucket/x")

    assert sizes({None: [("a", 1), ("d", -1)], "d": [("d/b", 2)]}) == {"a": 1, "d/b": 2}
    assert len(sizes({None: [(str(n), 1) for n in range(files.MAX_FILES)]})) == files.MAX_FILES
    with pytest.raises(CheckpointError, match="more than 10000 files"):
        sizes({None: [(str(n), 1) for n in range(files.MAX_FILES + 1)]})
    assert sizes({None: [(str(n), -1) for n in range(files.MAX_FOLDERS - 1)]}) == {}  # and the top
    with pytest.raises(CheckpointError, match="or 1000 folders"):
        sizes({None: [(str(n), -1) for n in range(files.MAX_FOLDERS)]})
    with pytest.raises(CheckpointError, match="does not tell the size of a"):
        sizes({None: [("a", None)]})


def test_a_local_folder_holds_what_mlflow_lists_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint_folder(tmp_path / "a b", {"x": "1", ".y": "22", "d/e/f": "", "d/#g": "3"})
    (folder / "empty").mkdir()
    (folder / "linked").symlink_to(folder / "d")
    (folder / "link").symlink_to(folder / ".y")
    found = files.list_sizes(folder.as_uri())

    monkeypatch.setattr(files, "_local_folder", lambda _: None)

    sizes = {"x": 1, ".y": 2, "d/e/f": 0, "d/#g": 1, "linked/e/f": 0, "linked/#g": 1, "link": 2}
    assert found == files.list_sizes(folder.as_uri()) == sizes


def test_a_folder_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    assert files.list_sizes((tmp_path / "gone").as_uri()) == {}
    (tmp_path / "file").write_text("x")
    assert files.list_sizes((tmp_path / "file").as_uri()) == {}


def test_a_server_looks_where_it_stores_artifacts_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_folder(tmp_path / "stored" / "1" / "checkpoint")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "stored"))

    found = files.list_sizes("mlflow-artifacts:/1/checkpoint")

    assert found["model.safetensors"] == 512
    elsewhere = checkpoint_folder(tmp_path / "elsewhere").as_uri()
    assert files.list_sizes(elsewhere) == found  # what is not its own it looks up where it lies


def test_the_actor_is_the_user_and_address_of_the_request() -> None:
    app = flask.Flask("test")
    login = {"Authorization": "Basic YWxpY2U6c2VjcmV0"}  # alice

    with app.test_request_context(headers=login, environ_base={"REMOTE_ADDR": "10.0.0.7"}):
        assert actor() == "alice@10.0.0.7"
    with app.test_request_context():
        assert actor() == "anonymous@unknown"


def remote(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make artifacts look as if they had to be downloaded."""

    def resolved(reference: str) -> ModelSource:
        name, _, version = reference.removeprefix("models:/").partition("/")
        return ModelSource(
            reference=reference,
            artifact_uri=gated.checkpoint.as_uri(),
            registered_name=name,
            version=version,
        )

    for module in ("trainer", "reconcile"):
        monkeypatch.setattr(f"mlflow_rlrisk.gate.{module}.resolve_reference", resolved)


def test_remote_artifacts_are_downloaded_before_they_are_hashed(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rlrisk: Any
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.plain.set_registered_model_alias("prod-a", "champion", "1")
    remote(gated, monkeypatch)
    bar = PolicySource(gated.world.policy_path).current()
    at_exit: list[Any] = []
    monkeypatch.setattr("atexit.register", lambda *call, **named: at_exit.append((call, named)))

    there = mlflow_rlrisk.verify("models:/prod-a/1", dst_path=tmp_path / "new" / "here")
    beside = mlflow_rlrisk.verify("models:/prod-a/1", dst_path=tmp_path / "new" / "here")
    private = mlflow_rlrisk.verify("models:/prod-a/1")
    (finding,) = Reconciler(gated.client, None).run(bar)

    assert there != beside  # what was verified before is not written over
    assert all(each.is_relative_to(tmp_path / "new" / "here") for each in (there, beside))
    assert hash_folder(there) == hash_folder(private) == gated.files
    assert finding.action == "kept"
    found = one_object(rlrisk("verify", "models:/prod-a/1", "--json")[1])
    assert (found["outcome"], found["path"]) == ("promote", None)  # the download is gone
    assert "--out" in rlrisk("verify", "models:/prod-a/1")[1]
    told = rlrisk("verify", "models:/prod-a/1", "--out", str(tmp_path / "kept"))[1]
    assert hash_folder(Path(told.split(": ")[1].strip())) == gated.files
    (gated.checkpoint / "config.json").write_text('{"model_type": "LLAMA"}')
    with pytest.raises(PromotionRefusedError, match=r"content of config\.json"):
        mlflow_rlrisk.verify("models:/prod-a/1")
    (gone,) = Reconciler(gated.client, None).run(bar)  # without a log nothing is restored
    assert (gone.action, gone.restored_to) == ("removed", None)
    assert "not logged" not in gone.message
    for (call, *given), named in at_exit:
        if call is shutil.rmtree:
            call(*given, **named)
            call(*given, **named)  # the trainer has removed it already
    assert not private.exists()


def test_content_is_hashed_again_only_when_it_has_changed(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.plain.set_registered_model_alias("prod-a", "champion", "1")
    bar, reconciler = (
        PolicySource(gated.world.policy_path).current(),
        Reconciler(gated.client, None),
    )
    hashed: list[Path] = []

    def counted(folder: Path) -> Any:
        hashed.append(folder)
        return hash_folder(folder)

    monkeypatch.setattr("mlflow_rlrisk.gate.reconcile.hash_folder", counted)
    found = [reconciler.run(bar)[0].action for _ in range(2)]
    assert (found, hashed) == (["kept"] * 2, [gated.checkpoint])
    (gated.checkpoint / "config.json").write_text('{"model_type": "LLAMA"}')
    assert reconciler.run(bar)[0].action == "removed"


def test_files_that_look_unchanged_are_hashed_again_after_an_hour(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write through a memory map need not move a file's times."""
    gated.version("prod-a", is_proven=True)
    gated.plain.set_registered_model_alias("prod-a", "champion", "1")
    bar, now = PolicySource(gated.world.policy_path).current(), [100.0]
    reconciler = Reconciler(gated.client, None, clock=lambda: now[0])
    changed = [gated.files[0]._replace(sha256="0" * 64), *gated.files[1:]]
    found = []

    for moment in (100.0, 3699.0, 3700.0):
        now[0] = moment
        found.append(reconciler.run(bar)[0].action)
        monkeypatch.setattr(
            "mlflow_rlrisk.gate.reconcile.hash_folder", lambda _: tuple(sorted(changed))
        )

    assert found == ["kept", "kept", "removed"]


def test_every_page_of_models_is_looked_at_and_what_cannot_be_changed_is_told(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("prod-a", "prod-b"):
        gated.version(name)
        gated.plain.set_registered_model_alias(name, "champion", "1")
    gated.version("prod-c")
    gated.plain.set_registered_model_alias("prod-c", "scratch", "1")
    client = gated.client
    whole = {model.name: model for model in client.search_registered_models()}
    pages = {None: (["prod-a"], "2"), "2": (["prod-b", "prod-c"], None)}

    def search(filter_string: str | None, page_token: str | None = None) -> Any:
        names, token = pages[page_token] if filter_string is None else ([], None)
        return PagedList([whole[name] for name in names], token)

    def refuse(name: str, alias: str) -> None:
        raise MlflowException("read-only")

    monkeypatch.setattr(client, "search_registered_models", search)
    monkeypatch.setattr(client, "delete_registered_model_alias", refuse)
    bar = PolicySource(gated.world.policy_path).current()

    findings = Reconciler(client, gated.store.gatekeeper.log).run(bar)

    assert [(each.model, each.action) for each in findings] == [
        ("prod-a", "failed"),
        ("prod-b", "failed"),
    ]
    assert "cannot be taken back: model='prod-a': read-only" in findings[0].message
    assert "alias 'champion' of prod-b cannot be taken back: model='prod-b'" in caplog.text


def test_files_that_cannot_be_hashed_and_versions_that_are_gone_are_not_proven(
    gated: Gated,
) -> None:
    gated.version("prod-a", is_proven=True)
    gated.version("prod-a", is_proven=True)
    for number in ("1", "2"):
        gated.store.set_registered_model_alias("prod-a", "champion", number)
    gated.plain.delete_model_version("prod-a", "1")
    (gated.checkpoint / "link").symlink_to("config.json")
    bar = PolicySource(gated.world.policy_path).current()

    (finding,) = Reconciler(gated.client, gated.store.gatekeeper.log).run(bar)

    assert (finding.action, finding.restored_to) == ("removed", None)
    assert (
        "its files cannot be listed (CheckpointError: link is a link, whose target may change"
        in finding.message
    )
    assert mlflow.get_registry_uri().startswith("rlrisk+")
