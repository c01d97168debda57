"""Where a completion ends: at a stop token, or with the first stop string in its text."""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.errors import ConfigError
from mlflow_rlrisk.records import IntArray

if TYPE_CHECKING:
    import torch

MARGIN = 8
"""Tokens looked at beyond the longest stop string, each of whose tokens shows a byte or more."""


class Endings:
    """Ends completions as engines do, and decodes them as trainers do.

    Trainers decode a rollout's tokens, so a stop string stays in the completion, with what its last
    token holds behind it; a stop token does not.
    """

    def __init__(self, tokenizer: Any, stop_ids: Collection[int], stop: Sequence[str]) -> None:
        """Know the endings of a checkpoint.

        Args:
            tokenizer: Its tokenizer.
            stop_ids: Tokens that end a completion.
            stop: Strings that do.

        Raises:
            ConfigError: A string holds a special token that ends nothing: no text shows it.
        """
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._stop = tuple(stop)
        special = frozenset(tokenizer.all_special_ids)
        for text in stop:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            is_stop_token = len(ids) == 1 and ids[0] in self._stop_ids
            hidden = special.intersection(ids)
            if hidden and not is_stop_token:
                name = tokenizer.convert_ids_to_tokens(min(hidden))
                need = (
                    f"text is needed: the tokenizer reads the special token {name} in it, which no "
                    "completion shows"
                )
                raise ConfigError("stop", text, need)
        self._window = max((len(text.encode()) for text in stop), default=0) + MARGIN

    def are_met(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Whether the text of each row holds a stop string, bool ``[B]``.

        Args:
            tokens: ``[B, T]``, of rows that held none without their last token.
        """
        import torch

        met = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if self._stop:
            for row, ids in enumerate(tokens[:, -self._window :].tolist()):
                met[row] = self._are_ended(ids) and self._are_ended(tokens[row].tolist())
        return met

    def size(self, token_ids: Sequence[int] | IntArray) -> int:
        """How many tokens there are up to the one that completes the first stop string.

        All of them where there is none.
        """
        if not self._stop or not self._are_ended(token_ids):
            return len(token_ids)
        return bisect_left(
            range(len(token_ids)), True, key=lambda n: self._are_ended(token_ids[:n])
        )

    def completion(self, token_ids: Sequence[int] | IntArray) -> str:
        """The text of a rollout, without special tokens and without its stop token."""
        ids = [int(token) for token in token_ids]
        if ids and ids[-1] in self._stop_ids:
            ids.pop()
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def is_met(self, text: str) -> bool:
        """True where a stop string stands in a completion."""
        return any(stop in text for stop in self._stop)

    def _are_ended(self, token_ids: Sequence[int] | IntArray) -> bool:
        return self.is_met(self.completion(token_ids))
