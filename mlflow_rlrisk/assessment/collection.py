"""Graded groups as they come in -> what the report is made of.

Groups arrive in the order in which they are finished, and another order after a resumed run.
Nothing here depends on it.
"""

from collections.abc import Callable, Sequence

from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.measure import measure
from mlflow_rlrisk.records import GradedGroup, Prompt, PromptStatistics
from mlflow_rlrisk.report_record import ExampleRollout

EXAMPLES_PER_PROMPT = 2
"""The best and the worst graded rollout of a prompt that is shown."""


class Collection:
    """Counts graded groups one by one and keeps a few rollouts to show.

    Attributes:
        profile: Token entropies by value and position.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        config: AssessmentConfig,
        on_graded: Callable[[PromptStatistics], None],
    ) -> None:
        self.profile = EntropyProfile()
        self._threshold = config.success_threshold
        self._on_graded = on_graded
        self._order = [prompt.id for prompt in prompts]
        shown = -(-config.num_examples // EXAMPLES_PER_PROMPT)
        step = max(1, len(self._order) // shown) if shown else 0
        self._shown = set(self._order[::step][:shown]) if shown else set()
        self._num_examples = config.num_examples
        self._statistics: dict[str, PromptStatistics] = {}
        self._examples: dict[str, list[ExampleRollout]] = {}

    def take(self, group: GradedGroup) -> None:
        """Count one group."""
        statistics = measure(group, self._threshold)
        self._statistics[group.prompt.id] = statistics
        self.profile.add(group.rollouts)
        if group.prompt.id in self._shown:
            self._examples[group.prompt.id] = _examples(group)
        self._on_graded(statistics)

    def statistics(self) -> list[PromptStatistics]:
        """One record per prompt, in the order of the prompt set.

        Raises:
            SamplerError: A prompt has no rollouts: the sampler ended too early.
        """
        missing = [prompt_id for prompt_id in self._order if prompt_id not in self._statistics]
        if missing:
            raise SamplerError(
                f"{len(missing)} of {len(self._order)} prompts have no graded rollouts "
                f"(first: {missing[0]})"
            )
        return [self._statistics[prompt_id] for prompt_id in self._order]

    def examples(self) -> list[ExampleRollout]:
        """Rollouts to show, in the order of the prompt set."""
        found = [
            example for prompt_id in self._order for example in self._examples.get(prompt_id, ())
        ]
        return found[: self._num_examples]


def _examples(group: GradedGroup) -> list[ExampleRollout]:
    """The first rollout with the highest and the first with the lowest reward, if they differ."""

    def reward(place: int) -> float:
        found = group.grades[place].reward
        return float("-inf") if found is None else found

    places = range(len(group.rollouts))
    best, worst = max(places, key=reward), min(places, key=reward)
    chosen = [best] if reward(best) == reward(worst) else [best, worst]
    return [
        ExampleRollout.of(group.prompt, group.rollouts[place], group.grades[place])
        for place in chosen
    ]
