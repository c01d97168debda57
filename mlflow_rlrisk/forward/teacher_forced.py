"""Logprobs and entropies of given completions, by a forward pass over prompt and completion.

The output head is not run: hidden states go through the fused head instead, so logits of all
positions never exist and are float32-accurate whatever the dtype. Where ``output_head.py`` does not
understand what the architecture does to its logits, it is applied to full ones, of few sequences
at a time.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.forward.output_head import (
    AfterHead,
    Forward,
    UnknownHeadError,
    collector,
    exact_forward,
    head_forward,
    is_matrix,
    probe_head,
)
from mlflow_rlrisk.forward.probe import refuse_acausal, refusing, rotary_switch
from mlflow_rlrisk.kernels import TokenStatistics, token_statistics

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 8192
"""Tokens of a forward pass, padding counted."""

LARGEST_LOGITS = 2**26
"""Logits of a forward pass that keeps them, 256 MB in float32."""

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenScores:
    """What a model gives each token of one completion, float32 ``[T]``, nats.

    Attributes:
        entropies: Entropy of each next-token distribution over the full vocabulary.
        logprobs: Log probability of each token; -inf where the architecture masks it.
    """

    entropies: npt.NDArray[np.float32]
    logprobs: npt.NDArray[np.float32]


def score(
    model: Any,
    sequences: Sequences,
    *,
    temperature: float,
    batch_tokens: int = BATCH_TOKENS,
) -> list[TokenScores]:
    """Score completions under a causal transformers model; see `TeacherForcedScorer`."""
    return TeacherForcedScorer(model).score(
        sequences, temperature=temperature, batch_tokens=batch_tokens
    )


class TeacherForcedScorer:
    """Scores completions with one model, which is probed once."""

    def __init__(self, model: Any) -> None:
        """Probe that the model is causal, and what the architecture does to its logits.

        Args:
            model: A causal language model of transformers, on its device.

        Raises:
            CheckpointError: It is not causal, or it cannot be run.
            SamplerError: Memory ran out.
        """
        self._model = model
        self._head: Any = model.get_output_embeddings()
        self.fallback_reason: str | None = None
        """Why logits of whole sequences are computed; none where hidden states are enough."""
        self._after: AfterHead | None = None
        name = type(model).__name__
        with without_dropout(model), refusing(name, "cannot be scored"):
            refuse_acausal(model, name)
            try:
                self._after = probe_head(model, self._head)
            except UnknownHeadError as error:
                self.fallback_reason = str(error)
                logger.warning("scored from logits of whole sequences: %s", error)

    def score(
        self, sequences: Sequences, *, temperature: float, batch_tokens: int = BATCH_TOKENS
    ) -> list[TokenScores]:
        """Entropy and logprob of every completion token, in the order given.

        Sequences of similar length share a forward pass, padded on the right, where a causal
        model never looks.

        Args:
            sequences: Pairs of prompt ids and completion ids, each with at least one token.
            temperature: Divides the logits.
            batch_tokens: Tokens of one forward pass; a longer sequence has one to itself.

        Raises:
            ConfigError: A sequence has an empty side or a token the model does not know, or a
                setting is not positive.
            SamplerError: A sequence is longer than the model has positions, its hidden states
                or logits are not finite, or memory ran out. The sequence is named by its index.
        """
        self._check(sequences, temperature, batch_tokens)
        lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
        if self._after is None:
            batch_tokens = min(batch_tokens, max(1, LARGEST_LOGITS // self._num_words))
        num_tokens = sum(len(completion) for _, completion in sequences)
        scores: dict[int, TokenScores] = {}
        with without_dropout(self._model):
            for rows in batches(lengths, batch_tokens, rotary_switch(self._model.config)):
                batch = [(row, *sequences[row]) for row in rows]
                scores.update(self._score_batch(batch, temperature, num_tokens))
        return [scores[row] for row in range(len(sequences))]

    @property
    def _num_words(self) -> int:
        return int(self._model.get_input_embeddings().weight.shape[0])

    def _check(self, sequences: Sequences, temperature: float, batch_tokens: int) -> None:
        if not 0.0 < temperature < float("inf"):
            raise ConfigError("temperature", temperature, "must be positive and finite")
        if batch_tokens < 1:
            raise ConfigError("batch_tokens", batch_tokens, "must be positive")
        text_config = self._model.config.get_text_config()
        limit = getattr(text_config, "max_position_embeddings", None)
        for row, (prompt, completion) in enumerate(sequences):
            if not len(prompt) or not len(completion):
                sizes = (len(prompt), len(completion))
                raise ConfigError(f"sequences[{row}]", sizes, "prompt and completion need a token")
            ids = np.concatenate([np.asarray(prompt), np.asarray(completion)])
            if ids.min() < 0 or ids.max() >= self._num_words:
                need = f"token ids must lie in 0..{self._num_words - 1}"
                raise ConfigError(f"sequences[{row}]", (int(ids.min()), int(ids.max())), need)
            if limit is not None and ids.size > limit:
                raise SamplerError(
                    f"sequence {row} has {ids.size} tokens and the model has {limit} positions"
                )

    def _score_batch(
        self,
        batch: Sequence[tuple[int, Sequence[int], Sequence[int]]],
        temperature: float,
        num_tokens: int,
    ) -> Iterator[tuple[int, TokenScores]]:
        import torch

        names = f"sequence {batch[0][0]}" if len(batch) == 1 else f"{len(batch)} sequences"
        try:
            states = self._states(batch)
        except torch.OutOfMemoryError as error:
            raise SamplerError(f"no memory to score {names}: lower batch_tokens") from error
        except RuntimeError as error:
            raise SamplerError(f"the model stopped while scoring {names}: {error}") from error
        targets = torch.cat([torch.as_tensor(np.asarray(ids, np.int64)) for _, _, ids in batch])
        targets = targets.to(states[0].device)
        ends = np.cumsum([len(state) for state in states]).tolist()
        spans = [slice(end - len(state), end) for end, state in zip(ends, states, strict=True)]
        try:
            found = self._statistics(torch.cat(states), targets, temperature, num_tokens)
        except SamplerError:
            for (row, _, _), state, span in zip(batch, states, spans, strict=True):
                try:
                    self._statistics(state, targets[span], temperature, num_tokens)
                except SamplerError as error:
                    raise SamplerError(f"sequence {row}: {error}") from error
            raise
        entropies, logprobs = found.entropies.cpu().numpy(), found.logprobs.cpu().numpy()
        for (row, _, _), span in zip(batch, spans, strict=True):
            yield row, TokenScores(entropies=entropies[span], logprobs=logprobs[span])

    def _states(
        self, batch: Sequence[tuple[int, Sequence[int], Sequence[int]]]
    ) -> list["torch.Tensor"]:
        """Per sequence what predicts its completion: hidden states ``[T, H]`` or logits."""
        import torch

        longest = max(len(prompt) + len(completion) for _, prompt, completion in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        spans = []
        for line, (_, prompt, completion) in enumerate(batch):
            size = len(prompt) + len(completion)
            ids[line, :size] = torch.as_tensor(np.concatenate([prompt, completion]))
            mask[line, :size] = 1
            spans.append(slice(len(prompt) - 1, size - 1))
        given: dict[str, Any] = {"input_ids": ids.to(self._model.device), "use_cache": False}
        if not mask.all():
            given["attention_mask"] = mask.to(self._model.device)
        collected: list[torch.Tensor] = []
        forward: Forward | None = collector(collected)
        if self._after is None:
            forward = exact_forward(self._head) if is_matrix(self._head) else None
        with head_forward(self._head, forward), torch.inference_mode():
            output = self._model(**given)
        if self._after is None:
            collected.append(output.logits)
        return [collected[0][line, span] for line, span in enumerate(spans)]

    def _statistics(
        self,
        states: "torch.Tensor",
        targets: "torch.Tensor",
        temperature: float,
        num_tokens: int,
    ) -> TokenStatistics:
        if self._after is None:
            return _from_logits(states, targets, temperature)
        weight, bias = self._head.weight, self._head.bias
        return token_statistics(
            states.to(weight.device),
            weight.detach(),
            targets.to(weight.device),
            bias=None if bias is None else bias.detach(),
            temperature=temperature,
            softcap=self._after.softcap,
            scale=self._after.scale,
            vocab_size=self._after.num_words,
            total_tokens=num_tokens,
        )


def _from_logits(
    logits: "torch.Tensor", targets: "torch.Tensor", temperature: float
) -> TokenStatistics:
    import torch

    logs = torch.log_softmax(logits.float() / temperature, dim=-1)
    weights = logs.exp()
    entropies = -(weights * logs.masked_fill(weights == 0.0, 0.0)).sum(dim=-1)
    is_bad = ~entropies.isfinite()
    if is_bad.any():
        first = int(is_bad.nonzero()[0])
        raise SamplerError(f"token {first} of {len(entropies)}: its logits are not finite")
    logprobs = logs.gather(1, targets[:, None])[:, 0]
    return TokenStatistics(logprobs=logprobs, entropies=entropies.clamp(min=0.0))


def batches(lengths: Sequence[int], batch_tokens: int, switch: int | None) -> Iterator[list[int]]:
    """Rows of passes, longest first, so that rows times the longest stay within the tokens.

    The longest come first so that what does not fit in memory fails at once. No batch holds
    sequences on both sides of the `rotary_switch`.
    """
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        is_full = rows and (len(rows) + 1) * lengths[rows[0]] > batch_tokens
        if is_full or (rows and switch is not None and lengths[row] <= switch < lengths[rows[0]]):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """The model in evaluation mode, whatever mode the caller left it in; put back afterwards."""
    was_training = bool(model.training)
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
