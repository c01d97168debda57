"""Rollouts that come one by one, put together into the groups of their prompts."""

from collections.abc import Iterable

from mlflow_rlrisk.records import Prompt, Rollout, RolloutGroup


class WholeGroups:
    """Keeps what has come of each prompt until its group of ``size`` is whole."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: dict[int, list[Rollout]] = {}

    def add(self, place: int, prompt: Prompt, rollouts: Iterable[Rollout]) -> RolloutGroup | None:
        """The group of the prompt at ``place``, by sample; ``None`` where rollouts are to come."""
        part = self._parts.setdefault(place, [])
        part.extend(rollouts)
        if len(part) < self._size:
            return None
        del self._parts[place]
        part.sort(key=lambda rollout: rollout.sample_index)
        return RolloutGroup(prompt=prompt, rollouts=tuple(part))
