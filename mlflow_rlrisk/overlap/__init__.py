"""How many RL prompts stand in the SFT data already (exactly, or nearly)?

Where SFT has seen all RL prompts, GRPO adds little (arXiv:2604.13515). The search streams the SFT
data, so its memory is bounded by the RL set: see `search`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_rlrisk.overlap.search import Match, Overlap, find_overlap
    from mlflow_rlrisk.overlap.sets import overlap_evidence, overlap_with
    from mlflow_rlrisk.overlap.sft_data import sft_prompts

_HOME = {
    "Match": "search",
    "Overlap": "search",
    "find_overlap": "search",
    "overlap_evidence": "sets",
    "overlap_with": "sets",
    "sft_prompts": "sft_data",
}

__all__ = [
    "Match",
    "Overlap",
    "find_overlap",
    "overlap_evidence",
    "overlap_with",
    "sft_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
