"""The settings of an RL run, read from where its trainer has them.

TRL's YAML or JSON of ``GRPOConfig``, the composed YAML of verl, NeMo-RL or SkyRL, or the parameters
that one of them has logged to an MLflow run (``runs:/<id>``): what the rollouts are to be sampled
with, and what the run's first updates are tried with, under this package's names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from mlflow_rlrisk.config import AssessmentConfig, LookaheadConfig, SamplingConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.rl_config.sources import flat_settings, name_of
from mlflow_rlrisk.rl_config.trainers import find_trainer

NEEDED = ("group_size", "temperature", "max_new_tokens")
"""What has to be known: trainers' own values for these changed from version to version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RLConfig:
    """What an RL run's settings say, under the names of `AssessmentConfig` and `LookaheadConfig`.

    Attributes:
        source: Where they were read.
        trainer: Whose they are.
        sampling: ``group_size`` and settings of `SamplingConfig`; what is not there is left out.
        run: Settings of `LookaheadConfig`, likewise.
    """

    source: str
    trainer: str
    sampling: dict[str, Any]
    run: dict[str, Any]

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the sampling; what is ``given`` counts more.

        Where no ``num_samples`` is given, two groups of each prompt are sampled, at least 16
        rollouts.

        Raises:
            ConfigError: The size of groups, the temperature or the token limit stand nowhere.
        """
        found = self._with(self.sampling, given, NEEDED)
        size = found["group_size"]
        return {"num_samples": max(16, 2 * size)} | found if isinstance(size, int) else found

    def assessment_config(self, **given: Any) -> AssessmentConfig:
        """Settings of an assessment; ``given`` counts more, of the sampling and otherwise.

        Raises:
            ConfigError: As `merged` does, or a setting is unusable.
        """
        drawn = {"group_size", *SamplingConfig.model_fields}
        found = self.merged({name: given[name] for name in given if name in drawn})
        rest = {name: given[name] for name in given if name not in drawn}
        return AssessmentConfig(
            group_size=found.pop("group_size"), sampling=SamplingConfig(**found), **rest
        )

    def lookahead_config(self, **given: Any) -> LookaheadConfig:
        """Settings of the first updates; ``given`` counts more.

        Raises:
            ConfigError: The learning rate or the length of the run stand nowhere, or a setting is
                unusable.
        """
        return LookaheadConfig(**self._with(self.run, given, ("learning_rate", "run_steps")))

    def _with(
        self, read: Mapping[str, Any], given: Mapping[str, Any], needed: tuple[str, ...]
    ) -> dict[str, Any]:
        found = {**read, **given}
        for name in needed:
            if name not in found:
                need = f"these settings of {self.trainer} have none: give {name} there or here"
                raise ConfigError(name, None, f"{need} ({self.source})")
        return found


def read_rl_config(source: str | PathLike[str] | Mapping[str, Any]) -> RLConfig:
    """Read the settings of an RL run.

    Args:
        source: Path of a YAML or JSON file, ``runs:/<id>`` of MLflow, or the settings themselves.

    Raises:
        ConfigError: It cannot be read, is of no known trainer, or samples in a way that cannot be
            repeated here.
    """
    name, settings = name_of(source), flat_settings(source)
    trainer = find_trainer(settings, name)
    return RLConfig(
        source=name,
        trainer=trainer.name,
        sampling=trainer.sampling(settings),
        run=trainer.run(settings),
    )
