"""The demo's tokenizer: one token per word, so that a chain is short and every number is known.

The vocabulary is closed. Decoding joins tokens by one space, which gives every prompt back exactly.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.demo.task import MAX_VALUE, OPERATIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def vocabulary() -> list[str]:
    """All tokens in the order of their ids."""
    numbers = [str(number) for number in range(MAX_VALUE + 1)]
    return [PAD, EOS, UNKNOWN, "from", "to", ":", *OPERATIONS, "=", *numbers]


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A fresh tokenizer; padding goes to the left, as generation needs it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(vocabulary())}
    backend = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    build: Any = PreTrainedTokenizerFast  # transformers leaves it untyped
    return build(  # type: ignore[no-any-return]
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a checkpoint folder."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
