"""Tags through the plugin: what shows a verdict is set only as a key holder signed it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from mlflow_rlrisk.attestation import ATTESTATION_TAG, sign_override
from mlflow_rlrisk.attestation.keys import SigningKey, to_text
from mlflow_rlrisk.sinks.registry import tag_version
from tests.gate.conftest import RULES, Gated, refused, tag
from tests.gate.world import PLACE, override_of
from tests.sinks.simulated import PROVENANCE, simulated_report


@pytest.mark.parametrize("key", ["rlrisk.risk_level", "RLRISK.risk_level", "rlrisk.", "rlrisk.x"])
def test_reserved_tags_need_an_attestation_that_says_the_same(gated: Gated, key: str) -> None:
    unproven, proven = gated.version("prod-a"), gated.version("prod-a", is_proven=True)

    for version in (unproven, proven):
        with refused(f"tag '{key}' of version {version.version} of 'prod-a' is blocked"):
            gated.store.set_model_version_tag("prod-a", version.version, tag(key, "high"))
        gated.store.set_model_version_tag("prod-a", version.version, tag("rlrisk.step", "7"))
        gated.store.set_model_version_tag("prod-a", version.version, tag("team", "rl"))
    gated.store.set_model_version_tag("prod-a", "2", tag("rlrisk.risk_level", "low"))

    assert gated.plain.get_model_version("prod-a", "1").tags == {"rlrisk.step": "7", "team": "rl"}
    assert gated.plain.get_model_version("prod-a", "2").tags["rlrisk.risk_level"] == "low"


def test_an_attestation_is_taken_when_genuine_and_never_replaced_by_an_older_one(
    gated: Gated,
) -> None:
    version = gated.version("prod-a")
    now = datetime.now(UTC)
    first = gated.world.sign(version, gated.files)
    older = gated.world.sign(
        version, gated.files, issued_at=to_text(now - timedelta(hours=1)), risk_level="low"
    )
    other = gated.world.sign(gated.version("prod-a"), gated.files)

    gated.store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, first))
    gated.store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, first))
    with refused("the version has a newer one"):
        gated.store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, older))
    for forged in (other, "", "{}", first.replace("e", "f", 1)):
        with refused("it is no attestation of this version"):
            gated.store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, forged))
    with refused("replaced by a newer one, never removed"):
        gated.store.delete_model_version_tag("prod-a", "1", ATTESTATION_TAG)

    assert gated.plain.get_model_version("prod-a", "1").tags[ATTESTATION_TAG] == first


def test_a_forged_attestation_in_the_database_gives_way_to_a_genuine_one(gated: Gated) -> None:
    version = gated.version("prod-a")
    gated.tag(version, ATTESTATION_TAG, "forged")

    genuine = gated.world.sign(version, gated.files)
    gated.store.set_model_version_tag("prod-a", "1", tag(ATTESTATION_TAG, genuine))

    assert gated.plain.get_model_version("prod-a", "1").tags[ATTESTATION_TAG] == genuine


def test_tags_are_stripped_only_where_the_attestation_does_not_say_them(gated: Gated) -> None:
    unproven, proven = gated.version("prod-a"), gated.version("prod-a", is_proven=True)
    for version in (unproven, proven):
        gated.tag(version, "rlrisk.risk_level", "high")
        gated.tag(version, "rlrisk.risk_index", "0.9")

    with refused("it shows a verdict, and the version has no signed attestation"):
        gated.store.delete_model_version_tag("prod-a", "1", "rlrisk.risk_level")
    with refused("the version's attestation says it"):
        gated.store.delete_model_version_tag("prod-a", "2", "rlrisk.risk_level")
    gated.store.delete_model_version_tag("prod-a", "2", "rlrisk.risk_index")

    assert "rlrisk.risk_index" not in gated.plain.get_model_version("prod-a", "2").tags


def test_an_override_is_taken_from_a_key_that_may_and_kept_while_it_lasts(gated: Gated) -> None:
    version = gated.version("prod-a")
    key = "rlrisk.override.alias.champion"
    good = gated.world.sign_override(version, gated.files, "alias.champion")
    foreign = sign_override(override_of(replace(PLACE, model="prod-a")), [SigningKey.generate()])
    now = datetime.now(UTC)
    over = gated.world.sign_override(
        version,
        gated.files,
        "alias.champion",
        issued_at=to_text(now - timedelta(hours=2)),
        expires_at=to_text(now - timedelta(hours=1)),
    )

    with refused("it is no override for this version"):
        gated.store.set_model_version_tag("prod-a", "1", tag(key, foreign))
    with refused("it is an override for alias.champion"):
        gated.store.set_model_version_tag("prod-a", "1", tag(key.replace("champion", "x"), good))
    gated.store.set_model_version_tag("prod-a", "1", tag(key, good))
    gated.store.set_registered_model_alias("prod-a", "champion", "1")
    with refused("the override is in force"):
        gated.store.delete_model_version_tag("prod-a", "1", key)
    gated.store.set_model_version_tag("prod-a", "1", tag(key, over))
    with refused("its override does not count: it expired"):
        gated.store.get_model_version_by_alias("prod-a", "champion")
    gated.store.delete_model_version_tag("prod-a", "1", key)
    gated.store.delete_model_version_tag("prod-a", "1", key)  # nothing there is worth nothing
    gated.world.write_policy(RULES, override={"keys": ["someone else"]})
    with refused("no key that signed it may override"):
        gated.store.set_model_version_tag("prod-a", "1", tag(key, good))


def test_every_judged_tag_is_logged_with_who_signed_it(gated: Gated) -> None:
    version = gated.version("prod-a", is_proven=True)
    level, override = "rlrisk.risk_level", "rlrisk.override.alias.champion"
    signed = gated.world.sign_override(version, gated.files, "alias.champion")

    with refused():
        gated.store.set_model_version_tag("prod-a", "1", tag(level, "high"))
    gated.store.set_model_version_tag("prod-a", "1", tag(level, "low"))
    with refused():
        gated.store.delete_model_version_tag("prod-a", "1", level)
    gated.store.set_model_version_tag("prod-a", "1", tag(override, signed))

    told = [(each.action, each.outcome, each.target) for each in gated.entries()]
    assert told == [
        ("set_tag", "block", level),
        ("set_tag", "promote", level),
        ("delete_tag", "block", level),
        ("set_tag", "promote", override),
    ]
    assert "agreed with the owners" in gated.entries()[-1].message


def test_tags_of_a_ruled_model_show_no_verdict(gated: Gated) -> None:
    with refused("verdicts stand on versions, not on models"):
        gated.store.create_registered_model(
            "prod-a", [RegisteredModelTag("rlrisk.risk_level", "low")]
        )
    gated.store.create_registered_model("prod-a", [RegisteredModelTag("team", "rl")])
    with refused("tag 'rlrisk.x' of prod-a is blocked"):
        gated.store.set_registered_model_tag("prod-a", RegisteredModelTag("rlrisk.x", "low"))
    with refused("verdicts stand on versions"):
        gated.store.delete_registered_model_tag("prod-a", "rlrisk.x")
    gated.store.set_registered_model_tag("prod-a", RegisteredModelTag("team", "ml"))
    gated.store.delete_registered_model_tag("prod-a", "team")

    assert gated.plain.get_registered_model("prod-a").tags == {}


def test_an_unsigned_verdict_leaves_tags_and_description_of_a_protected_version_alone(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    signed = gated.version("prod-a", is_proven=True)
    source = replace(PROVENANCE, registered_name="prod-a", version=str(signed.version))

    tag_version(
        simulated_report(provenance=source), report_uri="runs:/1/report.html", client=gated.client
    )

    kept = gated.plain.get_model_version("prod-a", signed.version)
    assert kept.tags == signed.tags
    assert not kept.description
    assert "the verdict is advisory" in caplog.text


def test_a_tag_that_another_made_after_the_store_had_looked_is_written_over(gated: Gated) -> None:
    gated.version("prod-a")
    others = iter(["another"])

    def overtake(*sent: Any) -> None:
        if sent[2].startswith("INSERT INTO model_version_tags"):
            for value in others:
                with ThreadPoolExecutor(1) as another:
                    another.submit(gated.tag, version, "owner", value).result()

    version = gated.plain.get_model_version("prod-a", "1")
    sa.event.listen(gated.store.engine, "before_cursor_execute", overtake)

    gated.store.set_model_version_tag("prod-a", "1", tag("owner", "we"))

    assert next(others, None) is None
    assert gated.plain.get_model_version("prod-a", "1").tags == {"owner": "we"}


def test_a_tag_that_mlflow_refuses_is_not_written_again(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    def refuse(store: Any, name: str, version: str, tag: Any) -> None:
        calls.append(tag.key)
        raise MlflowException("read-only")

    monkeypatch.setattr(SqlAlchemyStore, "set_model_version_tag", refuse)

    with pytest.raises(MlflowException, match="read-only"):
        gated.store.set_model_version_tag("prod-a", "1", tag("owner", "we"))

    assert calls == ["owner"]
