# mypy: disable-error-code="no-untyped-def"
"""One reward, written in the dialect of each RL framework as its users write it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from judging import judge


def trl_reward(prompts, completions, answer, trainer_state=None, log_metric=None, **kwargs):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    log_metric("seen", float(len(texts)))
    return [judge(text, truth) for text, truth in zip(texts, answer, strict=True)]


async def trl_async_reward(completions, solution, **kwargs):
    await asyncio.sleep(0)
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [judge(text, truth) for text, truth in zip(texts, solution, strict=True)]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert extra_info is not None
    extra_info["used"] = True
    score = judge(solution_str, ground_truth)
    return {"score": score, "acc": score == 1.0, "pred": solution_str[-3:]}


def compute_scores(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [judge(text, truth) for text, truth in zip(solution_strs, ground_truths, strict=True)]


def reward_func(queries, prompts, labels, **kwargs):
    import torch

    rewards = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        assert query.startswith(prompt)
        rewards.append(judge(query[len(prompt) :], label))
    scores = torch.tensor(rewards)
    return {"rewards": scores, "scores": scores.clamp(0, 1), "extra_logs": {"n": len(rewards)}}


def rubric_messages(completion, answer, **kwargs):
    return judge(completion[-1]["content"], answer)


def rubric_text(parser, completion, answer, state, info) -> float:
    assert state["answer"] == answer
    return judge(parser.parse_answer(completion), answer)


def rubric_group(completions, answers, states) -> list[float]:
    return [judge(str(c), truth) for c, truth in zip(completions, answers, strict=True)]


class Rubric:
    """Shaped like the library's: functions with weights, one of them a metric only."""

    def __init__(self) -> None:
        self.funcs = [rubric_text, self._right, self._length]
        self.weights = [1.0, 0.0, 0.0]

    def _right(self, completion, answer):
        raise AssertionError("a function of weight 0 is a metric and not asked")

    _length = _right


rubric = Rubric()


def reward(weight: float = 1.0):
    """Marks a method as verifiers v1 does."""

    def mark(method: Any) -> Any:
        method.reward, method._vf_weight = True, weight
        return method

    return mark


class ArithmeticTask:
    def __init__(self, data, config) -> None:
        raise AssertionError("the library constructs it, nobody else")

    @reward(weight=0.5)
    async def correct(self, trace) -> float:
        return judge(trace.last_reply, self.data.answer)

    @reward(weight=0.5)
    def again(self, trace, task) -> dict[str, float]:
        return {"again": judge(trace.assistant_messages[-1].content, task.answer)}


async def v1_reward(task, trace) -> float:
    return judge(trace.last_reply, task["answer"])


class ORM:
    def __init__(self, args=None, **kwargs) -> None:
        self.args = args


class SwiftReward(ORM):
    def __call__(self, completions, solution, **kwargs) -> list[float]:
        return [judge(text, truth) for text, truth in zip(completions, solution, strict=True)]


class SwiftRequests(ORM):
    def __call__(self, infer_requests, solution, **kwargs) -> list[float]:
        texts = [request["messages"][-1]["content"] for request in infer_requests]
        assert [request.messages[-1]["content"] for request in infer_requests] == texts
        return [judge(text, truth) for text, truth in zip(texts, solution, strict=True)]


class ProceduralDataset:
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        return judge(answer or "", entry["answer"])


dataset = ProceduralDataset()


@dataclass
class VerificationResult:
    score: float
    cost: float = 0.0


class NumberVerifier:
    def __init__(self, verifier_config=None) -> None:
        self.name, self.weight = "number", 1.0

    def __call__(self, tokenized_prediction, prediction, label, query=None, rollout_state=None):
        return VerificationResult(score=judge(prediction, label))


def metric(predictions, references):
    return {"own_metric": judge(predictions[0], references[0])}


def plain(completion, truth):
    return judge(completion, truth)
