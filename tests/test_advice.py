"""Next steps must be possible: no pass@1 above 1, no group size that a bad fit made up."""

import pytest

from tests.prompt_statistics import prompts, report_of


def test_headroom_that_no_success_rate_could_reach_asks_for_larger_groups() -> None:
    report = report_of(prompts([4, 8, 8, 12] * 20, 16), group_size=2)

    # p*(2) = 1/2: the largest headroom is 2, the policy's harmless one 4.
    assert not any("pass@1 of" in step for step in report.next_steps)
    assert any(
        step.startswith("train with larger groups: at groups of 2 even pass@1 = 1")
        and "headroom of 2," in step
        for step in report.next_steps
    )


@pytest.mark.parametrize(("group_size", "wanted"), [(8, "0.33"), (4, "0.64")])
def test_headroom_that_can_be_reached_names_the_success_rate(group_size: int, wanted: str) -> None:
    report = report_of(prompts([0, 1, 2, 3] * 20, 16), group_size=group_size)

    # Four times p*(8) = .0830 and p*(4) = .1594.
    assert any(f"pass@1 of {wanted} is where headroom" in step for step in report.next_steps)
