"""What a choice says of a pair of checkpoints is what the prompts resolve of it."""

import pytest

from mlflow_rlrisk.lineage.choice import _certainty
from mlflow_rlrisk.lineage.pairs import Pair, PairedDifference, PairOrder


def difference(value: float, p_value: float) -> PairedDifference:
    return PairedDifference(value=value, ci_low=value - 1, ci_high=value + 1, p_value=p_value)


@pytest.mark.parametrize(
    ("order", "value", "p_value", "said"),
    [
        (PairOrder.INVERTED, -0.2, 0.01, "resolved against the order by pass@1"),
        (PairOrder.UNRESOLVED, -0.2, 0.01, "resolved; what is not is their difference in pass@1"),
        (PairOrder.UNRESOLVED, -0.2, 0.06, "not resolved by these prompts"),
        (PairOrder.UNRESOLVED, 0.2, 0.06, "not resolved by these prompts"),
        (PairOrder.UNRESOLVED, 0.2, 0.05, "resolved, the same order as pass@1, whose own"),
        (PairOrder.SAME, 0.2, 0.01, "resolved, the same order as pass@1"),
    ],
)
def test_a_difference_is_called_resolved_only_where_its_p_value_says_so(
    order: PairOrder, value: float, p_value: float, said: str
) -> None:
    pair = Pair(
        first="a",
        second="b",
        measure="rlrisk/pass_at_8",
        pass_at_1=difference(0.1, 0.5),
        difference=difference(value, p_value),
        probability_inverted=0.3,
        order=order,
    )

    words = _certainty(pair, alpha=0.05)[1]

    assert words.startswith(said)
    assert ("whose own" in words) == ("whose own" in said)
    assert ("30% of the resamples" in words) == (
        order is PairOrder.UNRESOLVED and (p_value > 0.05 or value < 0)
    )
