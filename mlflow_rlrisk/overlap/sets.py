"""The overlap of a prompt set with SFT data, and as evidence of an assessment."""

from mlflow_rlrisk.evidence import Evidence
from mlflow_rlrisk.overlap.search import Overlap, find_overlap
from mlflow_rlrisk.overlap.sft_data import sft_prompts, task_text
from mlflow_rlrisk.prompts import PromptSet


def overlap_with(prompts: PromptSet, sft_data: object, column: str | None = None) -> Overlap:
    """Search every prompt of the set in the SFT data; arguments as in `sft_prompts`.

    Raises:
        PromptSetError: The SFT data cannot be read or have no prompts.
    """
    return find_overlap([task_text(prompt) for prompt in prompts], sft_prompts(sft_data, column))


def overlap_evidence(found: Overlap, sft_data: object) -> Evidence:
    """The share as evidence; it is counted over all prompts, so it has no interval."""
    return Evidence.exact(found.share, f"{found.num_sft} SFT prompts of {sft_data}")
