"""Sampling with plain transformers on any device, exact entropies in the same pass.

The checkpoint's ``generation_config`` does not take part (only its stop tokens do): temperature,
truncation and repetition penalty are those of the `SamplingConfig`, and no ban or beam is applied.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.forward.probe import refuse_acausal, refusing, rotary_switch
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FinishReason, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.samplers import OnTokens, opened, refuse_options
from mlflow_rlrisk.samplers.decoding import Decoder, FinishedRow, NotFiniteLogitsError, Wave
from mlflow_rlrisk.samplers.decoding_probe import refuse_wrong_decoding
from mlflow_rlrisk.samplers.endings import Endings
from mlflow_rlrisk.samplers.exact_head import install_exact_head
from mlflow_rlrisk.samplers.model_loading import load_model, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.random_streams import uniforms
from mlflow_rlrisk.samplers.stop_tokens import stop_ids, union
from mlflow_rlrisk.samplers.token_choice import TokenChooser
from mlflow_rlrisk.samplers.whole_groups import WholeGroups

logger = logging.getLogger(__name__)

ESTIMATE_STEPS = 8
"""Most decoding steps timed for an estimate ..."""
ESTIMATE_S = 0.25
"""... and no further one after so many seconds: a large model is slow and evenly so."""

SMALL_MODEL_PARAMETERS = 20_000_000
"""Below it, threads wait for each other longer than they compute, most of all on busy cores."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    prompt: Prompt
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _Row:
    """One rollout to draw: which encoded prompt, which sample of it."""

    index: int
    sample_index: int


class TransformersSampler:
    """Draws rollouts from a checkpoint with its own decoding loop."""

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        """Load model and tokenizer and probe them.

        Args:
            source: A checkpoint, or a reference to one.
            config: Sampling parameters, device, dtype and batch size.
            on_tokens: Progress hook.

        Raises:
            ConfigError: There are backend options; this sampler has none.
            CheckpointError: The checkpoint cannot be trusted to sample rightly.
            SamplerError: Its architecture cannot be sampled.
        """
        refuse_options(config, "transformers")
        self.on_tokens = on_tokens
        self.checkpoint = opened(source, config)
        self._config = config
        self._sampling = config.sampling
        self._model = load_model(self.checkpoint, config)
        self._vocab_size = int(self._model.get_input_embeddings().weight.shape[0])
        self._tokenizer = load_tokenizer(self.checkpoint, self._vocab_size)
        self._stop_ids = stop_ids(
            self._model.config, self._model.generation_config, self._tokenizer
        )
        with refusing(self.checkpoint.display_name, "cannot be sampled"):
            chooser = self._probe()
        all_stop_ids = union(self._stop_ids)
        self._encoder = PromptEncoder(
            self.checkpoint,
            self._tokenizer,
            sampling=self._sampling,
            stop_ids=all_stop_ids,
        )
        self._endings = Endings(self._tokenizer, all_stop_ids, self._sampling.stop)
        self._decoder = Decoder(self._model, chooser, all_stop_ids, self._endings)

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield the group of every prompt as soon as its last rollout ends.

        Prompts are decoded by length, so the order is not that of ``prompts``. Every prompt is
        encoded and checked before the first token is drawn.

        Raises:
            CheckpointError: The tokenizer loses parts of a prompt, or it has no chat template.
            SamplerError: A prompt is too long, logits are not finite, or memory ran out.
        """
        return self.sample_range(prompts, range(self._sampling.num_samples))

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the samples of that range of every prompt; order and errors as in `sample`."""
        encoded = self._encode(prompts)
        groups = WholeGroups(len(samples))
        with self._fitting_threads():
            for rows in self._plan(encoded, samples):
                for finished in self._decode(encoded, rows):
                    row = rows[finished.row]
                    prompt = encoded[row.index].prompt
                    rollout = self._rollout(prompt, row, finished)
                    if (group := groups.add(row.index, prompt, [rollout])) is not None:
                        yield group

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """Seconds that ``prompts`` take if every rollout runs to the token limit.

        Decodes a few steps of a whole wave, which is drawn again when it is its turn.
        """
        encoded = self._encode(prompts)
        waves = list(self._plan(encoded, range(self._sampling.num_samples)))
        largest = max(reversed(waves), key=len)
        steps = self._decoder.decode(self._wave(encoded, largest))
        with self._fitting_threads():
            started = time.perf_counter()
            try:
                next(steps)
                prefilled = stepped = time.perf_counter()
                num_steps = 0
                for _ in islice(steps, ESTIMATE_STEPS):
                    num_steps, stepped = num_steps + 1, time.perf_counter()
                    if stepped - prefilled >= ESTIMATE_S:
                        break
            except RuntimeError:  # sampling will meet it again, and say which prompt it was
                return None
        step_s = (stepped - prefilled) / max(num_steps, 1)
        wave_s = prefilled - started + step_s * self._sampling.max_new_tokens
        return wave_s * sum(map(len, waves)) / len(largest)

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        return self._encoder.sentence(prompts, self.checkpoint.template_digest)

    def describe(self) -> dict[str, Any]:
        """What sampled: everything that may change a rollout besides the settings."""
        import torch
        import transformers

        return {
            "backend": "transformers",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(self._model.device),
            "device_name": (
                torch.cuda.get_device_name(self._model.device)
                if self._model.device.type == "cuda"
                else "cpu"
            ),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "logits_dtype": self._logits_dtype,
            "attention": self._model.config._attn_implementation,
            "architecture": type(self._model).__name__,
            "vocab_size": self._vocab_size,
            "tokenizer": type(self._tokenizer).__name__,
            "stop_token_ids": self._stop_ids,
            "chat_template": self._sampling.chat_template,
            "template_digest": self.checkpoint.template_digest,
            "template_is_dated": self._encoder.is_dated,
            "batch_size": self._config.batch_size,
        }

    @contextmanager
    def _fitting_threads(self) -> Iterator[None]:
        """One torch thread for a small model on the CPU, as many as there are for others.

        The choice depends on the model alone, so that a rerun adds in the same order.
        """
        import torch

        before = torch.get_num_threads()
        on_cpu = self._model.device.type == "cpu"
        if on_cpu and self._model.num_parameters() < SMALL_MODEL_PARAMETERS:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _probe(self) -> TokenChooser:
        """Run a few tokens: logits must be finite, causal, and the same decoded as in one pass.

        Puts the exact head in. Returns what draws from as many logits as there are.
        """
        import torch

        refuse_acausal(self._model, self.checkpoint.display_name)
        self._logits_dtype = install_exact_head(self._model)
        ids = torch.arange(4, device=self._model.device).remainder(self._vocab_size)[None]
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False).logits[:, -1]
        if not logits.isfinite().all():
            raise CheckpointError(
                f"{self.checkpoint.display_name}: its logits are not finite on a probe of 4 tokens"
            )
        chooser = TokenChooser(logits.shape[-1], self._sampling)
        refuse_wrong_decoding(self._model, chooser, self.checkpoint.display_name)
        return chooser

    def _encode(self, prompts: Sequence[Prompt]) -> list[_Encoded]:
        """Encode all prompts and check that they can be decoded together."""
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        encoded = self._encoder.encode_within(prompts, limit)
        self._refuse_crossing([len(ids) for ids in encoded])
        return list(map(_Encoded, prompts, encoded))

    def _refuse_crossing(self, lengths: Sequence[int]) -> None:
        switch = rotary_switch(self._model.config)
        longest = max(lengths, default=0) + self._sampling.max_new_tokens
        if switch is not None and min(lengths, default=0) <= switch < longest:
            raise SamplerError(
                f"{self.checkpoint.display_name}: its LongRoPE turns all positions otherwise from "
                f"{switch} tokens on; prompts of {min(lengths)} to {max(lengths)} tokens with "
                f"max_new_tokens={self._sampling.max_new_tokens} lie on both sides of it, where "
                "what is decoded together or from a cache is of neither"
            )

    def _plan(self, encoded: Sequence[_Encoded], samples: range) -> Iterator[list[_Row]]:
        """Cut all rollouts, ordered by prompt length, into waves of whole groups.

        A group larger than the batch is spread over several waves.
        """
        by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        rows = [_Row(i, sample) for i in by_length for sample in samples]
        size = self._config.batch_size
        if size > len(samples):
            size -= size % len(samples)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _wave(self, encoded: Sequence[_Encoded], rows: list[_Row]) -> Wave:
        indices = list(dict.fromkeys(row.index for row in rows))
        slot_of = {index: slot for slot, index in enumerate(indices)}
        seed, count = self._sampling.seed, self._sampling.max_new_tokens
        return Wave(
            prompt_ids=[encoded[index].ids for index in indices],
            slots=np.array([slot_of[row.index] for row in rows], dtype=np.int64),
            uniforms=np.stack(
                [
                    uniforms(seed, encoded[row.index].prompt.id, row.sample_index, count)
                    for row in rows
                ]
            ),
        )

    def _decode(self, encoded: Sequence[_Encoded], rows: list[_Row]) -> Iterator[FinishedRow]:
        import torch

        wave = self._wave(encoded, rows)
        try:
            for step in self._decoder.decode(wave):
                if self.on_tokens is not None:
                    self.on_tokens(step.num_tokens, len(step.finished))
                yield from step.finished
        except NotFiniteLogitsError as error:
            prompt = encoded[rows[error.row].index].prompt
            raise SamplerError(
                f"prompt {prompt.id}: logits of generated token {error.position} are not finite"
            ) from error
        except torch.OutOfMemoryError as error:
            raise SamplerError(
                f"no memory for batch_size={self._config.batch_size} with prompts of up to "
                f"{counted(max(map(len, wave.prompt_ids)), 'token')} and max_new_tokens="
                f"{self._sampling.max_new_tokens}: a smaller batch_size gives the same rollouts"
            ) from error
        except SamplerError:
            raise
        except RuntimeError as error:
            raise SamplerError(
                f"{self.checkpoint.display_name}: the model stopped while sampling "
                f"{counted(len(wave.prompt_ids), 'prompt')}, "
                f"{encoded[rows[0].index].prompt.id} the first: "
                f"{error}"
            ) from error

    def _rollout(self, prompt: Prompt, row: _Row, finished: FinishedRow) -> Rollout:
        size = self._endings.size(finished.tokens)
        is_stopped = finished.is_stopped or size < len(finished.tokens)
        tokens = finished.tokens[:size]
        return Rollout(
            prompt_id=prompt.id,
            sample_index=row.sample_index,
            completion=self._endings.completion(tokens),
            token_ids=tokens,
            logprobs=finished.logprobs[:size],
            entropies=finished.entropies[:size],
            finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
        )
