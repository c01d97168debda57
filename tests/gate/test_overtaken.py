"""Nobody slips in between a decision of the gate and the change that it allowed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.gate.gatekeeper import Gatekeeper
from tests.gate.conftest import Gated, refused
from tests.gate.test_superseded import ago, made, put
from tests.gate.world import checkpoint_folder


def overtaking(
    monkeypatch: pytest.MonkeyPatch, method: str, change: Callable[[int], None]
) -> list[int]:
    """Let ``change`` happen, by another thread, after each decision of this kind."""
    decide, times = getattr(Gatekeeper, method), list[int]()

    def decided(*arguments: Any) -> Any:
        answer = decide(*arguments)
        times.append(len(times))
        with ThreadPoolExecutor(1) as another:
            another.submit(change, times[-1]).result()
        return answer

    monkeypatch.setattr(Gatekeeper, method, decided)
    return times


def test_a_newer_verdict_that_came_after_the_decision_about_an_older_one_stays(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = made(gated, "prod-a")
    low = gated.world.sign(version, gated.files, issued_at=ago(hours=3))
    high = gated.world.sign(version, gated.files, risk_level="high")
    overtaking(monkeypatch, "admit_tag", lambda _: gated.tag(version, ATTESTATION_TAG, high))

    with refused("the version has a newer one"):
        put(gated, "prod-a", ATTESTATION_TAG, low)

    assert gated.plain.get_model_version("prod-a", "1").tags[ATTESTATION_TAG] == high


def test_a_tag_does_not_wait_for_those_of_other_versions(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = made(gated, "prod-a")
    other = gated.version("prod-a", is_proven=True)
    times = overtaking(
        monkeypatch, "admit_tag", lambda time: gated.tag(other, "rlrisk.note", str(time))
    )

    put(gated, "prod-a", ATTESTATION_TAG, gated.world.sign(version, gated.files))

    assert times == [0]


def test_an_alias_that_was_set_after_the_decision_does_not_come_along_by_a_rename(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = made(gated, "dev-a")
    times = overtaking(
        monkeypatch,
        "admit_renaming",
        lambda _: gated.plain.set_registered_model_alias("dev-a", "champion", version.version),
    )

    with refused("has no signed attestation"):
        gated.store.rename_registered_model("dev-a", "prod-a")

    assert times == [0]
    assert dict(gated.plain.get_registered_model("dev-a").aliases) == {"champion": 1}


def test_a_model_that_changes_without_end_is_refused(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(gated, "dev-a")
    times = overtaking(
        monkeypatch,
        "admit_renaming",
        lambda time: gated.plain.set_registered_model_alias("dev-a", f"a{time}", "1"),
    )

    with refused("others go on changing 'dev-a' while it is decided; try again"):
        gated.store.rename_registered_model("dev-a", "prod-a")

    assert len(times) == 20
    assert len(gated.plain.get_registered_model("dev-a").aliases) == 20


def exchange(gated: Gated, name: str) -> None:
    """In the place of a model, another one of its name, whose version 1 nobody looked at."""
    other = checkpoint_folder(gated.checkpoint.parent / "other", {"model.safetensors": "other"})
    gated.plain.delete_registered_model(name)
    gated.plain.create_registered_model(name)
    gated.plain.create_model_version(name, other.as_uri(), gated.run_id)


def move_alias(gated: Gated) -> None:
    gated.store.set_registered_model_alias("prod-a", "champion", "1")


def move_stage(gated: Gated) -> None:
    gated.store.transition_model_version_stage("prod-a", "1", "Production", False)


@pytest.mark.parametrize("move", [move_alias, move_stage])
def test_a_version_that_took_the_place_of_the_proven_one_after_the_decision_is_judged_itself(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, move: Callable[[Gated], None]
) -> None:
    gated.version("prod-a", is_proven=True)

    def once(time: int) -> None:
        if time == 0:
            exchange(gated, "prod-a")

    overtaking(monkeypatch, "admit", once)

    with refused("it has no signed attestation"):
        move(gated)

    held = gated.plain.get_registered_model("prod-a")
    assert dict(held.aliases) == {}
    assert [each.current_stage for each in held.latest_versions] == ["None"]
    assert [each.outcome for each in gated.entries()] == ["block"]


def test_a_version_that_came_into_the_stage_after_the_decision_is_judged_before_it_is_archived(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.world.write_policy([{"name": "shelf", "models": ["prod-*"], "stages": ["Archived"]}])
    gated.version("prod-a"), gated.version("prod-a")
    overtaking(
        monkeypatch,
        "admit_archiving",
        lambda _: gated.plain.transition_model_version_stage("prod-a", "1", "Staging", False),
    )

    with refused("stage 'Archived' of 'prod-a' version 1 is blocked"):
        gated.store.transition_model_version_stage("prod-a", "2", "Staging", True)

    held = gated.plain.get_registered_model("prod-a").latest_versions
    assert sorted((each.version, each.current_stage) for each in held) == [
        (1, "Staging"),
        (2, "None"),
    ]


def test_a_copy_holds_the_files_of_the_version_that_was_judged(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.version("dev-a", is_proven=True)
    gated.plain.create_registered_model("vault-a")
    overtaking(monkeypatch, "admit_creation", lambda _: exchange(gated, "dev-a"))

    with refused("it has no signed attestation"):
        gated.store.create_model_version("vault-a", "models:/dev-a/1", gated.run_id)

    assert gated.plain.get_registered_model("vault-a").latest_versions == []


def move_stage_and_archive(gated: Gated) -> None:
    gated.store.transition_model_version_stage("prod-a", "1", "Production", True)


@pytest.mark.parametrize("move", [move_alias, move_stage, move_stage_and_archive])
def test_a_version_on_its_way_does_not_wait_for_other_aliases(
    gated: Gated, monkeypatch: pytest.MonkeyPatch, move: Callable[[Gated], None]
) -> None:
    gated.version("prod-a", is_proven=True)
    times = overtaking(
        monkeypatch,
        "admit",
        lambda time: gated.plain.set_registered_model_alias("prod-a", f"a{time}", "1"),
    )

    move(gated)

    assert times == [0]
    assert dict(gated.plain.get_registered_model("prod-a").aliases) == (
        {"a0": 1, "champion": 1} if move is move_alias else {"a0": 1}
    )


def test_on_postgresql_a_verdict_tag_waits_for_nobody_who_waits_for_its_model(
    gated_on_postgresql: Gated,
) -> None:
    """A transition that archives holds versions first, and then asks for the model."""
    gated = gated_on_postgresql
    version, _ = gated.version("prod-a"), gated.version("prod-a")
    gated.plain.transition_model_version_stage("prod-a", "1", "Staging", False)
    archived, tagged, names = threading.Event(), threading.Event(), list[str]()

    def archive() -> None:
        names.append(threading.current_thread().name)
        gated.plain.transition_model_version_stage("prod-a", 2, "Staging", True)

    def pause(*sent: Any) -> None:
        is_archived = sent[2].startswith("UPDATE model_versions") and not archived.is_set()
        if is_archived and threading.current_thread().name in names:
            archived.set()
            tagged.wait(5)  # in vain, where the tag waits for the version

    sa.event.listen(gated.plain.engine, "after_cursor_execute", pause)
    with ThreadPoolExecutor(1) as another:
        archiving = another.submit(archive)
        assert archived.wait(20)
        put(gated, "prod-a", ATTESTATION_TAG, gated.world.sign(version, gated.files))
        tagged.set()
        archiving.result()

    first, second = (gated.plain.get_model_version("prod-a", number) for number in "12")
    assert ATTESTATION_TAG in first.tags
    assert (first.current_stage, second.current_stage) == ("Archived", "Staging")
