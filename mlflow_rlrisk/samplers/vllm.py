"""Sampling with vLLM: tokens, logprobs and exact entropies in one generation pass.

Every rollout is a request of its own (n = 1, own number, own seed). A logits processor in the
workers records the entropy of each row; the records are fetched in blocks while sampling goes on,
joined with the tokens, and every token must have one: where it has none, a plain forward pass
gives it. The checkpoint's ``generation_config`` does not take part, only its stop tokens do.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import AssessmentConfig
from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.forward.teacher_forced import TokenScores
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FinishReason, Prompt, Rollout, RolloutGroup
from mlflow_rlrisk.samplers import OnTokens, opened
from mlflow_rlrisk.samplers.endings import Endings
from mlflow_rlrisk.samplers.lora_adapter import open_adapter
from mlflow_rlrisk.samplers.model_loading import load_config, load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.stop_tokens import stored_stop_ids, union
from mlflow_rlrisk.samplers.vllm_arguments import (
    avoid_partial_prefill,
    engine_arguments,
    resolve_dtype,
)
from mlflow_rlrisk.samplers.vllm_engine import Engine
from mlflow_rlrisk.samplers.vllm_environment import (
    check_device,
    choose_process,
    choose_runner,
    prepare_vllm,
)
from mlflow_rlrisk.samplers.vllm_options import VllmOptions
from mlflow_rlrisk.samplers.vllm_reference import ReferenceModel, compare, require_agreement
from mlflow_rlrisk.samplers.vllm_stream import Drawn, RolloutStream, Row, fill_gaps
from mlflow_rlrisk.samplers.vllm_weights import refuse_other_weights
from mlflow_rlrisk.samplers.whole_groups import WholeGroups

ESTIMATE_TOKENS = 9
"""Tokens a rollout that are decoded for an estimate."""

CHECK_PROMPTS = ((5, 9), (10, 8), (20, 8))
"""Prompt and completion lengths of the check at the start."""


class VllmSampler:
    """Draws rollouts from a checkpoint with vLLM; options are those of `VllmOptions`."""

    def __init__(
        self,
        source: Checkpoint | Path | str,
        config: AssessmentConfig,
        on_tokens: OnTokens | None = None,
    ) -> None:
        """Start the engine and compare it with a plain forward pass.

        Args:
            source: A checkpoint, or a reference to one.
            config: Sampling parameters, device, dtype, batch size and backend options.
            on_tokens: Progress hook.

        Raises:
            ConfigError: An option is unusable or would make a figure wrong.
            CheckpointError: The checkpoint cannot be trusted to sample rightly.
            SamplerError: The engine does not start or disagrees with the forward pass.
            MissingDependencyError: vLLM is not installed.
        """
        self.on_tokens = on_tokens
        self._config, self._sampling = config, config.sampling
        self._options = VllmOptions.of(config)
        self._version = prepare_vllm()
        self._device = check_device(config.device)
        self.checkpoint = opened(source, config)
        refuse_other_weights(self.checkpoint)
        self._dtype = resolve_dtype(self.checkpoint, config.dtype)
        path = self._options.lora_adapter
        self._adapter = None if path is None else open_adapter(path)
        self._engine = self._start()
        self._logits_dtype, self._num_words = self._engine.logits()
        self._endings = Endings(self._tokenizer, self._all_stop_ids, self._sampling.stop)
        self._encoder = PromptEncoder(
            self.checkpoint,
            self._tokenizer,
            sampling=self._sampling,
            stop_ids=self._all_stop_ids,
        )
        self._stream = RolloutStream(
            self._engine,
            batch_size=self._batch_size,
            max_tokens=self._sampling.max_new_tokens,
            num_words=self._num_words,
        )
        self._reference = ReferenceModel(self.checkpoint, config, self._dtype, self._adapter)
        self.self_check = self._check()

    def _start(self) -> Engine:
        options = self._options
        arguments = engine_arguments(
            self.checkpoint, self._config, options, dtype=self._dtype, adapter=self._adapter
        )
        vocab_size = int(load_config(self.checkpoint).get_text_config().vocab_size)
        self._tokenizer = load_tokenizer(self.checkpoint, vocab_size)
        self._stop_ids = stored_stop_ids(self.checkpoint, self._tokenizer)
        # vLLM refuses ids beyond the vocabulary.
        self._all_stop_ids = union(self._stop_ids, vocab_size)
        self._has_process = choose_process(options)
        self._runner = choose_runner(options, arguments)
        if self._device == "cpu" and self._runner == "v1" and options.seeded:
            avoid_partial_prefill(arguments)
        return Engine(
            arguments,
            self._runner,
            self._sampling,
            stop_ids=self._all_stop_ids,
            lora_path=None if self._adapter is None else str(self._adapter.path),
        )

    def sample(self, prompts: Sequence[Prompt]) -> Iterator[RolloutGroup]:
        """Yield the group of every prompt soon after its last rollout ends.

        Every prompt is encoded and checked before the first token is drawn.

        Raises:
            CheckpointError: The tokenizer loses parts of a prompt, or it has no chat template.
            SamplerError: A prompt is too long, or the engine failed.
        """
        return self.sample_range(prompts, range(self._sampling.num_samples))

    def sample_range(self, prompts: Sequence[Prompt], samples: range) -> Iterator[RolloutGroup]:
        """Yield the samples of that range of every prompt; order and errors as in `sample`."""
        rows = self._rows(prompts, samples)
        groups = WholeGroups(len(samples))
        with closing(self._stream.run(rows, self._sampling.max_new_tokens)) as batches:
            for batch in batches:
                self._fill(batch)
                for drawn in batch:
                    if self.on_tokens is not None:
                        self.on_tokens(drawn.finished.token_ids.size, 1)
                    row, rollout = drawn.row, self._rollout(drawn)
                    if (group := groups.add(row.index, row.prompt, [rollout])) is not None:
                        yield group

    def estimate_s(self, prompts: Sequence[Prompt]) -> float | None:
        """Seconds that ``prompts`` take if every rollout runs to the token limit.

        Fills in one batch and decodes a few tokens of it, which are drawn again when it is its
        turn.
        """
        num_samples = self._sampling.num_samples
        wave = list(islice(self._rows(prompts, range(num_samples)), self._batch_size))
        if not wave:
            return None
        seconds = []
        limit = min(ESTIMATE_TOKENS, self._sampling.max_new_tokens)
        for max_tokens in (1, limit):
            started = time.perf_counter()
            for _ in self._stream.run(iter(wave), max_tokens):
                pass
            seconds.append(time.perf_counter() - started)
        wave_s = seconds[0] + seconds[1] / limit * self._sampling.max_new_tokens
        return wave_s * len(prompts) * num_samples / len(wave)

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        return self._encoder.sentence(prompts, self.checkpoint.template_digest)

    def describe(self) -> dict[str, Any]:
        """What sampled: everything that may change a rollout besides the settings."""
        import torch
        from vllm.platforms import current_platform

        return {
            "backend": "vllm",
            "vllm": self._version,
            "torch": torch.__version__,
            "runner": self._runner,
            "device": self._device,
            # Torch would start CUDA in this process for it, on a GPU whose memory vLLM has taken.
            "device_name": current_platform.get_device_name(),
            "dtype": self._dtype,
            "logits_dtype": self._logits_dtype,
            "entropy": "of the full softmax at the temperature, recorded by the engine",
            "logprobs": f"of the softmax that {self._sampling.reshaping} makes"
            if self._sampling.reshaping
            else "of the full softmax",
            "architecture": ", ".join(self.checkpoint.config.get("architectures") or ()),
            "vocab_size": self._num_words,
            "tokenizer": type(self._tokenizer).__name__,
            "stop_token_ids": self._stop_ids,
            "chat_template": self._sampling.chat_template,
            "template_digest": self.checkpoint.template_digest,
            "template_is_dated": self._encoder.is_dated,
            "batch_size": self._batch_size,
            "tensor_parallel_size": self._options.tensor_parallel_size,
            "own_process": self._has_process,
            "reproducible": self._reproducible(),
            "self_check": self.self_check,
            "identity": {
                "engine": f"vllm {self._version}",
                "runner": self._runner,
                "logits_dtype": self._logits_dtype,
                "quantization": self._quantization(),
                "adapter": None if self._adapter is None else self._adapter.digest,
                "seeded": self._options.seeded,
            },
        }

    def close(self) -> None:
        """End the engine; otherwise it ends with the sampler, or when another one starts."""
        self._engine.close()

    @property
    def _batch_size(self) -> int:
        return self._options.max_num_seqs or self._config.batch_size

    def _reproducible(self) -> str:
        if not self._options.seeded:
            return "no: rollouts have no seeds"
        if self._device == "cpu" and self._options.tensor_parallel_size == 1:
            return "the same seed gives the same rollouts on the same machine and batch"
        return (
            "the same seed gives the same rollouts up to rounding, which changes with the batch; "
            "VLLM_BATCH_INVARIANT=1 avoids it where vLLM supports it"
        )

    def _quantization(self) -> str | None:
        if self._options.quantization is not None:
            return self._options.quantization
        stored = self.checkpoint.config.get("quantization_config")
        return None if stored is None else str(stored.get("quant_method", "unknown"))

    def _check(self) -> str:
        """Draw a few tokens and compare them with a plain forward pass; says what came of it."""
        if not self._options.self_check:
            return "switched off"
        if self._quantization() is not None:
            return "not possible: engines read quantized weights differently"
        usable = [i for i in range(len(self._tokenizer)) if i not in self._all_stop_ids]
        found: list[Drawn] = []
        for index, (length, most) in enumerate(CHECK_PROMPTS):
            ids = [usable[(7 * index + 3 * j) % len(usable)] for j in range(length)]
            size = min(most, self._sampling.max_new_tokens, self._engine.max_model_len - length)
            if size < 1:
                continue
            prompt = Prompt(id=f"check-{index}", content="")
            row = Row(index, prompt, ids, 0, self._seed(prompt, 0))
            found += [drawn for batch in self._stream.run(iter([row]), size) for drawn in batch]
        if any(np.isnan(drawn.entropies).any() for drawn in found):
            raise SamplerError(
                f"vLLM {self._version} ({self._runner}) recorded no or impossible entropies for "
                "some tokens of the check at the start"
            )
        if not found:
            raise ConfigError(
                "max_model_len",
                self._engine.max_model_len,
                f"at least {CHECK_PROMPTS[0][0] + 1} positions are needed for the check at the "
                "start",
            )
        agreement = compare(
            [
                TokenScores(
                    entropies=drawn.entropies.astype(np.float32), logprobs=drawn.finished.logprobs
                )
                for drawn in found
            ],
            self._reference.score(
                [(drawn.row.prompt_ids, drawn.finished.token_ids.tolist()) for drawn in found]
            ),
            is_reshaped=bool(self._sampling.reshaping),
        )
        require_agreement(agreement, self._dtype)
        return str(agreement)

    def _rows(self, prompts: Sequence[Prompt], samples: range) -> Iterator[Row]:
        encoded = self._encoder.encode_within(prompts, self._engine.max_model_len)
        return (
            Row(index, prompt, encoded[index], sample, self._seed(prompt, sample))
            for index, prompt in enumerate(prompts)
            for sample in samples
        )

    def _seed(self, prompt: Prompt, sample_index: int) -> int | None:
        """A seed of its own for every (seed, prompt, sample), whatever the batch."""
        if not self._options.seeded:
            return None
        name = f"{self._sampling.seed}/{sample_index}/{prompt.id}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1

    def _fill(self, batch: list[Drawn]) -> None:
        if self._quantization() is None:
            fill_gaps(batch, self._reference)
            return
        num_gaps = sum(int(np.isnan(drawn.entropies).sum()) for drawn in batch)
        if num_gaps:
            raise SamplerError(
                f"{counted(num_gaps, 'token has', 'tokens have')} no recorded entropy, and a "
                "forward pass reads quantized weights differently"
            )

    def _rollout(self, drawn: Drawn) -> Rollout:
        row, finished = drawn.row, drawn.finished
        size = self._endings.size(finished.token_ids)
        is_stopped = finished.finish_reason == "stop" or size < len(finished.token_ids)
        tokens = finished.token_ids[:size]
        return Rollout(
            prompt_id=row.prompt.id,
            sample_index=row.sample_index,
            completion=self._endings.completion(tokens),
            token_ids=tokens,
            logprobs=finished.logprobs[:size],
            entropies=drawn.entropies[:size],
            finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
        )
