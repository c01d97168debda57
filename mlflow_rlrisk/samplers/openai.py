"""Sampling from any OpenAI-compatible endpoint: a hosted one, or a vLLM server of one's own.

Prompts of a checkpoint whose files are at hand are rendered and encoded here and sent as token
ids, as every sampler feeds them; without files the endpoint's own template and tokenizer are
trusted. Entropies are exact where the server sends them in band (``rlrisk serve-vllm``); elsewhere
the most likely tokens bound and estimate them, and are never called exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.samplers import OnTokens, opened
from mlflow_rlrisk.samplers.endpoint.answers import Answer, read_answer
from mlflow_rlrisk.samplers.endpoint.client import EndpointClient, EndpointRefusedError
from mlflow_rlrisk.samplers.endpoint.copies import refuse_copies
from mlflow_rlrisk.samplers.endpoint.dispatch import in_flight
from mlflow_rlrisk.samplers.endpoint.knowledge import Knowledge, find_out
from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel
from mlflow_rlrisk.samplers.endpoint.named_model import NamedModel
from mlflow_rlrisk.samplers.endpoint.options import REFERENCE_PREFIX, Api, read_options
from mlflow_rlrisk.samplers.endpoint.requests import PATHS, Content, Phrasing, seed_of
from mlflow_rlrisk.samplers.endpoint.rollouts import LARGEST_VOCABULARY, RolloutReader
from mlflow_rlrisk.samplers.endpoint.weights_check import check_weights
from mlflow_rlrisk.samplers.whole_groups import WholeGroups

DEAD_AFTER = 3
"""Prompts that fail, through all tries and with no answer in between, before sampling stops."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Some rollouts of one prompt that are asked for together."""

    place: int
    samples: range


class OpenAISampler:
    """Draws rollouts from an endpoint; settings are `EndpointOptions`."""

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        """Load the tokenizer where there is one, and find out what the endpoint can tell.

        Args:
            source: A checkpoint, a reference to one, or ``endpoint:NAME``.
            config: Sampling parameters and backend options.
            on_tokens: Progress hook.

        Raises:
            ConfigError: An option is missing or unusable.
            CheckpointError: The tokenizer cannot be used.
            SamplerError: The endpoint does not answer, or cannot do what is asked of it.
        """
        self.on_tokens = on_tokens
        self._config, self._sampling = config, config.sampling
        is_named = not isinstance(source, Checkpoint) and self.takes_reference(str(source))
        reference = source.reference if isinstance(source, Checkpoint) else str(source)
        self._options = read_options(config, reference)
        self._local = None if is_named else LocalModel(opened(source, config), config.sampling)
        self._model = self._local or NamedModel(self._options, config.sampling)
        if self._local is not None and self._options.api == "chat":
            raise SamplerError(
                "api=chat leaves the template to the endpoint; a checkpoint's prompts are "
                f"rendered here: give {REFERENCE_PREFIX}{self._options.model} instead of it"
            )
        size = self._model.vocab_size or LARGEST_VOCABULARY
        self._reader = RolloutReader(local=self._local, vocab_size=size)
        self._client = EndpointClient(self._options)
        self._refusals: dict[Api, EndpointRefusedError] = {}
        try:
            self._known = self._find_out()
            self._weights = self._check_weights()
        except BaseException:
            self._client.close()
            raise

    @staticmethod
    def takes_reference(reference: str) -> bool:
        """True for ``endpoint:NAME``, of which there are no files to open."""
        return reference.startswith(REFERENCE_PREFIX)

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield the group of every prompt as soon as its last rollout has come.

        Raises:
            CheckpointError: The tokenizer loses parts of a prompt.
            SamplerError: The endpoint refused, gave copies of one answer, or left rollouts out
                after all tries; says how many are missing. Every complete group was yielded before.
        """
        return self.sample_range(prompts, range(self._sampling.num_samples))

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the rollouts of that range of every prompt; order and errors as in `sample`."""
        contents = self._contents(prompts)
        step = self._options.choices_per_request
        groups = WholeGroups(len(samples))
        failure: SamplerError | None = None
        lost: set[int] = set()
        lost_in_a_row: set[int] = set()
        num_answered = 0
        tasks = (
            _Task(place, samples[start : start + step])
            for place in range(len(prompts))
            for start in range(0, len(samples), step)
            if place not in lost  # its group will not be whole; read as tasks are taken
        )

        def draw(task: _Task) -> list[Rollout]:
            return self._draw(prompts[task.place], contents[task.place], task.samples)

        answers = in_flight(draw, tasks, self._options.concurrency)
        is_over = False
        try:
            for task, answer in answers:
                if isinstance(answer, SamplerError):
                    failure = answer
                    lost.add(task.place)
                    lost_in_a_row.add(task.place)
                    # A refusal will be repeated; one prompt may be at fault, but not all.
                    is_refused = isinstance(answer, EndpointRefusedError)
                    if is_refused or len(lost_in_a_row) >= DEAD_AFTER:
                        break
                    continue
                lost_in_a_row.clear()
                num_answered += len(answer)
                self._tell(answer)
                group = groups.add(task.place, prompts[task.place], answer)
                if group is not None:
                    refuse_copies(group.rollouts)
                    yield group
            is_over = failure is None
        finally:
            if not is_over:  # nobody waits for what is under way
                self._client.stop()
            answers.close()
            if not is_over:
                self._client.close()
                self._client = EndpointClient(self._options)
        if failure is not None:
            wanted = len(prompts) * len(samples)
            raise SamplerError(
                f"{wanted - num_answered} of {wanted} rollouts are missing "
                f"({counted(len(lost), 'prompt')} "
                f"failed): {failure}"
            )

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """Seconds if every rollout runs to the limit and all requests are served as fast as one."""
        per_token = max(known.token_s for known in self._known.values())
        step = self._options.choices_per_request
        num_requests = len(prompts) * -(-self._sampling.num_samples // step)
        waves = -(-num_requests // self._options.concurrency)
        return waves * self._sampling.max_new_tokens * per_token

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        return self._model.template(prompts)

    def describe(self) -> dict[str, Any]:
        """What sampled: everything that may change a rollout besides the settings."""
        described: dict[str, Any] = {
            "backend": "openai",
            "base_url": self._options.base_url,
            "served_model": self._options.model,
            "architecture": self._options.model,
            "apis": sorted(self._known),
            "chat_template": self._sampling.chat_template,
            "entropy": "; ".join(sorted({known.why for known in self._known.values()})),
            "logprobs_mode": {api: known.mode for api, known in self._known.items()},
            "num_top": {api: known.phrasing.num_top for api, known in self._known.items()},
            "has_logprobs": all(known.has_logprobs for known in self._known.values()),
            "has_token_ids": all(k.phrasing.has_extensions for k in self._known.values()),
            "sends_seed": self._options.send_seed,
            "weights_check": self._weights,
            "identity": {
                api: [known.entropy, known.phrasing.num_top, known.mode]
                for api, known in sorted(self._known.items())
            },
        }
        identity = self._model.identity(self._options.served, self._weights)
        whys = sorted({known.why for known in self._known.values()})
        return described | self._model.described() | {"remark": "; ".join([identity, *whys])}

    def _find_out(self) -> dict[Api, Knowledge]:
        """Probe the APIs that prompts may need; at least one of them must work."""
        known: dict[Api, Knowledge] = {}
        entropy_id = self._options.entropy_token_id
        if entropy_id is None:
            entropy_id = self._model.entropy_id
        for api in self._model.apis():
            first = Phrasing(model=self._options.model, api=api, stop_ids=self._model.stop_ids)
            try:
                known[api] = find_out(
                    self._ask,
                    first,
                    self._model.probes(api),
                    self._sampling,
                    self._options,
                    entropy_id,
                )
            except EndpointRefusedError as error:
                self._refusals[api] = error
        if not known:
            raise next(iter(self._refusals.values()))
        return known

    def _check_weights(self) -> str | None:
        if not self._options.check_weights:
            return None
        if self._local is None:
            need = "there are no files to compare with"
            raise ConfigError("backend_option.check_weights", True, need)
        return check_weights(self._ask, self._known["completions"], self._local, self._config)

    def _contents(self, prompts: Sequence[Prompt]) -> Sequence[Content]:
        for prompt in prompts:
            api = self._model.api_of(prompt)
            if api not in self._known:
                raise SamplerError(
                    f"prompt {prompt.id} needs the {api} API: {self._refusals[api]}; "
                    "--chat-template always sends strings as chats, never sends chats as text"
                )
        return self._model.contents(prompts)

    def _ask(self, phrasing: Phrasing, body: Mapping[str, Any]) -> Answer:
        def read(raw: Any) -> Answer:
            return read_answer(raw, phrasing.api, body["n"])

        return self._client.post(PATHS[phrasing.api], body, read)

    def _draw(self, prompt: Prompt, content: Content, samples: range) -> list[Rollout]:
        """Ask until every sample is there; what an answer has is kept, the rest asked again."""
        known = self._known[self._model.api_of(prompt)]
        client = self._client
        missing = list(samples)
        drawn: list[Rollout] = []
        while missing:
            start = missing[0]
            count = next((i for i, s in enumerate(missing) if s != start + i), len(missing))
            seed = seed_of(self._sampling.seed, prompt.id, start)
            body = known.phrasing.sampled(content, self._sampling, count, seed)

            def read(raw: Any, start: int = start, count: int = count) -> list[Rollout]:
                answer = read_answer(raw, known.phrasing.api, count)
                alone = answer.completion_tokens if len(answer.choices) == 1 else None
                return [
                    self._reader.read(known, prompt, start + choice.index, choice, alone)
                    for choice in answer.choices
                ]

            rollouts = client.post(PATHS[known.phrasing.api], body, read)
            drawn += rollouts
            come = {rollout.sample_index for rollout in rollouts}
            missing = [sample for sample in missing if sample not in come]
        return drawn

    def _tell(self, rollouts: Sequence[Rollout]) -> None:
        if self.on_tokens is not None:
            self.on_tokens(sum(len(each.token_ids) for each in rollouts), len(rollouts))
