"""What the client knows of the served model from its files: tokenizer, stop tokens, vocabulary.

Weights are not read; that the endpoint serves this checkpoint is the user's word.
"""

from collections.abc import Sequence
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, MissingDependencyError, SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FinishReason, Prompt
from mlflow_rlrisk.samplers.endings import Endings
from mlflow_rlrisk.samplers.endpoint.options import Api
from mlflow_rlrisk.samplers.model_loading import load_tokenizer
from mlflow_rlrisk.samplers.prompt_encoding import PromptEncoder
from mlflow_rlrisk.samplers.stop_tokens import stored_stop_ids, union
from mlflow_rlrisk.samplers.vllm_recorder.in_band import spare_token_id

PROBE_TEXTS = ("1", "The answer is", "A B C A B")


class LocalModel:
    """Tokenizer and configuration of a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        tokenizer: Its tokenizer.
        encoder: Renders and encodes prompts, as every sampler does.
        vocab_size: Words of the model's head, those that the tokenizer lacks included.
        stop_ids: All tokens that end a rollout; vLLM refuses ids beyond the vocabulary.
    """

    def __init__(self, checkpoint: Checkpoint, sampling: SamplingConfig) -> None:
        """Load the tokenizer and check it.

        Raises:
            CheckpointError: It is not the checkpoint's own, or the vocabulary's size is not told.
            MissingDependencyError: transformers is not installed.
        """
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("the checkpoint's tokenizer", "openai") from error
        self.checkpoint = checkpoint
        self._text_config = checkpoint.config.get("text_config") or checkpoint.config
        size = self._text_config.get("vocab_size")
        if type(size) is not int or size < 2:
            raise CheckpointError(f"{checkpoint.display_name}: config.json has no vocab_size")
        self.vocab_size = size
        self.tokenizer: Any = load_tokenizer(checkpoint, size)
        self.stop_ids = tuple(union(stored_stop_ids(checkpoint, self.tokenizer), size))
        self._endings = Endings(self.tokenizer, self.stop_ids, sampling.stop)
        self.encoder = PromptEncoder(
            checkpoint,
            self.tokenizer,
            sampling=sampling,
            stop_ids=self.stop_ids,
        )

    @property
    def entropy_id(self) -> int | None:
        """A word of the head that the tokenizer does not have; ``None`` where there is none."""
        try:
            return spare_token_id(self.vocab_size, list(self.tokenizer.get_vocab().values()))
        except CheckpointError:
            return None

    def apis(self) -> list[Api]:
        """Those that prompts may need: token ids go to completions."""
        return ["completions"]

    def api_of(self, prompt: Prompt) -> Api:  # of `NamedModel` it depends on it
        """The one that a prompt goes to."""
        return "completions"

    def contents(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt, checked as `PromptEncoder` does and for the context's length.

        Raises:
            CheckpointError: The tokenizer loses parts of a prompt.
            SamplerError: A prompt is too long.
        """
        limit = self._text_config.get("max_position_embeddings")
        return self.encoder.encode_within(prompts, limit if type(limit) is int else None)

    def template(self, prompts: Sequence[Prompt]) -> str:
        """How the prompts become tokens, as a sentence."""
        return self.encoder.sentence(prompts, self.checkpoint.template_digest)

    def described(self) -> dict[str, Any]:
        """What a report says of the model's files."""
        return {
            "vocab_size": self.vocab_size,
            "tokenizer": type(self.tokenizer).__name__,
            "stop_token_ids": list(self.stop_ids),
            "template_digest": self.checkpoint.template_digest,
            "template_is_dated": self.encoder.is_dated,
        }

    def identity(self, served: str, weights: str | None) -> str:
        """Which model sampled, as far as it is known.

        Args:
            served: The endpoint's model.
            weights: What comparing the weights found, where they were.
        """
        if weights is None:
            return f"that {served} serves this checkpoint is declared, not checked"
        return f"{served} serves this checkpoint: {weights}"

    def probes(self, api: Api = "completions") -> list[list[int]]:  # one alone
        """Short prompts of words that the model has."""
        encoded = self.tokenizer(list(PROBE_TEXTS), add_special_tokens=False)["input_ids"]
        return [list(ids) for ids in encoded if ids] or [[0]]

    def refuse_foreign(self, token_ids: Sequence[int]) -> None:
        """Fail at a token that the model does not have: a tokenizer decodes it to nothing.

        Raises:
            SamplerError: There is one.
        """
        highest = max(token_ids, default=0)
        if highest >= self.vocab_size:
            raise SamplerError(
                f"token {highest}, the model has {self.vocab_size}: another model is served"
            )

    def completion(self, token_ids: Sequence[int], finish_reason: FinishReason) -> str:
        """The text of a rollout without special tokens, as `TransformersSampler` decodes it.

        Raises:
            SamplerError: A token is none of this model's, or a stopped rollout does not end in a
                stop token.
        """
        self.refuse_foreign(token_ids)
        text = self._endings.completion(token_ids)
        size = self._endings.size(token_ids)
        if size < len(token_ids):
            raise SamplerError(
                f"an answer goes on for {counted(len(token_ids) - size, 'token')} behind a stop "
                "string: the "
                "server does not end answers there"
            )
        is_stopped = finish_reason is FinishReason.STOP
        if is_stopped and token_ids[-1] not in self.stop_ids and not self._endings.is_met(text):
            raise SamplerError(
                f"an answer that stopped has {token_ids[-1]} as its last token, none of the stop "
                f"tokens {list(self.stop_ids)}: token_ids must end in the stop token, which this "
                "server leaves out, or it stops at something else (a stop string, another token)"
            )
        return text
