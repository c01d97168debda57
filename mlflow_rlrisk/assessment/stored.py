"""The groups of a finished assessment, read back with their grades or graded anew."""

from collections.abc import Iterator
from pathlib import Path

from mlflow_rlrisk.assessment.budget import assessed_part
from mlflow_rlrisk.assessment.inputs import AssessmentInputs
from mlflow_rlrisk.errors import RolloutStoreError
from mlflow_rlrisk.records import GradedGroup
from mlflow_rlrisk.rollouts.store import RolloutStore
from mlflow_rlrisk.verifiers import VerifierPool


def stored_groups(
    folder: Path, inputs: AssessmentInputs, pool: VerifierPool | None
) -> Iterator[GradedGroup]:
    """Yield every group of the assessment, in the order in which they were completed.

    How many prompts a shard holds is a matter of time, so that order is another each time: whoever
    draws among the prompts sorts them by `AssessmentInputs.prompt_places` first.

    Args:
        folder: Folder of the assessment.
        inputs: Its inputs.
        pool: Grades the rollouts anew; ``None`` takes the stored grades.

    Raises:
        RolloutStoreError: A prompt has no stored rollouts, or no stored grades.
    """
    store = RolloutStore(folder)
    prompts, part = assessed_part(inputs)
    known = store.completed_prompt_ids()
    what = "rollouts"
    if pool is None and all(prompt.id in known for prompt in prompts):
        known, what = store.graded_prompt_ids(), "grades"
    missing = [prompt.id for prompt in prompts if prompt.id not in known]
    if missing:
        damaged = f"; damaged shards: {', '.join(store.damaged)}" if store.damaged else ""
        raise RolloutStoreError(
            f"{folder} lacks the {what} of {len(missing)} of {len(prompts)} prompts"
            f"{damaged}; assess again to complete them"
        )
    if pool is None:
        yield from store.graded_groups(prompts, part.num_samples)
    else:
        yield from pool.grade(store.groups(prompts, part.num_samples))
