"""One vLLM engine with a recorder in its workers: requests in, tokens and entropies out."""

import logging
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_rlrisk.config import SamplingConfig
from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.samplers.vllm_recorder import EXTENSION, RECORDER, UID, Runner

logger = logging.getLogger(__name__)

_running: "weakref.WeakSet[Engine]" = weakref.WeakSet()
"""Engines of this process: a second one beside them would find the first one's process groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One rollout to draw."""

    uid: int
    prompt_ids: Sequence[int]
    seed: int | None
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """What the engine returned for a request: tokens and logprobs ``[T]``, and why it ended."""

    uid: int
    token_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    finish_reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Entropies of tokens, as one worker recorded them: three arrays ``[N]``, oldest first."""

    uids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int32]
    entropies: npt.NDArray[np.float32]


class Engine:
    """A running engine; requests are added and finished ones come from `step`."""

    def __init__(
        self,
        arguments: dict[str, Any],
        runner: Runner,
        sampling: SamplingConfig,
        *,
        stop_ids: Sequence[int],
        lora_path: str | None = None,
    ) -> None:
        """Start the engine; one that runs in this process is shut down before.

        Args:
            arguments: Of vLLM's ``LLM``.
            runner: Its model runner, which decides what class records.
            sampling: Of every request. For stop strings the engine must have a tokenizer.
            stop_ids: Tokens that end a completion.
            lora_path: Folder of an adapter that every request uses.

        Raises:
            SamplerError: vLLM does not start.
        """
        from vllm import LLM

        for other in list(_running):
            other.close()
        self._sampling, self._stop_ids = sampling, list(stop_ids)
        self._lora = None
        if lora_path is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("policy", 1, lora_path)
        try:
            self._llm: Any = LLM(
                **arguments,
                logits_processors=[RECORDER[runner]],
                worker_extension_cls=EXTENSION,
            )
        except Exception as error:  # the sampler boundary: vLLM raises whatever its workers do
            raise SamplerError(f"vLLM does not start: {error}") from error
        self._engine = self._llm.llm_engine
        self._unfinished: set[str] = set()
        _running.add(self)
        self._closer = weakref.finalize(self, _shut_down, self._llm)

    @property
    def max_model_len(self) -> int:
        """Longest prompt and completion together."""
        return int(self._engine.model_config.max_model_len)

    def logits(self) -> tuple[str, int]:
        """Dtype and number of words of the loaded model's logits."""
        found = self._rpc("rlrisk_logits")[0]
        return str(found["dtype"]), int(found["num_words"])

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            SamplerError: vLLM refuses it.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            min_p=self._sampling.min_p,
            repetition_penalty=self._sampling.repetition_penalty,
            n=1,
            seed=request.seed,
            max_tokens=request.max_tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(self._sampling.stop),
            stop=list(self._sampling.stop),
            ignore_eos=True,  # the stop tokens below are all, those of config.json among them
            stop_token_ids=self._stop_ids,
            extra_args={UID: request.uid},
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = str(request.uid)
        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        try:
            self._engine.add_request(name, prompt, params, lora_request=self._lora)
        except Exception as error:  # the sampler boundary
            raise SamplerError(f"vLLM refuses a request: {error}") from error
        self._unfinished.add(name)

    def step(self) -> list[Finished]:
        """Run the engine until it reports something, and return what is finished.

        Raises:
            SamplerError: The engine died, ended a request early, or returned other logprobs.
        """
        try:
            outputs = self._engine.step()
        except Exception as error:  # the sampler boundary
            raise SamplerError(f"vLLM stopped: {error}") from error
        finished = [_finished(output) for output in outputs if output.finished]
        self._unfinished.difference_update(str(each.uid) for each in finished)
        return finished

    def drain(self) -> Iterator[Records]:
        """All records of all workers, block by block."""
        while True:
            parts = [part for part in self._rpc("rlrisk_drain") if part["uid"]]
            for part in parts:
                yield Records(
                    np.frombuffer(part["uid"], dtype=np.int64),
                    np.frombuffer(part["position"], dtype=np.int32),
                    np.frombuffer(part["entropy"], dtype=np.float32),
                )
            if not any(part["left"] for part in parts):
                return

    def abort(self) -> None:
        """Drop what is queued or running, and its records.

        A step that is under way may record rows later; nobody waits for their numbers.
        """
        try:
            if self._unfinished:
                self._engine.abort_request(list(self._unfinished))
                self._unfinished.clear()
            self._llm.collective_rpc("rlrisk_clear")
        except Exception:  # noqa: BLE001 - a dead engine has nothing to drop; its death was told
            logger.warning("vLLM does not answer: its requests cannot be dropped")

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        _running.discard(self)
        self._closer()

    def _rpc(self, method: str) -> list[dict[str, Any]]:
        try:
            answers: list[dict[str, Any]] = self._llm.collective_rpc(method)
        except Exception as error:  # the sampler boundary
            raise SamplerError(f"vLLM does not answer {method}: {error}") from error
        return answers


def _finished(output: Any) -> Finished:
    completion = output.outputs[0]
    token_ids = np.asarray(completion.token_ids, dtype=np.int64)
    found = completion.logprobs
    if list(found.token_ids) != token_ids.tolist():
        raise SamplerError(f"request {output.request_id}: logprobs are not those of its tokens")
    return Finished(
        uid=int(output.request_id),
        token_ids=token_ids,
        logprobs=np.asarray(found.logprobs, dtype=np.float32),
        finish_reason=str(completion.finish_reason),
    )


def _shut_down(llm: Any) -> None:
    """End the engine's processes, or, where it runs in this one, its process groups."""
    core = llm.llm_engine.engine_core
    is_here = hasattr(core, "engine_core")
    core.shutdown()
    if is_here:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
