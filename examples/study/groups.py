"""What is ``low`` for the size of its groups alone? Planned as the fourteenth test.

All tests before it are of groups of 8; whatever is read off groups is milder in larger ones.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from examples.study.first_updates import closed_share
from examples.study.planned_settings import PROSPECTIVE_14
from examples.study.rows import PairRow
from examples.study.scoring import PRIMARY, study_of
from examples.study.tables import table
from examples.study.verdicts import level_in_groups, level_now
from mlflow_rlrisk.report_record import RiskLevel

BEFORE = 8
"""Group size of all other tests."""
LEAST, SHARE = 8, 0.25
"""Of the plan's rule: this many, of which at least this share failed."""
TWIN = f"-{PROSPECTIVE_14.group_size}"


def group_figures(rows: Sequence[PairRow]) -> dict[str, Any] | None:
    """Every figure of the test as JSON values; ``None`` while it has no runs."""
    names = [each.name for each in PROSPECTIVE_14.lineages]
    study = study_of([row for row in rows if row["lineage"] in names])
    if not study.rows:
        return None
    twins = {(row["lineage"], row["checkpoint"]): row for row in rows}
    starts = study_of(
        [twins[row["lineage"].removesuffix(TWIN), row["checkpoint"]] for row in study.rows]
    )
    low = np.array([level_now(row) is RiskLevel.LOW for row in study.rows])
    low_before = np.array([level_in_groups(row, BEFORE) is RiskLevel.LOW for row in study.rows])
    both, alone = low & low_before, low & ~low_before
    counted = {
        name: {
            "n": int(chosen.sum()),
            "failed": int(study.failed[chosen].sum()),
            "failed_before": int(starts.failed[chosen].sum()),
        }
        for name, chosen in (("both", both), ("alone", alone), ("other", ~low))
    }
    pairs = Counter(zip(starts.failed.tolist(), study.failed.tolist(), strict=True))
    return {
        "groups": counted,
        "is_moved": is_moved(counted),
        "same_weights": sum(
            own["digests"]["weights"] == twin["digests"]["weights"]
            for own, twin in zip(study.rows, starts.rows, strict=True)
        ),
        "failed_in": {
            "both": pairs[True, True],
            f"{BEFORE} only": pairs[True, False],
            f"{PROSPECTIVE_14.group_size} only": pairs[False, True],
            "neither": pairs[False, False],
        },
        "final": float(np.mean(study.outcomes[PRIMARY] - starts.outcomes[PRIMARY])),
        "closed": float(np.mean(closed_share(study) - closed_share(starts))),
    }


def is_moved(counted: dict[str, dict[str, int]]) -> bool:
    """Whether by the plan's rule ``low`` reads its groups at 8 at most."""
    alone, both = counted["alone"], counted["both"]
    if alone["n"] < LEAST:
        return False
    share = alone["failed"] / alone["n"]
    return share >= SHARE and (both["n"] == 0 or share > both["failed"] / both["n"])


def group_section(found: dict[str, Any] | None) -> str:
    """The figures as Markdown; nothing while there are no runs."""
    if found is None:
        return ""
    size = PROSPECTIVE_14.group_size
    names = {
        "both": f"`low` in groups of {size} and of {BEFORE}",
        "alone": f"`low` in groups of {size} alone",
        "other": "not `low`",
    }
    rows = [
        [names[key], *(str(each[part]) for part in ("n", "failed", "failed_before"))]
        for key, each in found["groups"].items()
    ]
    verdict = f"at {BEFORE} at most" if found["is_moved"] else "at those of the run, as it did"
    failed = ", ".join(f"{key} {count}" for key, count in found["failed_in"].items())
    return (
        "**Fourteenth test, what is low for the size of its groups alone.**\n\n"
        + table(["from the same rollouts", "n", "failed", f"in groups of {BEFORE}"], rows)
        + f"\nBy the plan's rule `low` reads groups {verdict}. Failed in: {failed}. In groups of "
        f"{size} runs end {found['final']:+.3f} in final pass@1 and closed {found['closed']:+.3f} "
        f"of the gap; {found['same_weights']} starts have the same weights.\n"
    )
