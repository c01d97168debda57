"""Samplers turn prompts into rollouts: the protocol, and how one is found by name.

A sampler is a class registered in the entry-point group ``mlflow_rlrisk.samplers``; ours are
registered through the same group. It is built from a source (a `Checkpoint`, or for ``replay`` a
folder of stored rollouts) and an `AssessmentConfig`, and imports its engine in its functions.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

from mlflow_rlrisk.checkpoint import Checkpoint, open_checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.records import GradedGroup, Prompt, RolloutGroup

GROUP = "mlflow_rlrisk.samplers"
DEFAULT_SAMPLER = "transformers"

OnTokens = Callable[[int, int], None]
"""Called as ``on_tokens(num_new_tokens, num_finished_rollouts)``, both since the last call."""


class Sampler(Protocol):
    """Draws the rollouts of an assessment."""

    on_tokens: OnTokens | None
    """Progress hook; assign it before `sample`."""

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield one complete group per prompt as soon as it is complete, in any order.

        Raises:
            CheckpointError: The tokenizer does not fit the prompts.
            SamplerError: Sampling stopped; no group is made up for what is missing.
        """
        ...

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """Seconds that sampling ``prompts`` takes at most; ``None`` where it cannot be said."""
        ...

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        ...

    def describe(self) -> dict[str, Any]:
        """Backend, versions, device, dtype, vocabulary, stop tokens, template: JSON values.

        What else the rollouts depend on (an adapter, an endpoint's model) stands as a mapping
        under ``identity``: stored rollouts are only resumed and compared where it agrees.
        ``remark`` is a sentence that the report's reader must know. A sampler without a checkpoint
        says what is known of the model in a sentence under ``model_identity``, and gives digests
        of it by name under ``stored``.
        """
        ...


@runtime_checkable
class RangeSampler(Sampler, Protocol):
    """A sampler that can draw some of a prompt's samples and leave the others to another call.

    With it a budget in rounds may add samples to prompts, and a group may be split over workers.
    """

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the rollouts of every prompt whose ``sample_index`` lies in ``samples``.

        They are those that `sample` draws under the same indices. Errors are those of `sample`.
        """
        ...


@runtime_checkable
class GradingSampler(Sampler, Protocol):
    """A sampler that can show the completions to the verifier where they are sampled."""

    @property
    def grades(self) -> bool:
        """True where it was asked to."""
        ...

    def sample_graded(
        self, prompts: Sequence[Prompt], samples: range, verifier: str
    ) -> Iterator[GradedGroup]:
        """Yield the samples of that range of every prompt with their grades.

        Args:
            prompts: Prompts to sample.
            samples: Samples to draw of each.
            verifier: Spec of the verifier, as text.

        Raises:
            VerifierError: It cannot be loaded there.
            SamplerError: As in `Sampler.sample`.
        """
        ...


def draws_ranges(sampler: Sampler) -> TypeGuard[RangeSampler]:
    """True where the sampler is a `RangeSampler` and what it may be built upon is one too."""
    return isinstance(sampler, RangeSampler) and getattr(sampler, "can_draw_ranges", True)


def refuse_options(config: AssessmentConfig, sampler: str) -> None:
    """For a sampler without settings of its own: one that was given would silently do nothing.

    Raises:
        ConfigError: ``config`` has backend options.
    """
    for name, value in config.backend_options.items():
        raise ConfigError(f"backend_options.{name}", value, f"unknown; {sampler} has no options")


def opened(source: Checkpoint | Path | str, config: AssessmentConfig) -> Checkpoint:
    """The checkpoint that a sampler is built from; of a reference to one, what it names.

    Raises:
        ModelReferenceError: The reference is malformed or names nothing.
        CheckpointError: The files are incomplete, damaged or unsafe.
    """
    if isinstance(source, Checkpoint):
        return source
    return open_checkpoint(source, allow_pickle=config.allow_pickle)


class SamplerFactory(Protocol):
    """What an entry point of the group ``mlflow_rlrisk.samplers`` names."""

    def __call__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> Sampler:
        """Build the sampler; loads the model where there is one."""
        ...


def is_settled(backend: str) -> bool:
    """True where checkpoint, settings and library versions settle what the sampler would draw.

    Of other samplers it shows only once they are started: an engine, an endpoint, an adapter.
    """
    return backend in ("auto", DEFAULT_SAMPLER)


def needs_checkpoint(factory: SamplerFactory, reference: str) -> bool:
    """True unless the sampler class says with ``takes_reference`` that it reads this itself."""
    takes_reference: Callable[[str], bool] | None = getattr(factory, "takes_reference", None)
    return takes_reference is None or not takes_reference(reference)


def load_sampler(name: str) -> SamplerFactory:
    """Find a sampler class by its entry-point name; ``auto`` is ``transformers``.

    Raises:
        ConfigError: No sampler of this name is installed.
    """
    wanted = DEFAULT_SAMPLER if name == "auto" else name
    found = {point.name: point for point in entry_points(group=GROUP)}
    if wanted not in found:
        raise ConfigError("backend", name, f"unknown sampler; installed: {sorted(found)}")
    factory: SamplerFactory = found[wanted].load()
    return factory
