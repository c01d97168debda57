"""How often the interval of `lookahead_reach` holds the mean over all sets of prompts of its size.

``nice python -m tests.benchmarks.lookahead_coverage [--only LINEAGE] [--reps 200] [--json FILE]``

Bases of the study are trained as the study does, and rollouts of every prompt of their task that
the base has not seen are drawn once: the population. An assessment is a set of these prompts, drawn
without replacement, with halves and orders of its own. What its interval has to hold is the mean of
the estimates: what a set teaches depends on the set, and that is part of the uncertainty. Sets
overlap by their share of the population, so that intervals hold a little more than they would.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.study.planned_settings import PROSPECTIVE_3, PROSPECTIVE_6, PROSPECTIVE_7
from examples.study.settings import StudySettings
from examples.study.tasks import TASKS
from examples.study.tasks.base import Task
from mlflow_rlrisk.config import LookaheadConfig
from mlflow_rlrisk.lookahead import GradedPrompt, look_ahead

STUDIES = (PROSPECTIVE_3, PROSPECTIVE_6, PROSPECTIVE_7)
LINEAGES = ("weighing-starcoder2", "seating-gptj", "queueing-falcon")
SIZES = ((50, 64), (100, 64), (200, 16))
SEQUENCES = 2048
"""Generated together."""


def settings_of(lineage: str) -> StudySettings:
    """The study of a lineage, with every prompt that is not for SFT kept from its base."""
    study = next(each for each in STUDIES if lineage in {one.name for one in each.lineages})
    problems = len(TASKS[study.lineage(lineage).task].problems())
    used = study.num_expert + study.num_validation + study.num_heldout
    return study.model_copy(update={"num_rl": problems - used})


def population(lineage: str, num_samples: int, folder: Path) -> tuple[Any, list[GradedPrompt]]:
    """A trained base, and graded rollouts of its unseen prompts."""
    import torch

    from examples.study.models import load
    from examples.study.prompts import draw_sets
    from examples.study.sft import train_base

    settings = settings_of(lineage)
    told = settings.lineage(lineage)
    task = TASKS[told.task]
    train_base(told, settings, folder)
    model, tokenizer = load(folder)
    model.eval()
    prompts = [task.prompt(each) for each in draw_sets(task, settings).rl]
    torch.manual_seed(1)
    together = max(1, SEQUENCES // num_samples)
    graded: list[GradedPrompt] = []
    for first in range(0, len(prompts), together):
        graded += _answered(model, tokenizer, task, prompts[first : first + together], num_samples)
    return model, graded


def _answered(
    model: Any, tokenizer: Any, task: Task[Any], prompts: list[str], num_samples: int
) -> list[GradedPrompt]:
    """Prompts of one length with graded answers at temperature 1."""
    import torch

    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    rows = torch.tensor(ids).repeat_interleave(num_samples, 0)
    with torch.no_grad():
        drawn = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=task.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
    answers = drawn[:, rows.shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    found = []
    for place, prompt in enumerate(prompts):
        own = slice(place * num_samples, (place + 1) * num_samples)
        right = [task.is_solution(prompt, text) for text in texts[own]]
        found.append(
            GradedPrompt(
                prompt_ids=ids[place],
                completions=[
                    _ended(each, tokenizer.eos_token_id) for each in answers[own].tolist()
                ],
                rewards=[float(each) for each in right],
                correct=right,
            )
        )
    return found


def _ended(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _first(prompt: GradedPrompt, num_samples: int) -> GradedPrompt:
    return GradedPrompt(
        prompt_ids=prompt.prompt_ids,
        completions=prompt.completions[:num_samples],
        rewards=prompt.rewards[:num_samples],
        correct=prompt.correct[:num_samples],
    )


def assessments(
    lineage: str, model: Any, prompts: Sequence[GradedPrompt], size: tuple[int, int], reps: int
) -> list[list[float]]:
    """Value, lower and upper end of `reps` assessments."""
    settings = settings_of(lineage)
    run = LookaheadConfig(
        learning_rate=settings.lineage(lineage).rl_learning_rate,
        run_steps=settings.rl_steps,
        prompts_per_step=settings.prompts_per_step,
    )
    num_prompts, num_samples = size
    found = []
    for seed in range(reps):
        rng = np.random.default_rng([seed, num_prompts, num_samples])
        chosen = rng.choice(len(prompts), num_prompts, replace=False)
        reach = look_ahead(
            model,
            [_first(prompts[place], num_samples) for place in chosen],
            run,
            group_size=settings.group_size,
            temperature=1.0,
            seed=seed,
        ).reach
        found.append([reach.value, reach.low, reach.high])
    return found


def row_of(lineage: str, size: tuple[int, int], found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Coverage of the mean, and how wide the intervals are beside the spread of the estimates."""
    values, lows, highs = np.array(found).T
    mean, reps = values.mean(), len(values)
    share = float(((lows <= mean) & (mean <= highs)).mean())
    return {
        "lineage": lineage,
        "N": size[0],
        "n": size[1],
        "mean": float(mean),
        "sd": float(values.std(ddof=1)),
        "half_width": float((highs - lows).mean() / 2.0),
        "coverage": share,
        "error": float(np.sqrt(share * (1.0 - share) / reps)),
        "interval_below": float((highs < mean).mean()),
        "interval_above": float((lows > mean).mean()),
        "reps": reps,
    }


def main() -> None:
    """Print a row for each lineage and size as it is done."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LINEAGES)
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for lineage in LINEAGES:
        if given.only not in (None, lineage):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, prompts = population(lineage, max(n for _, n in SIZES), Path(folder))
        print(f"{lineage}: {len(prompts)} prompts", flush=True)
        for size in SIZES:
            began = time.process_time()
            rows.append(
                row_of(lineage, size, assessments(lineage, model, prompts, size, given.reps))
            )
            print(json.dumps(rows[-1]), f"{time.process_time() - began:.0f} s", flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
