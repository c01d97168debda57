"""Prompts become token ids exactly as the RL run will feed them, or the checkpoint is refused.

A tokenizer that drops, replaces or rewrites parts of a prompt makes the model answer another
question; the numbers would look normal. So every prompt is decoded again and compared.
"""

import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from mlflow_rlrisk.checkpoint import Checkpoint
from mlflow_rlrisk.checkpoint.template_probe import refuse_hostile_template
from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import CheckpointError, SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import Prompt

SHOWN = 60
"""Characters of a text that an error message shows."""

DECODED_TOKENS = 512
"""About so many tokens of the vocabulary are decoded to check the tokenizer that was loaded."""
MAX_DIFFERING_SHARE = 0.02
"""Added tokens may be shown otherwise; a decoder of another kind spoils far more."""


class PromptEncoder:
    """Renders and encodes the prompts of one checkpoint.

    Args:
        checkpoint: The checkpoint.
        tokenizer: Its tokenizer as it was loaded.
        sampling: Says which prompts get the chat template, and with which variables.
        stop_ids: Tokens that end a completion.

    Raises:
        CheckpointError: The tokenizer was loaded as another one than is stored, or its template
            does not read a variable.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Any,
        *,
        sampling: SamplingConfig,
        stop_ids: Collection[int],
    ) -> None:
        self._name = checkpoint.display_name
        self._tokenizer = tokenizer
        self._chat_template = sampling.chat_template
        self._variables = sampling.chat_template_kwargs
        if self._variables:
            self._check_variables()
        self._max_new_tokens = sampling.max_new_tokens
        self._last: tuple[list[Prompt], list[list[int]]] = ([], [])
        self._stop_ids = frozenset(stop_ids)
        self._stored = _stored_tokenizer(checkpoint)
        self._check_decoder()

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt.

        Raises:
            CheckpointError: A prompt is lost or changed on the way, or it needs a chat template
                and there is none.
        """
        return [self._encode_one(prompt) for prompt in prompts]

    def encode_within(
        self, prompts: Sequence[Prompt], max_positions: int | None
    ) -> list[list[int]]:
        """`encode`, for completions that a model of so many positions goes on with.

        The prompts of the last call are not encoded again.

        Raises:
            CheckpointError: See `encode`.
            SamplerError: A prompt is too long; ``None`` positions are without end.
        """
        known, encoded = self._last
        if len(known) != len(prompts) or any(
            a is not b for a, b in zip(known, prompts, strict=True)
        ):
            encoded = self.encode(prompts)
            self._last = (list(prompts), encoded)
        for prompt, ids in zip(prompts, encoded, strict=True):
            needed = len(ids) + self._max_new_tokens
            if max_positions is not None and needed > max_positions:
                raise SamplerError(
                    f"prompt {prompt.id} has {counted(len(ids), 'token')}; with max_new_tokens="
                    f"{self._max_new_tokens} it needs {needed} positions and the model has "
                    f"{max_positions}"
                )
        return encoded

    def encode_example(self, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of a response to it, which ends with its stop token.

        Prompt and response are encoded in one piece, as a continuation would be, unless a token
        would reach over the border: the prompt's ids are those that rollouts start from.

        Raises:
            CheckpointError: A part is lost or changed on the way; see `encode`.
        """
        ids = self._encode_one(prompt)
        text, is_rendered = self._render(prompt)
        plain = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = list(self._tokenizer(text + response, add_special_tokens=False)["input_ids"])
        if whole[: len(plain)] == plain:
            self._check_round_trip(prompt, text + response, whole)
            answer = whole[len(plain) :]
        else:
            answer = list(self._tokenizer(response, add_special_tokens=False)["input_ids"])
            self._check_round_trip(prompt, response, answer)
        stop = self._closing(prompt, response) if is_rendered else None
        if stop is None and self._stop_ids:
            own = self._tokenizer.eos_token_id
            stop = own if own in self._stop_ids else min(self._stop_ids)
        if stop is not None and not (answer and answer[-1] in self._stop_ids):
            answer.append(stop)
        return ids, answer

    def _closing(self, prompt: Prompt, response: str) -> int | None:
        """The stop token with which the chat template ends the assistant's turn."""
        turns = [*prompt.turns, {"role": "assistant", "content": response}]
        rendered = self._templated(turns, f"the response to {prompt.id}")
        tail = rendered.rpartition(response.strip())[2]
        ids = self._tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        return next((int(token) for token in ids if token in self._stop_ids), None)

    def _encode_one(self, prompt: Prompt) -> list[int]:
        text, is_rendered = self._render(prompt)
        plain = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        self._check_round_trip(prompt, text, plain)
        ids = plain if is_rendered else self._with_prefix(text, plain)
        if not ids:
            raise CheckpointError(
                f"{self._name}: its tokenizer turns prompt {prompt.id} "
                f"({_shorten(text)}) into no tokens"
            )
        return ids

    @property
    def is_dated(self) -> bool:
        """True where the chat template inserts today's date (Llama 3.1 and later do).

        Its digest is the same tomorrow, its prompts are not.
        """
        template = str(self._tokenizer.chat_template or "")
        return "strftime_now" in template and "date_string" not in self._variables

    def is_templated(self, prompt: Prompt) -> bool:
        """True where the chat template is applied to the prompt."""
        if isinstance(prompt.content, str):
            return self._chat_template == "always"
        return self._chat_template != "never"

    def sentence(self, prompts: Sequence[Prompt], template_digest: str | None) -> str:
        """How the prompts become tokens, for people."""
        num_wrapped = sum(self.is_templated(prompt) for prompt in prompts)
        if num_wrapped == 0:
            unused = ", chat_template_kwargs change nothing" if self._variables else ""
            return f"none: prompts are raw text{unused}"
        digest = (template_digest or "")[:12]
        does = ", which inserts today's date" if self.is_dated else ""
        if self._drops_system(prompts):
            does += ", which leaves out the system turn"
        does += "".join(f", {name}={value!r}" for name, value in sorted(self._variables.items()))
        some = "" if num_wrapped == len(prompts) else f", for {counted(num_wrapped, 'chat prompt')}"
        return f"the checkpoint's chat template ({digest}){does}{some}"

    def _drops_system(self, prompts: Sequence[Prompt]) -> bool:
        """True where it is one to the template what the first system turn says, as to some."""
        for prompt in filter(self.is_templated, prompts):
            turns = prompt.turns
            place = next((i for i, turn in enumerate(turns) if turn["role"] == "system"), None)
            if place is not None:
                # Templates change what they keep: some cut "/no_think" out of it, some quote it.
                other = [*turns]
                other[place] = {**turns[place], "content": f"{turns[place]['content']}."}
                kept = self._render(prompt)[0]
                return kept == self._templated(
                    other, f"prompt {prompt.id}", add_generation_prompt=True
                )
        return False

    def _render(self, prompt: Prompt) -> tuple[str, bool]:
        if not self.is_templated(prompt):
            return prompt.text, False
        if not self._tokenizer.chat_template:
            is_text = isinstance(prompt.content, str)
            why = "chat_template='always'" if is_text else f"prompt {prompt.id} is a chat"
            raise CheckpointError(f"{self._name}: {why} and the tokenizer has no chat template")
        turns = prompt.turns
        rendered = self._templated(turns, f"prompt {prompt.id}", add_generation_prompt=True)
        self._check_question(prompt, turns[-1], rendered)
        return rendered, True

    def _templated(self, turns: list[dict[str, str]], what: str, **options: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, **options, **self._variables
                )
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise CheckpointError(
                f"{self._name}: its chat template fails on {what}: {error}"
            ) from error

    def _check_variables(self) -> None:
        """What the template does not read would change nothing, and nobody would know."""
        if not self._tokenizer.chat_template:
            raise CheckpointError(
                f"{self._name}: chat_template_kwargs are given and the tokenizer has no chat "
                "template"
            )
        try:
            refuse_hostile_template(self._tokenizer.get_chat_template(), self._variables)
        except (CheckpointError, ValueError) as error:  # of several, none may be the default
            raise CheckpointError(f"{self._name}: {error}") from error

    def _check_question(self, prompt: Prompt, turn: dict[str, str], rendered: str) -> None:
        """A template may leave out a turn whose role it does not know; a tool's may be quoted."""
        asked = turn["content"].strip()
        if turn["role"] == "tool" or asked in rendered or _letters(asked) in _letters(rendered):
            return
        raise CheckpointError(
            f"{self._name}: its chat template leaves out the last turn of prompt {prompt.id} "
            f"(role {turn['role']!r}: {_shorten(asked)})"
        )

    def _with_prefix(self, text: str, plain: list[int]) -> list[int]:
        """Add the tokenizer's own opening tokens; a closing one would end the answer at once."""
        ids = list(self._tokenizer(text)["input_ids"])
        if len(ids) > len(plain) and ids[-1] in self._stop_ids and ids[:-1][-len(plain) :] == plain:
            ids = ids[:-1]
        opening = self._tokenizer.bos_token_id
        if len(ids) > 1 and ids[0] == ids[1] == opening:  # the text brought its own
            ids = ids[1:]
        return ids

    def _check_decoder(self) -> None:
        """Completions hold tokens that no prompt does: a sample of all must decode as stored."""
        if self._stored is None:
            return
        size = self._stored.get_vocab_size()
        ids = range(0, size, max(1, size // DECODED_TOKENS))
        differing = [
            token
            for token in ids
            if _letters(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
            != _letters(self._stored.decode([token], skip_special_tokens=False))
        ]
        if len(differing) > MAX_DIFFERING_SHARE * len(ids):
            raise CheckpointError(
                f"{self._name}: transformers loads the tokenizer as "
                f"{type(self._tokenizer).__name__}, which decodes {len(differing)} of {len(ids)} "
                f"tokens otherwise than its tokenizer.json does (first: token {differing[0]})"
            )

    def _check_round_trip(self, prompt: Prompt, text: str, plain: list[int]) -> None:
        if self._stored is not None:
            stored = self._stored.encode(text, add_special_tokens=False).ids
            if stored != plain:
                raise CheckpointError(
                    f"{self._name}: transformers loads the tokenizer as "
                    f"{type(self._tokenizer).__name__}, which encodes prompt {prompt.id} "
                    f"({_shorten(text)}) otherwise than its tokenizer.json does: "
                    f"{counted(len(plain), 'token')} instead of {len(stored)}"
                )
        unknown_id = self._tokenizer.unk_token_id
        is_unknown = unknown_id is not None and unknown_id in plain
        if is_unknown and str(self._tokenizer.unk_token) not in text:
            raise CheckpointError(
                f"{self._name}: its tokenizer does not know parts of prompt {prompt.id} "
                f"({_shorten(text)})"
            )
        decoded = self._tokenizer.decode(
            plain, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if _letters(decoded) != _letters(text):
            raise CheckpointError(
                f"{self._name}: its tokenizer ({type(self._tokenizer).__name__}) does not "
                f"round-trip prompt {prompt.id}: {_shorten(text)} comes back as {_shorten(decoded)}"
            )


def _stored_tokenizer(checkpoint: Checkpoint) -> Any | None:
    """``tokenizer.json`` read by the tokenizers library itself: the oracle for what is loaded.

    ``AutoTokenizer`` picks a class by ``model_type``; for some (``qwen2``) that class brings its
    own pre-tokenizer and ignores the stored one.
    """
    path = checkpoint.tokenizer_path / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(path))
    stored.no_padding()
    stored.no_truncation()
    return stored


def _letters(text: str) -> str:
    """What must survive: everything but whitespace and Unicode compatibility forms."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
