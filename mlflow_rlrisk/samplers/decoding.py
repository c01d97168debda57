"""The decoding loop: one wave of rollouts from prefill to its last stop token.

Each prompt is prefilled once and its state repeated for its rollouts; every step computes one
position of the living rows only, and rows that ended leave the cache at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.samplers.endings import Endings
from mlflow_rlrisk.samplers.key_value_cache import SamplingCache
from mlflow_rlrisk.samplers.token_choice import TokenChoice, TokenChooser

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wave:
    """Rollouts that are decoded together.

    Attributes:
        prompt_ids: Token ids of the distinct prompts.
        slots: Which of them each row continues, ``[B]``.
        uniforms: The random stream of each row, float64 ``[B, max_new_tokens]``.
    """

    prompt_ids: Sequence[Sequence[int]]
    slots: npt.NDArray[np.int64]
    uniforms: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedRow:
    """One decoded row: its number in the wave and what was recorded of its tokens, ``[T]``."""

    row: int
    tokens: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]
    is_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedStep:
    """One step of a wave: how many tokens it sampled, and the rows that ended with it."""

    num_tokens: int
    finished: Sequence[FinishedRow]


class NotFiniteLogitsError(SamplerError):
    """A logit was NaN or infinite; carries the row and the position of the token."""

    def __init__(self, row: int, position: int) -> None:
        super().__init__(row, position)
        self.row, self.position = row, position

    def __str__(self) -> str:
        return f"row {self.row}: logits at position {self.position} are not finite"


class Decoder:
    """Decodes waves with one model."""

    def __init__(
        self,
        model: Any,
        chooser: TokenChooser,
        stop_ids: Sequence[int],
        endings: Endings | None = None,
    ) -> None:
        """Decode with a loaded model.

        Args:
            model: The model.
            chooser: Draws the tokens.
            stop_ids: Tokens that end a row.
            endings: Knows the strings that do.
        """
        import torch

        self._model = model
        self._chooser = chooser
        self._endings = endings
        self._device = model.device
        self._stop_ids = torch.tensor(sorted(stop_ids), device=self._device, dtype=torch.int64)

    def decode(self, wave: Wave) -> Iterator[DecodedStep]:
        """Yield every step of the wave; each row is reported once, when it ends.

        Raises:
            NotFiniteLogitsError: The model computed NaN or an infinity.
        """
        import torch

        batch = _Batch(wave, self._device)
        cache = SamplingCache(self._model.config)
        with torch.inference_mode():
            logits = self._prefill(batch, cache)
        for position in range(batch.max_new_tokens):
            with torch.inference_mode():
                if position:
                    logits = self._forward(
                        batch.tokens[batch.rows, position - 1][:, None],
                        batch.positions(position - 1),
                        batch.attention(position),
                        cache,
                    )
                num_tokens = len(batch.rows)
                seen = batch.seen(position) if self._chooser.penalises else None
                choice = self._chooser.choose(logits, batch.uniforms[batch.rows, position], seen)
                batch.record(position, choice)
                is_stop = torch.isin(choice.tokens, self._stop_ids)
                if self._endings is not None:
                    is_stop |= self._endings.are_met(batch.tokens[batch.rows, : position + 1])
                finished = self._retire(batch, cache, position, is_stop)
            yield DecodedStep(num_tokens=num_tokens, finished=finished)
            if len(batch.rows) == 0:
                return

    def _prefill(self, batch: "_Batch", cache: SamplingCache) -> "torch.Tensor":
        logits = self._forward(batch.prompts, batch.prompt_positions, batch.prompt_mask, cache)
        cache.spread(batch.slots)
        return logits[batch.slots]

    def _forward(
        self,
        ids: "torch.Tensor",
        positions: "torch.Tensor",
        attention: "torch.Tensor | None",
        cache: SamplingCache,
    ) -> "torch.Tensor":
        """Logits of the last position, float32 ``[B, V]``."""
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=attention,
            past_key_values=cache.states,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _retire(
        self, batch: "_Batch", cache: SamplingCache, position: int, is_stop: "torch.Tensor"
    ) -> list[FinishedRow]:
        import torch

        is_last = position + 1 == batch.max_new_tokens
        ended = torch.ones_like(is_stop) if is_last else is_stop
        if not ended.any():
            return []
        finished = batch.report(position, ended, is_stop)
        living = (~ended).nonzero()[:, 0]
        num_rows = len(living)
        if num_rows:
            holes = ended[:num_rows].nonzero()[:, 0]
            movers = living[living >= num_rows]
            order = torch.arange(num_rows, device=self._device)
            order[holes] = movers
            cache.keep(holes, movers, order)
            batch.rows = batch.rows[order]
        else:
            batch.rows = batch.rows[:0]
        return finished


class _Batch:
    """The tensors of one wave; ``rows`` names the living rows in the order of the cache."""

    def __init__(self, wave: Wave, device: "torch.device") -> None:
        import torch

        lengths = torch.tensor([len(ids) for ids in wave.prompt_ids])
        width = int(lengths.max())
        prompts = torch.zeros((len(lengths), width), dtype=torch.int64)
        for row, ids in enumerate(wave.prompt_ids):
            prompts[row, width - len(ids) :] = torch.as_tensor(ids)
        padding = width - lengths
        columns = torch.arange(width)
        self.max_new_tokens = wave.uniforms.shape[1]
        self.slots = torch.as_tensor(wave.slots, device=device)
        self.uniforms = torch.as_tensor(wave.uniforms, device=device)
        self.prompts = prompts.to(device)
        # In the place of padding a word that the prompt has anyway.
        words = torch.where(columns >= padding[:, None], prompts, prompts[:, -1:])
        self._prompt_words = words.to(device)[self.slots]
        self.prompt_positions = (columns - padding[:, None]).clamp(min=0).to(device)
        self.prompt_mask: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None
        if int(padding.max()):
            mask = (columns >= padding[:, None]).to(torch.int64).to(device)
            self.prompt_mask = mask
            room = mask.new_ones((len(self.slots), self.max_new_tokens))
            self._mask = torch.cat([mask[self.slots], room], dim=1)
        self._width = width
        self._lengths = lengths.to(device)[self.slots]
        rows = len(self.slots)
        self.rows = torch.arange(rows, device=device)
        self.tokens = torch.zeros((rows, self.max_new_tokens), dtype=torch.int64, device=device)
        self._logprobs = torch.zeros((rows, self.max_new_tokens), device=device)
        self._entropies = torch.zeros((rows, self.max_new_tokens), device=device)

    def positions(self, generated: int) -> "torch.Tensor":
        """Position ids of the token generated ``generated``-th, ``[B, 1]``."""
        return (self._lengths[self.rows] + generated)[:, None]

    def attention(self, generated: int) -> "torch.Tensor | None":
        """Mask over the prompt and the first ``generated`` tokens; none without padding."""
        if self._mask is None:
            return None
        return self._mask[self.rows, : self._width + generated]

    def seen(self, generated: int) -> "torch.Tensor":
        """Words of the prompt and of the first ``generated`` tokens, ``[B, T]``, with repeats."""
        import torch

        return torch.cat([self._prompt_words[self.rows], self.tokens[self.rows, :generated]], dim=1)

    def record(self, position: int, choice: TokenChoice) -> None:
        """Store what was sampled; the one check of finiteness is on the entropies."""
        is_finite = choice.entropies.isfinite()
        if not is_finite.all():
            first = int((~is_finite).nonzero()[0, 0])
            raise NotFiniteLogitsError(int(self.rows[first]), position)
        self.tokens[self.rows, position] = choice.tokens
        self._logprobs[self.rows, position] = choice.logprobs
        self._entropies[self.rows, position] = choice.entropies

    def report(
        self, position: int, ended: "torch.Tensor", is_stop: "torch.Tensor"
    ) -> list[FinishedRow]:
        """What was recorded of the rows that ended at this position."""
        rows = self.rows[ended]
        end = position + 1
        tokens = self.tokens[rows, :end].cpu().numpy()
        logprobs = self._logprobs[rows, :end].cpu().numpy()
        entropies = self._entropies[rows, :end].cpu().numpy()
        stopped = is_stop[ended].cpu().numpy()
        return [
            FinishedRow(
                row=row,
                tokens=tokens[place],
                logprobs=logprobs[place],
                entropies=entropies[place],
                is_stopped=bool(stopped[place]),
            )
            for place, row in enumerate(rows.tolist())
        ]
