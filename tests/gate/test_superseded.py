"""Older statements do not come back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import mlflow
import pytest

from mlflow_rlrisk.attestation import ATTESTATION_TAG
from mlflow_rlrisk.attestation.keys import KeyRing, SigningKey, to_text
from tests.gate.conftest import RULES, Gated, refused, tag
from tests.gate.world import ring_of

OVERRIDE = "rlrisk.override.alias.champion"
Move = Callable[[Gated, str], str]


def ago(**time: float) -> str:
    return to_text(datetime.now(UTC) - timedelta(**time))


def made(gated: Gated, name: str) -> Any:
    """A version of a new model, made through the gate."""
    gated.store.create_registered_model(name)
    return gated.client.create_model_version(name, gated.source, gated.run_id)


def put(gated: Gated, name: str, key: str, envelope: str) -> None:
    gated.store.set_model_version_tag(name, "1", tag(key, envelope))


def through_an_unruled_name(gated: Gated, older: str) -> None:
    gated.store.rename_registered_model("prod-a", "scratch")
    put(gated, "scratch", ATTESTATION_TAG, older)
    gated.store.rename_registered_model("scratch", "prod-a")


def through_an_unruled_name_to_a_third(gated: Gated, older: str) -> None:
    gated.store.rename_registered_model("prod-a", "scratch")
    put(gated, "scratch", ATTESTATION_TAG, older)
    gated.store.rename_registered_model("scratch", "prod-b")


def through_a_name_that_is_only_audited(gated: Gated, older: str) -> None:
    gated.store.rename_registered_model("prod-a", "watched-a")
    gated.store.delete_model_version_tag("watched-a", "1", ATTESTATION_TAG)
    put(gated, "watched-a", ATTESTATION_TAG, older)
    gated.store.rename_registered_model("watched-a", "prod-a")


def by_a_model_made_anew(gated: Gated, older: str) -> None:
    gated.store.delete_registered_model("prod-a")
    made(gated, "prod-a")
    put(gated, "prod-a", ATTESTATION_TAG, older)


def by_another_model_that_takes_the_name(gated: Gated, older: str) -> None:
    gated.store.delete_registered_model("prod-a")
    made(gated, "scratch")
    put(gated, "scratch", ATTESTATION_TAG, older)
    gated.store.rename_registered_model("scratch", "prod-a")


@pytest.mark.parametrize(
    "detour",
    [
        through_an_unruled_name,
        through_an_unruled_name_to_a_third,
        through_a_name_that_is_only_audited,
        by_a_model_made_anew,
        by_another_model_that_takes_the_name,
    ],
)
def test_a_verdict_that_a_newer_one_took_back_does_not_return_by_a_detour(
    gated: Gated, detour: Callable[[Gated, str], None]
) -> None:
    version = made(gated, "prod-a")
    low = gated.world.sign(version, gated.files, issued_at=ago(hours=3))
    high = gated.world.sign(version, gated.files, risk_level="high")
    put(gated, "prod-a", ATTESTATION_TAG, low)
    put(gated, "prod-a", ATTESTATION_TAG, high)

    with refused("the version had a newer one"):
        detour(gated, low)
    for name in ("prod-a", "prod-b"):
        with pytest.raises(mlflow.MlflowException):  # not there, or not let in
            gated.store.set_registered_model_alias(name, "champion", "1")


def test_a_verdict_under_a_former_name_is_not_replaced_by_an_older_one_under_the_present(
    gated: Gated,
) -> None:
    version = made(gated, "prod-a")
    low = gated.world.sign(version, gated.files, issued_at=ago(hours=3))
    gated.store.rename_registered_model("prod-a", "prod-b")
    renamed = gated.client.get_model_version("prod-b", "1")
    gated.attest(renamed, risk_level="high")  # behind the gate's back: its log knows nothing
    gated.store.rename_registered_model("prod-b", "prod-a")

    with refused("the version has a newer one"):
        put(gated, "prod-a", ATTESTATION_TAG, low)


def test_a_model_that_took_a_name_which_was_left_supersedes_nothing(gated: Gated) -> None:
    # Blue and green: the candidate's name is free again once the candidate went live.
    candidate = made(gated, "prod-next")
    signed = gated.world.sign(candidate, gated.files, issued_at=ago(hours=3))
    put(gated, "prod-next", ATTESTATION_TAG, signed)
    gated.store.rename_registered_model("prod-next", "prod-live")
    following = made(gated, "prod-next")
    put(gated, "prod-next", ATTESTATION_TAG, gated.world.sign(following, gated.files))
    live = gated.client.get_model_version("prod-live", "1")
    renewed = gated.world.sign(live, gated.files, issued_at=ago(hours=1))

    gated.store.rename_registered_model("prod-live", "prod-last")
    gated.store.rename_registered_model("prod-last", "prod-live")
    put(gated, "prod-live", ATTESTATION_TAG, renewed)

    gated.store.set_registered_model_alias("prod-live", "champion", "1")
    gated.store.delete_registered_model("prod-next")
    made(gated, "dev-x")
    put(gated, "dev-x", ATTESTATION_TAG, signed)
    with refused("the version had a newer one"):  # it would speak as the one that followed
        gated.store.rename_registered_model("dev-x", "prod-next")


def test_an_override_that_a_shorter_one_replaced_does_not_return(gated: Gated) -> None:
    version = made(gated, "prod-a")
    week = {"issued_at": ago(hours=2), "expires_at": ago(days=-6)}
    long = gated.world.sign_override(version, gated.files, "alias.champion", **week)
    over = {"issued_at": ago(seconds=30), "expires_at": ago(seconds=1)}
    short = gated.world.sign_override(version, gated.files, "alias.champion", **over)
    put(gated, "prod-a", OVERRIDE, long)
    put(gated, "prod-a", OVERRIDE, short)

    for _ in range(2):
        with refused("the version had a newer one"):
            put(gated, "prod-a", OVERRIDE, long)
        gated.store.delete_model_version_tag("prod-a", "1", OVERRIDE)  # expired: it may go


def test_what_a_revoked_key_signed_supersedes_nothing(gated: Gated) -> None:
    version, stolen = made(gated, "prod-a"), SigningKey.generate()
    good = gated.world.sign(version, gated.files, issued_at=ago(hours=3))
    ring = ring_of(gated.world.key, stolen, since=datetime.now(UTC) - timedelta(days=1))
    ring.write(gated.world.ring_path)
    theirs = type(gated.world)(folder=gated.world.folder, key=stolen)
    put(gated, "prod-a", ATTESTATION_TAG, theirs.sign(version, gated.files, risk_level="high"))
    with refused("the version has a newer one"):
        put(gated, "prod-a", ATTESTATION_TAG, good)

    known = KeyRing.load(gated.world.ring_path)
    revoked = known.keys[stolen.key_id].model_copy(update={"revoked_at": ago(seconds=1)})
    known.with_key(revoked).write(gated.world.ring_path)
    put(gated, "prod-a", ATTESTATION_TAG, good)

    gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_no_forged_verdict_comes_from_a_name_that_is_only_audited(gated: Gated) -> None:
    made(gated, "watched-a")
    put(gated, "watched-a", "rlrisk.risk_level", "low")

    with refused("nobody signed what it says"):
        gated.store.rename_registered_model("watched-a", "prod-a")


def test_a_copy_stays_proven_when_its_original_is_attested_again(gated: Gated) -> None:
    # Copies made before a rule spoke about them carry the statement of their original along.
    original = gated.version("dev-a", is_proven=True)
    gated.client.copy_model_version("models:/dev-a/1", "dev-b")
    assert ATTESTATION_TAG in gated.plain.get_model_version("dev-b", "1").tags
    gated.world.write_policy([*RULES, {"name": "b", "models": ["dev-b"], "aliases": ["champion"]}])
    gated.store.set_registered_model_alias("dev-b", "champion", "1")

    gated.attest(original, report_uri="runs:/renewed/rlrisk/report.html")
    assert gated.store.get_model_version_by_alias("dev-b", "champion").version == 1
    gated.attest(original, risk_level="high")
    with refused("its risk level is high"):
        gated.store.get_model_version_by_alias("dev-b", "champion")


def test_a_copy_of_a_copy_is_proven_by_what_both_carry_along_of_the_original(
    gated: Gated,
) -> None:
    gated.version("dev-a", is_proven=True)
    gated.client.copy_model_version("models:/dev-a/1", "dev-b")
    gated.client.copy_model_version("models:/dev-b/1", "dev-c")
    original, copy = (gated.plain.get_model_version(name, "1") for name in ("dev-a", "dev-c"))
    assert copy.tags[ATTESTATION_TAG] == original.tags[ATTESTATION_TAG]
    gated.world.write_policy([*RULES, {"name": "c", "models": ["dev-c"], "aliases": ["champion"]}])

    gated.store.set_registered_model_alias("dev-c", "champion", "1")

    assert dict(gated.plain.get_registered_model("dev-c").aliases) == {"champion": 1}


def test_a_rename_between_names_that_no_rule_speaks_about_is_not_judged(gated: Gated) -> None:
    made(gated, "scratch")
    put(gated, "scratch", "rlrisk.risk_level", "low")

    gated.store.rename_registered_model("scratch", "draft")

    assert [(each.action, each.outcome) for each in gated.entries()] == [("rename", "done")]


def test_a_copy_is_attested_itself_also_before_its_original_was(gated: Gated) -> None:
    original = gated.version("dev-a")
    gated.client.copy_model_version("models:/dev-a/1", "prod-a")
    copied = gated.client.get_model_version("prod-a", "1")
    own = gated.world.sign(copied, gated.files, issued_at=ago(minutes=5))
    gated.attest(original, risk_level="high")

    put(gated, "prod-a", ATTESTATION_TAG, own)

    gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_a_copy_with_an_attestation_that_nobody_can_read_is_not_spoken_for_by_its_original(
    gated: Gated,
) -> None:
    gated.version("dev-a", is_proven=True)
    gated.client.copy_model_version("models:/dev-a/1", "prod-a")
    gated.tag(gated.client.get_model_version("prod-a", "1"), ATTESTATION_TAG, "no envelope")

    with refused("its attestation is refused"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_an_override_for_another_name_comes_along_and_counts_nothing(gated: Gated) -> None:
    version = made(gated, "scratch")
    put(gated, "scratch", OVERRIDE, gated.world.sign_override(version, gated.files, "alias.x"))

    gated.store.rename_registered_model("scratch", "prod-a")
    assert OVERRIDE in gated.plain.get_model_version("prod-a", "1").tags
    with refused("its override does not count"):
        gated.store.set_registered_model_alias("prod-a", "champion", "1")


def test_tags_that_show_no_verdict_are_mlflows_own_matter(gated: Gated) -> None:
    made(gated, "prod-a")
    gated.store.set_model_version_tag("prod-a", "1", tag("team", "rl"))
    gated.store.delete_model_version_tag("prod-a", "1", "team")

    assert gated.plain.get_model_version("prod-a", "1").tags == {}
    with pytest.raises(mlflow.MlflowException, match=r"version=9.* not found"):
        gated.store.set_model_version_tag("prod-a", "9", tag("team", "rl"))


def test_an_override_that_nobody_signed_neither_counts_nor_keeps_a_model_from_its_name(
    gated: Gated,
) -> None:
    version = gated.version("prod-a")
    gated.attest(version, risk_level="high")
    gated.tag(version, OVERRIDE, "{}")

    gated.store.rename_registered_model("prod-a", "prod-b")

    assert gated.store.get_model_version("prod-b", "1").tags[OVERRIDE] == "{}"
    with refused():
        gated.store.set_registered_model_alias("prod-b", "champion", "1")
