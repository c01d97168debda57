"""An assessment without a model: rollouts drawn from known success rates and entropies."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mlflow_rlrisk.config import AssessmentConfig, PolicyConfig, SamplingConfig
from mlflow_rlrisk.entropy_profile import EntropyProfile
from mlflow_rlrisk.measure import measure
from mlflow_rlrisk.records import FinishReason, Grade, GradedGroup, Prompt, Rollout
from mlflow_rlrisk.report import ExampleRollout, Provenance, RiskReport, summarize
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.sinks.registry import log_checkpoint

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e gnp\x00 &amp; {{7*7}}"
)
CONFIG = AssessmentConfig(
    sampling=SamplingConfig(num_samples=16, max_new_tokens=24), num_resamples=400
)
PROVENANCE = Provenance(
    model_reference="models:/coder-sft/3",
    registered_name="coder-sft",
    version="3",
    digests={"checkpoint": "c0ffee" * 8, "prompts": "beef" * 16},
    prompts="80 prompts, 'question' as text, 'answer' as truth",
    verifier="numeric",
    sampler={"backend": "transformers", "device": "cpu", "dtype": "float32"},
    code_version="0.1.0",
    libraries={"torch": "2.13.0"},
    started_at="2026-03-01T10:00:00+00:00",
    finished_at="2026-03-01T10:02:10+00:00",
    command="rlrisk assess models:/coder-sft/3 --prompts prompts.jsonl --verifier numeric",
)


def graded_groups(
    *, num_prompts: int = 80, beta: tuple[float, float] = (0.2, 0.3), seed: int = 0
) -> list[GradedGroup]:
    """Groups of 16 whose success rates come from a Beta; the first rollouts are hostile."""
    rng = np.random.default_rng(seed)
    return [_group(f"{number:016x}", float(rng.beta(*beta)), rng) for number in range(num_prompts)]


def _group(prompt_id: str, rate: float, rng: np.random.Generator) -> GradedGroup:
    prompt = Prompt(id=prompt_id, content=f"Make {int(prompt_id, 16)} from 3, 5 and 7.", truth="12")
    rollouts, grades = [], []
    for index in range(CONFIG.sampling.num_samples):
        length = int(rng.integers(2, CONFIG.sampling.max_new_tokens))
        is_correct = rng.random() < rate
        text = f"<think>3*{index}</think>\n{12 if is_correct else 13}"
        entropies = rng.exponential(0.2, length) * np.exp(-np.arange(length) / 8)
        rollouts.append(
            Rollout(
                prompt_id=prompt_id,
                sample_index=index,
                completion=HOSTILE if index == 0 else text,
                token_ids=rng.integers(0, 500, length),
                logprobs=-entropies.astype(np.float32),
                entropies=entropies.astype(np.float32),
                finish_reason=FinishReason.STOP,
            )
        )
        grades.append(Grade.scored(float(is_correct), answer=text[-2:]))
    return GradedGroup(prompt=prompt, rollouts=tuple(rollouts), grades=tuple(grades))


def simulated_report(
    groups: list[GradedGroup] | None = None,
    *,
    provenance: Provenance = PROVENANCE,
    config: AssessmentConfig = CONFIG,
    policy: PolicyConfig | None = None,
) -> RiskReport:
    groups = graded_groups() if groups is None else groups
    profile = EntropyProfile()
    for group in groups:
        profile.add(group.rollouts)
    examples = [
        ExampleRollout.of(group.prompt, group.rollouts[index], group.grades[index])
        for group in groups[:4]
        for index in range(2)
    ]
    return summarize(
        [measure(group, config.success_threshold) for group in groups],
        config=config,
        policy=policy or PolicyConfig(),
        provenance=provenance,
        profile=profile,
        examples=examples,
    )


def report_of(model_id: str | None, version: str | None = None, **changes: object) -> RiskReport:
    source = replace(PROVENANCE, model_id=model_id, version=version or PROVENANCE.version)
    return simulated_report(provenance=replace(source, **changes))


def stored(groups: list[GradedGroup], folder: Path) -> Path:
    store = RolloutStore(folder)
    store.bind(PROVENANCE.digests)
    store.append(groups)
    return folder


def assessed(checkpoint: Path) -> RiskReport:
    """A report about a version that exists."""
    version = log_checkpoint(checkpoint, "coder-sft")
    return report_of(version.source.removeprefix("models:/"), str(version.version))
