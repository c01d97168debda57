"""The ladder does not pick a version that a lineage run found to be a copy of another one."""

from datetime import UTC, datetime

from service.dashboard.ladder import build_ladder
from service.registry.records import StoredReport, VersionRecord
from tests.lineage.ladders import beta_rates, drawn, member


def test_a_sharpened_copy_is_not_picked_for_its_pass_at_1() -> None:
    base = member("1", drawn(beta_rates(3.0, 4.0), 32, 0.5, seed=1))
    copy = member("2", drawn(beta_rates(4.0, 4.0), 32, 0.3, seed=2))
    now = datetime.now(UTC)
    versions = [VersionRecord(name="m", version=each, created_at=now) for each in "12"]
    stored = {
        each.name: StoredReport(report=each.report, run_id=None, problem=None)
        for each in (base, copy)
    }

    alone = build_ladder(versions, stored)
    told = build_ladder(versions, stored, {"2"})

    assert (alone.pick, alone.best) == ("2", "2")
    assert (told.pick, told.best) == ("1", "2")
