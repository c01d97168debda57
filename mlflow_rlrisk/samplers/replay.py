"""Stored rollouts instead of a model: our own store, or the dump of an RL trainer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Prompt, RolloutGroup
from mlflow_rlrisk.rollouts.manifest import MANIFEST
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.samplers import OnTokens, refuse_options
from mlflow_rlrisk.samplers.rollout_dump import RolloutDump


class ReplaySampler:
    """Reads rollouts back into groups, from a folder of `RolloutStore` or a `RolloutDump`."""

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        """Find the stored rollouts.

        Raises:
            ConfigError: There are backend options; this sampler has none.
            SamplerError: There are no rollouts.
        """
        refuse_options(config, "replay")
        if isinstance(source, Checkpoint):
            raise SamplerError(f"replay reads stored rollouts, not the model {source.display_name}")
        self.on_tokens = on_tokens
        self._path = Path(source)
        is_store = (self._path / MANIFEST).is_file()
        self._stored = RolloutStore(self._path) if is_store else RolloutDump(self._path)

    @staticmethod
    def takes_reference(reference: str) -> bool:
        """Whatever it names: rollouts are read, no model."""
        return True

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield the stored group of every prompt.

        Raises:
            SamplerError: A prompt has no stored rollouts.
        """
        for group in self._groups(prompts):
            yield self._told(group)

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the stored rollouts of that range of every prompt; errors as in `sample`."""
        for group in self._groups(prompts):
            kept = tuple(each for each in group.rollouts if each.sample_index in samples)
            if kept:
                yield self._told(RolloutGroup(prompt=group.prompt, rollouts=kept))

    def _told(self, group: RolloutGroup) -> RolloutGroup:
        if self.on_tokens is not None:
            tokens = sum(len(rollout.token_ids) for rollout in group.rollouts)
            self.on_tokens(tokens, len(group.rollouts))
        return group

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """Nothing is sampled, and a dump whose rows are padded is not counted.

        Raises:
            SamplerError: It is such a one, or lacks a prompt.
        """
        if isinstance(self._stored, RolloutDump):
            self._require_all(prompts)
            self._stored.refuse_padding(prompts)
        return None

    def template(self, prompts: Sequence[Prompt]) -> str:
        """The dump does not say."""
        return "as the rollouts were sampled"

    def describe(self) -> dict[str, Any]:
        """The source, and what its manifest says of it; of a file the digest of its content."""
        return {
            "backend": "replay",
            "source": self._path.name,
            "model_identity": "stored rollouts",
            "stored": self._stored.identity,
        }

    def _groups(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        self._require_all(prompts)
        yield from self._stored.groups(prompts)

    def _require_all(self, prompts: Sequence[Prompt]) -> None:
        if missing := self._stored.missing_prompts(prompts):
            raise SamplerError(
                f"{self._path} has no rollouts of {len(missing)} of {len(prompts)} prompts "
                f"(first: {missing[0].id})"
            )
