"""Choices of an endpoint -> rollouts, with as much of each token as is known and no more."""

import hashlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_rlrisk.errors import SamplerError, StatisticsError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import (
    UNKNOWN_TOKEN,
    EntropyBounds,
    FloatArray,
    IntArray,
    Prompt,
    Rollout,
)
from mlflow_rlrisk.samplers.endpoint.answers import Choice, TokenTold
from mlflow_rlrisk.samplers.endpoint.client import AnswerError
from mlflow_rlrisk.samplers.endpoint.knowledge import Knowledge
from mlflow_rlrisk.samplers.endpoint.local_model import LocalModel
from mlflow_rlrisk.samplers.endpoint.logprobs_mode import IMPOSSIBLE
from mlflow_rlrisk.samplers.vllm_recorder.in_band import entropy_of
from mlflow_rlrisk.statistics.entropy import control_variate_entropy, token_entropy_bounds

logger = logging.getLogger(__name__)

LARGEST_VOCABULARY = 2**20
"""Taken where the vocabulary is not known; a larger one only loosens the upper bound."""

NAMED_TOKENS = 2**30
"""Tokens told by name only get numbers below ``-LARGEST_VOCABULARY``: equal names have equal
numbers, and none can be mistaken for an id of a vocabulary."""

SAME_LOGPROB = 1e-5
"""The sampled token stands among the most likely ones with its own logprob, up to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReader:
    """Reads the choices of one assessment.

    Attributes:
        local: The model's files, where they are at hand.
        vocab_size: Words of the model's head, or a number above it.
    """

    local: LocalModel | None
    vocab_size: int

    def read(
        self,
        knowledge: Knowledge,
        prompt: Prompt,
        sample_index: int,
        choice: Choice,
        charged: int | None,
    ) -> Rollout:
        """Turn a choice into a rollout.

        Args:
            knowledge: What its logprobs mean.
            prompt: The prompt.
            sample_index: Which of its rollouts this is.
            choice: The choice.
            charged: Tokens the answer was charged for, where it has this choice alone.

        Raises:
            AnswerError: The answer lacks what the endpoint gave in its first answers, or its
                tokens cannot be counted.
            SamplerError: It is longer than was asked for, or cannot be one of the local model's.
        """
        tokens = choice.tokens
        is_empty = not choice.text and not choice.token_ids
        if tokens is None and knowledge.phrasing.num_top is not None and not is_empty:
            raise AnswerError("no logprobs, which the endpoint gave before")
        if choice.token_ids is None and knowledge.phrasing.has_extensions:
            raise AnswerError("no token_ids, which the endpoint gave before")
        token_ids = _token_ids(choice, charged)
        if len(token_ids) > knowledge.max_new_tokens:
            raise SamplerError(
                f"an answer has {counted(len(token_ids), 'token')} where max_new_tokens="
                f"{knowledge.max_new_tokens}: the endpoint must keep to the limit"
            )
        text = choice.text
        if choice.token_ids is not None and self.local is not None:
            text = self.local.completion(choice.token_ids, choice.finish_reason)
        return Rollout(
            prompt_id=prompt.id,
            sample_index=sample_index,
            completion=text,
            token_ids=token_ids,
            logprobs=_logprobs(knowledge, tokens),
            entropies=self._exact(knowledge, tokens),
            finish_reason=choice.finish_reason,
            entropy_bounds=self._bounds(knowledge, tokens, len(token_ids)),
        )

    def _exact(self, knowledge: Knowledge, tokens: Sequence[TokenTold] | None) -> FloatArray | None:
        if knowledge.entropy != "exact":
            return None
        key = f"token_id:{knowledge.phrasing.entropy_id}"
        values = []
        for token in tokens or ():
            carried = dict(token.top).get(key)
            if carried is None:
                raise AnswerError("a token without its entropy, which the server sent before")
            try:
                values.append(entropy_of(carried, self.vocab_size))
            except SamplerError as error:
                raise AnswerError(str(error)) from error
        return _as_stored(np.array(values))

    def _bounds(
        self, knowledge: Knowledge, tokens: Sequence[TokenTold] | None, length: int
    ) -> EntropyBounds | None:
        if knowledge.entropy != "bounds":
            return None
        if tokens is None:  # the stop token alone, of which the endpoint tells nothing
            highest = np.full(length, np.log(self.vocab_size))
            return EntropyBounds(lower=np.zeros(length), upper=highest, estimate=None)
        try:
            found = entropy_bounds(
                tokens,
                knowledge.num_known,
                self.vocab_size,
                has_estimate=knowledge.has_estimate,
            )
            return EntropyBounds(
                lower=_as_stored(found.lower),
                upper=_as_stored(found.upper),
                estimate=None if found.estimate is None else _as_stored(found.estimate),
            )
        except StatisticsError as error:
            logger.warning("the endpoint's logprobs are those of no distribution: %s", error)
            return None


def entropy_bounds(
    tokens: Sequence[TokenTold], num_top: int, vocab_size: int, *, has_estimate: bool
) -> EntropyBounds:
    """Bounds, and the unbiased estimate, of the entropy at every token.

    Args:
        tokens: What is told of the tokens, ``T`` of them.
        num_top: Most likely tokens that are known at every position, ``K``, whatever was sampled.
        vocab_size: Words of the head, or a number above it.
        has_estimate: The tokens were drawn from the distribution that is told.

    Returns:
        Vectors ``[T]``. A position with fewer than ``K`` tokens has looser bounds and takes the
        estimate from the whole rollout.

    Raises:
        StatisticsError: The logprobs are no top k of a distribution.
    """
    lower, upper = np.zeros(len(tokens)), np.full(len(tokens), np.log(vocab_size))
    estimate = np.zeros(len(tokens))
    full = np.array([len(token.top) >= num_top for token in tokens])
    probs = np.exp([[lp for _, lp in t.top[:num_top]] for t in tokens if len(t.top) >= num_top])
    probs = probs.reshape(-1, num_top)
    if full.any():
        lower[full], upper[full] = token_entropy_bounds(probs, vocab_size)
    for place in np.flatnonzero(~full).tolist():
        # Whether the last one is there as the sampled or as a likely token cannot be told.
        likely = tokens[place].top[:-1]
        if likely:
            low, high = token_entropy_bounds(np.exp([lp for _, lp in likely]), vocab_size)
            lower[place], upper[place] = float(low), float(high)
    is_drawn = all(token.logprob > IMPOSSIBLE for token in tokens)
    if not (has_estimate and full.all() and is_drawn):
        return EntropyBounds(lower=lower, upper=upper, estimate=None)
    in_top = np.array([_is_among(token, num_top) for token in tokens])
    logprobs = np.minimum([token.logprob for token in tokens], 0.0)
    estimate = control_variate_entropy(probs, in_top, logprobs, vocab_size)
    return EntropyBounds(lower=lower, upper=upper, estimate=np.asarray(estimate))


def _is_among(token: TokenTold, num_top: int) -> bool:
    return any(
        key == token.key and abs(logprob - token.logprob) <= SAME_LOGPROB
        for key, logprob in token.top[:num_top]
    )


def _logprobs(knowledge: Knowledge, tokens: Sequence[TokenTold] | None) -> FloatArray | None:
    if not knowledge.has_logprobs or tokens is None:
        return None
    values = np.array([token.logprob for token in tokens])
    return _as_stored(values) if (values > IMPOSSIBLE).all() else None


def _as_stored(values: FloatArray) -> FloatArray:
    """As rollouts are stored, so that a run that is taken up again gives the same report."""
    return np.asarray(values, dtype=np.float32)


def _token_ids(choice: Choice, charged: int | None) -> IntArray:
    """Ids, or numbers of the tokens' names, or as many unknown tokens as were charged."""
    if choice.token_ids is not None:
        return np.array(choice.token_ids, dtype=np.int64)
    if choice.tokens is not None:
        return np.array([_number(token.key) for token in choice.tokens], dtype=np.int64)
    if charged is None and choice.text:
        raise AnswerError("neither token ids nor logprobs nor usage: tokens cannot be counted")
    return np.full(charged or 1, UNKNOWN_TOKEN, dtype=np.int64)


def _number(key: Hashable) -> int:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return -LARGEST_VOCABULARY - int.from_bytes(digest[:8], "little") % NAMED_TOKENS
