"""Requests in flight: the engine never starves, and every finished one gets its entropies."""

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.plurals import counted
from mlflow_rlrisk.records import FloatArray, Prompt
from mlflow_rlrisk.samplers.entropy_table import EntropyTable
from mlflow_rlrisk.samplers.vllm_engine import Engine, Finished, Request
from mlflow_rlrisk.samplers.vllm_reference import ReferenceModel

logger = logging.getLogger(__name__)

WAVES_IN_FLIGHT = 2
"""Requests queued, in batches: one is decoded and one waits, so that no slot is ever empty."""

DRAIN_TOKENS = 50_000
"""Finished tokens after which their records are fetched ..."""
DRAIN_S = 1.0
"""... or so many seconds, so that groups can be graded while sampling goes on."""


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout to draw.

    Attributes:
        index: Position of its prompt among those that were given.
        prompt: The prompt.
        prompt_ids: Its tokens.
        sample_index: Which sample of it.
        seed: Of its request; ``None`` leaves it to the engine.
    """

    index: int
    prompt: Prompt
    prompt_ids: list[int]
    sample_index: int
    seed: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A finished rollout; ``entropies`` ``[T]`` in nats, NaN where the recorder has none."""

    row: Row
    finished: Finished
    entropies: FloatArray


class RolloutStream:
    """Draws rows with one engine."""

    def __init__(self, engine: Engine, *, batch_size: int, max_tokens: int, num_words: int) -> None:
        """Wrap an engine.

        Args:
            engine: A running engine.
            batch_size: Sequences that it decodes together.
            max_tokens: Longest completion that will be asked for.
            num_words: Words of its logits, which bound the entropies.
        """
        self._engine = engine
        self._batch_size = batch_size
        self._table = EntropyTable(max_tokens, num_words)
        self._next_uid = 0

    def run(self, rows: Iterator[Row], max_tokens: int) -> Generator[list[Drawn], None, None]:
        """Draw ``rows`` and yield them as they are finished and their records fetched.

        Whatever is in flight when the caller stops listening is dropped.

        Raises:
            SamplerError: The engine failed.
        """
        running: dict[int, Row] = {}
        waiting: list[Finished] = []
        drained = time.monotonic()
        try:
            while True:
                self._refill(rows, running, len(running) - len(waiting), max_tokens)
                if len(running) > len(waiting):
                    waiting += self._step(running)
                num_waiting = sum(finished.token_ids.size for finished in waiting)
                is_due = num_waiting >= DRAIN_TOKENS or time.monotonic() - drained >= DRAIN_S
                if waiting and (is_due or len(waiting) == len(running)):
                    yield self._complete(running, waiting)
                    waiting, drained = [], time.monotonic()
                if not running:
                    return
        finally:
            for uid in running:
                self._table.take(uid, 0)
            self._engine.abort()

    def _refill(
        self, rows: Iterator[Row], running: dict[int, Row], num_decoding: int, max_tokens: int
    ) -> None:
        for _ in range(WAVES_IN_FLIGHT * self._batch_size - num_decoding):
            row = next(rows, None)
            if row is None:
                return
            uid, self._next_uid = self._next_uid, self._next_uid + 1
            self._engine.add(
                Request(uid=uid, prompt_ids=row.prompt_ids, seed=row.seed, max_tokens=max_tokens)
            )
            self._table.expect(uid)
            running[uid] = row

    def _step(self, running: dict[int, Row]) -> list[Finished]:
        finished = self._engine.step()
        for each in finished:
            if each.finish_reason not in ("stop", "length") or not each.token_ids.size:
                row = running[each.uid]
                raise SamplerError(
                    f"prompt {row.prompt.id}: vLLM ended rollout {row.sample_index} with "
                    f"{each.finish_reason!r} after {counted(each.token_ids.size, 'token')}"
                )
        return finished

    def _complete(self, running: dict[int, Row], finished: list[Finished]) -> list[Drawn]:
        """Fetch the records and join them with what is finished."""
        for records in self._engine.drain():
            self._table.add(records)
        return [
            Drawn(running.pop(each.uid), each, self._table.take(each.uid, each.token_ids.size))
            for each in finished
        ]


def fill_gaps(drawn: list[Drawn], reference: ReferenceModel) -> None:
    """Give tokens without a record the entropy of a plain forward pass, in place."""
    gaps = [each for each in drawn if np.isnan(each.entropies).any()]
    if not gaps:
        return
    num_tokens = sum(int(np.isnan(each.entropies).sum()) for each in gaps)
    logger.warning("%d tokens have no recorded entropy: computed again", num_tokens)
    scores = reference.score(
        [(each.row.prompt_ids, each.finished.token_ids.tolist()) for each in gaps]
    )
    for each, scored in zip(gaps, scores, strict=True):
        missing = np.isnan(each.entropies)
        each.entropies[missing] = scored.entropies[missing]
