"""The files that a configuration names: where they lie, and which of them are not there.

Prompts and reward functions are read where samples are drawn and where reports are signed. A
machine with the API alone need not have them, so a role asks for what it reads.
"""

from pathlib import Path

from mlflow_rlrisk import ConfigError
from mlflow_rlrisk.errors import PromptSetError, VerifierError
from mlflow_rlrisk.prompts.sources import require_source
from mlflow_rlrisk.verifiers.specs import parse_spec
from service.settings import ServiceSettings


def refuse_missing(settings: ServiceSettings) -> None:
    """Find out at the start what the first assessment could not read.

    Raises:
        ConfigError: Prompts are not there, or a verifier's spec names nothing.
    """
    for name, prompts in settings.prompt_sets.items():
        try:
            require_source(Path(prompts.path))
        except PromptSetError as error:
            raise ConfigError(f"prompt_sets.{name}.path", prompts.path, str(error)) from error
    for name, spec in settings.verifiers.items():
        try:
            parse_spec(spec)
        except VerifierError as error:
            raise ConfigError(f"verifiers.{name}", spec, str(error)) from error
