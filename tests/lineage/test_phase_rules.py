"""The rules of the phases on whole numbers, where every difference is resolved or nothing."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.lineage.measures import Measure
from mlflow_rlrisk.lineage.phases import label_phases
from mlflow_rlrisk.lineage.table import DISTINCT, ENTROPY, HELDOUT, PASS_AT_1, TRAIN, LineageTable

DEEP = "rlrisk/pass_at_8"
NAMES = "abcdef"


def table(columns: dict[str, list[int]], coverage: str = DEEP) -> LineageTable:
    """Every resample of the 40 prompts gives the same tenths."""
    measures = {}
    for name, levels in columns.items():
        values = np.array(levels) / 10
        rows = np.tile(values, (40, 1))
        measures[name] = Measure(name=name, values=values, draws=rows, left_out=rows)
    size = max(map(len, columns.values()))
    return LineageTable(
        members=tuple(SimpleNamespace(name=name) for name in NAMES[:size]),  # type: ignore[misc]
        measures=measures,
        undefined={PASS_AT_1: "no verdict"},
        num_prompts=40,
        coverage_name=coverage,
    )


@st.composite
def ladders(draw: st.DrawFn) -> dict[str, list[int]]:
    size = draw(st.integers(4, 6))
    rungs = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    others = st.sets(st.sampled_from([ENTROPY, DISTINCT, DEEP, HELDOUT, TRAIN]))
    return {name: draw(rungs) for name in (PASS_AT_1, *sorted(draw(others)))}


@given(ladders())
def test_labels_follow_the_rules(columns: dict[str, list[int]]) -> None:
    right, loss, train = (columns.get(name) for name in (PASS_AT_1, HELDOUT, TRAIN))
    diverse = [columns[name] for name in (ENTROPY, DISTINCT, DEEP) if name in columns]
    assert right is not None
    expected = [("base", "the start of the series")]
    for here in range(1, len(right)):
        rises = right[here] > right[here - 1]
        forgets = loss is not None and loss[here] > min(loss[:here])
        narrows = any(each[here] < max(each[1:here], default=0) for each in diverse)
        stays = not rises or expected[-1][0] == "overfit"
        learns = train is None or train[here] < train[here - 1]
        if forgets:
            expected.append(("overfit", "held-out loss is above the least of the series"))
        elif narrows and stays and learns:
            expected.append(("overfit", "diversity is below the largest of the series"))
        elif rises:
            expected.append(("readapt", "pass@1 is above that of the checkpoint before"))
        elif right[here] < right[0]:
            expected.append(("shift", "pass@1 is below the base's"))
        else:
            expected.append(("unclear", "no change of pass@1 or of diversity is resolved"))

    labels = label_phases(table(columns)).labels

    assert [str(label.phase) for label in labels] == [phase for phase, _ in expected]
    assert all(a.reason.startswith(why) for a, (_, why) in zip(labels, expected, strict=True))
    assert [label.confidence for label in labels] == [1.0] * len(labels)


@given(ladders())
def test_the_interval_lies_between_the_peak_of_diversity_and_the_least_loss(
    columns: dict[str, list[int]],
) -> None:
    diverse = [columns[name] for name in (ENTROPY, DISTINCT) if name in columns]
    rungs = range(len(columns[PASS_AT_1]))
    peak = min(rungs[1:], key=lambda place: [-each[place] for each in diverse]) if diverse else None
    least = min(rungs, key=columns[HELDOUT].__getitem__) if HELDOUT in columns else None
    ends = sorted(place for place in (peak, least) if place is not None)

    found = label_phases(table(columns))

    assert found.diversity_peak == (None if peak is None else NAMES[peak])
    assert found.validation_loss_minimum == (None if least is None else NAMES[least])
    assert found.recommended == ((NAMES[ends[0]], NAMES[ends[-1]]) if ends else None)


def test_pass_at_1_that_is_the_deepest_there_is_speaks_of_no_diversity() -> None:
    labels = label_phases(table({PASS_AT_1: [1, 3, 2, 2]}, coverage=PASS_AT_1)).labels

    assert [str(label.phase) for label in labels] == ["base", "readapt", "unclear", "unclear"]


def test_a_series_without_pass_at_1_or_of_three_rungs_has_no_phases_and_says_why() -> None:
    silent = label_phases(table({ENTROPY: [1, 2, 3, 2]}))
    short = label_phases(table({PASS_AT_1: [1, 2, 3]}))

    assert (silent.labels, silent.undefined) == ((), "pass@1 is undefined: no verdict")
    assert (short.labels, short.undefined) == ((), "3 checkpoints: phases need at least 4")
