"""A real HTTP server that speaks the OpenAI API over a known language model, and misbehaves on cue.

The model is a table: the logits of the next token depend on the last one alone, so that every
logprob and every entropy can be recomputed. It answers as vLLM does (``is_vllm``) or as an endpoint
that knows nothing beyond the common API.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import entr, log_softmax

from tests.tiny_models import character_tokenizer

IMPOSSIBLE = -9999.0


class BadRequestError(Exception):
    """Answered with its status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class ToyModel:
    """What the server serves, and how it tells it.

    Attributes:
        faults: Consumed one a request; then the server behaves.
        bodies: Requests that were answered well.
        num_requests: All requests.
    """

    seed: int = 0
    scale: float = 2.0
    is_vllm: bool = True
    mode: str = "raw_logprobs"
    max_logprobs: int = 20
    told: int | None = None
    tells_logprobs: bool = True
    tells_usage: bool = True
    has_recorder: bool = False
    key: str | None = None
    apis: tuple[str, ...] = ("completions", "chat")
    delay_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    num_requests: int = 0
    is_dead: bool = False
    spare_words: int = 8
    stop_bias: float = 0.0
    poison: str | None = None
    ends_at_strings: bool = True

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.tokenizer = character_tokenizer()
        self.num_words = len(self.tokenizer)
        self.vocab_size = self.num_words + self.spare_words
        rng = np.random.default_rng(self.seed)
        self.table = self.scale * rng.standard_normal((self.vocab_size, self.vocab_size))
        self.table[:, self.tokenizer.eos_token_id] += self.stop_bias
        self.table[:, self.num_words :] -= 60.0  # padding of the head: never sampled

    def logprobs(self, last: int, temperature: float = 1.0) -> npt.NDArray[np.float64]:
        return np.asarray(log_softmax(self.table[last] / temperature))

    def entropies(
        self, prompt: Sequence[int], tokens: Sequence[int], temperature: float = 1.0
    ) -> npt.NDArray[np.float64]:
        lasts = [prompt[-1], *tokens[:-1]]
        return np.array([entr(np.exp(self.logprobs(last, temperature))).sum() for last in lasts])

    def answer(self, api: str, body: dict[str, Any]) -> dict[str, Any]:
        if api not in self.apis:
            raise BadRequestError("not found", 404)
        if not self.is_vllm and "return_token_ids" in body:
            raise BadRequestError("Unrecognized request argument supplied: return_token_ids")
        count = body.get("logprobs") if api == "completions" else body.get("top_logprobs")
        if count is not None and count > self.max_logprobs:
            raise BadRequestError(f"logprobs={count}: at most {self.max_logprobs}")
        prompt = self._prompt(api, body)
        choices = [self._choice(api, body, prompt, index) for index in range(body["n"])]
        usage = {"completion_tokens": sum(choice.pop("count") for choice in choices)}
        return {"choices": choices, "usage": usage if self.tells_usage else None}

    def _prompt(self, api: str, body: dict[str, Any]) -> list[int]:
        if api == "chat":
            return self.tokenizer(body["messages"][-1]["content"])["input_ids"]
        if isinstance(body["prompt"], str):
            return self.tokenizer(body["prompt"])["input_ids"]
        return body["prompt"]

    def _choice(
        self, api: str, body: dict[str, Any], prompt: list[int], index: int
    ) -> dict[str, Any]:
        rng = np.random.default_rng([body.get("seed", time.time_ns()) + index, *prompt])
        temperature = body["temperature"]
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        stops = {self.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        strings = body.get("stop", ()) if self.ends_at_strings else ()
        tokens: list[int] = []
        told = []
        is_stopped = False
        while len(tokens) < limit and not is_stopped:
            last = ([*prompt, *tokens])[-1]
            plain = self.logprobs(last)
            sampled_from = self._shaped(last, body, {*prompt, *tokens})
            token = (
                int(plain.argmax())
                if temperature == 0.0
                else int(rng.choice(self.vocab_size, p=np.exp(sampled_from)))
            )
            shown = plain if self.mode == "raw_logprobs" else sampled_from
            told.append(self._tell(api, body, token, shown, last))
            tokens.append(token)
            text = self.tokenizer.decode(tokens[:-1] if token in stops else tokens)
            is_stopped = token in stops or any(string in text for string in strings)
        choice = {"index": index, "finish_reason": "stop" if is_stopped else "length"}
        choice["count"] = len(tokens)
        if self.is_vllm and body.get("return_token_ids"):
            choice["token_ids"] = tokens
        choice |= {"text": text} if api == "completions" else {"message": {"content": text}}
        wants = body.get("logprobs") not in (None, False)
        choice["logprobs"] = self._logprobs(api, told) if wants and self.tells_logprobs else None
        return choice

    def _shaped(self, last: int, body: dict[str, Any], seen: set[int]) -> npt.NDArray[np.float64]:
        logits = self.table[last].copy()
        for word in seen:
            penalty = body.get("repetition_penalty", 1.0)
            logits[word] *= penalty if logits[word] < 0 else 1 / penalty
        shaped = np.asarray(log_softmax(logits / (body["temperature"] or 1.0)))
        order = np.argsort(-shaped)
        probs = np.exp(shaped[order])
        cut = np.cumsum(probs) - probs >= body.get("top_p", 1.0)
        if body.get("top_k", -1) > 0:
            cut |= np.arange(len(order)) >= body["top_k"]
        cut |= probs < body.get("min_p", 0.0) * probs[0]
        if cut.any():
            shaped[order[cut]] = -np.inf
            shaped = np.asarray(log_softmax(shaped))
        return shaped

    def _tell(
        self, api: str, body: dict[str, Any], token: int, shown: npt.NDArray[np.float64], last: int
    ) -> tuple[str, float, dict[str, float]]:
        def name(word: int) -> str:
            if body.get("return_tokens_as_token_ids"):
                return f"token_id:{word}"
            return str(self.tokenizer.convert_ids_to_tokens(word)) if word < self.num_words else "?"

        def value(word: int) -> float:
            return float(max(np.float32(shown[word]), IMPOSSIBLE))

        count = body["top_logprobs"] if api == "chat" and body.get("logprobs") else None
        count = body.get("logprobs") if api == "completions" else count
        count = min(count or 0, self.told if self.told is not None else 10**6)
        words = list(np.argsort(-shown)[:count])
        if body.get("logprob_token_ids"):
            words = body["logprob_token_ids"]
        if token not in words:  # as vLLM does it: added there, in place of the last one here
            words = [*words, token] if api == "completions" else [token, *words[:-1]]
        top = {name(int(word)): value(int(word)) for word in words}
        for word in body.get("logprob_token_ids") or ():
            if self.has_recorder and body.get("vllm_xargs", {}).get("rlrisk_entropy_id") == word:
                entropy = entr(np.exp(self.logprobs(last, body["temperature"]))).sum()
                top[name(word)] = float(np.float32(-128.0 - entropy))
        return name(token), value(token), top

    def _logprobs(self, api: str, told: list[Any]) -> dict[str, Any]:
        if api == "chat":
            return {
                "content": [
                    {
                        "token": token,
                        "logprob": logprob,
                        "top_logprobs": [
                            {"token": key, "logprob": value} for key, value in top.items()
                        ],
                    }
                    for token, logprob, top in told
                ]
            }
        return {
            "tokens": [token for token, _, _ in told],
            "token_logprobs": [logprob for _, logprob, _ in told],
            "top_logprobs": [top for _, _, top in told],
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: ToyModel

    def log_message(self, *arguments: Any) -> None:
        """Tests read what comes back, not a log."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = self.model
        with model.lock:
            model.num_requests += 1
            fault = model.faults.pop(0) if model.faults else ""
        if model.is_dead:
            self.close_connection = True
            return
        time.sleep(model.delay_s)
        if model.key is not None and self.headers["Authorization"] != f"Bearer {model.key}":
            self._send(401, {"error": {"message": f"wrong key {self.headers['Authorization']}"}})
            return
        if fault.isdigit():
            self._send(int(fault), {"error": {"message": "on cue"}}, {"Retry-After": "0"})
            return
        if model.poison is not None and model.poison in str(body):
            self._send(500, {"error": {"message": "poisoned"}})
            return
        if fault == "hang":
            model.released.wait(60)
            self.close_connection = True
            return
        try:
            api = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}[self.path]
            answer = model.answer(api, body)
        except BadRequestError as error:
            self._send(error.status, {"error": {"message": str(error)}})
            return
        self._misbehave(fault, answer) if fault else self._send(200, answer)
        if not fault:
            with model.lock:
                model.bodies.append(body)

    def _misbehave(self, fault: str, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        if fault == "garbage":
            self._send_bytes(200, b"<html>Bad gateway</html>")
        elif fault == "nan":
            self._send_bytes(200, content.replace(b'"finish_reason"', b'"x": NaN, "reason"'))
        elif fault == "half":
            self._send_bytes(200, content[: len(content) // 2])
        elif fault == "closed":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif fault == "few":
            self._send(200, {**answer, "choices": answer["choices"][::2]})
        elif fault == "none":
            self._send(200, {**answer, "choices": []})
        elif fault == "bare":
            for choice in answer["choices"]:
                choice["logprobs"] = None
            self._send(200, answer)
        elif fault == "slow":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for place in range(len(content)):
                self.wfile.write(content[place : place + 1])
                if self.model.released.wait(0.05):
                    break
            self.close_connection = True
        else:
            raise AssertionError(fault)

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(answer).encode(), headers)

    def _send_bytes(
        self, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the server."""


@contextmanager
def served(model: ToyModel) -> Iterator[str]:
    """Serve ``model``; yields the base URL."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": model}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        model.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def write_checkpoint(folder: Path, model: ToyModel, template: str | None = None) -> Path:
    """Tokenizer and configuration of what is served, beside weights that nobody reads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=512,
        eos_token_id=model.tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    model.tokenizer.chat_template = template
    model.tokenizer.save_pretrained(folder)
    return folder
