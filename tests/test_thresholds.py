import pytest

from mlflow_rlrisk.config import DEFAULT_COMPONENTS, PolicyConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.statistics.groups import critical_success
from mlflow_rlrisk.thresholds import REGISTRY, threshold


@pytest.mark.parametrize("name", sorted(DEFAULT_COMPONENTS))
def test_every_default_component_stands_in_the_registry_with_its_numbers(name: str) -> None:
    line = DEFAULT_COMPONENTS[name]

    assert threshold(f"component.{name}").values == line.model_dump()


def test_every_number_of_the_default_policy_stands_in_the_registry() -> None:
    numbers = {
        name: value
        for name, value in PolicyConfig().model_dump().items()
        if isinstance(value, int | float)
    }

    assert len(numbers) >= 7
    for name, value in numbers.items():
        assert threshold(f"policy.{name}").values == {"value": value}


def test_every_line_says_where_it_comes_from_and_how_far_it_reaches() -> None:
    for line in REGISTRY.values():
        assert line.source
        assert line.scope
        assert line.default_use
        assert line.values


def test_figures_that_follow_from_others_agree_with_them() -> None:
    ramp = threshold("component.entropy_abs").values
    assert threshold("tau_H").values["value"] == pytest.approx(ramp["bad"])
    assert threshold("p_star_8").values["value"] == pytest.approx(critical_success(8), abs=1e-9)
    target = threshold("group_size.target_signal").values["value"]
    assert target == threshold("policy.low_signal_from").values["value"]


def test_an_unknown_line_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"tau_H"):
        threshold("tau_x")
