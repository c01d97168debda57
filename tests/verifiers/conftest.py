import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlflow_rlrisk.records import FinishReason, Prompt, Rollout, RolloutGroup

WriteVerifier = Callable[[str], str]


@pytest.fixture
def write_verifier(tmp_path: Path) -> WriteVerifier:
    """Writes source to a file; the function in it is called ``grade``."""

    def write(source: str) -> str:
        path = tmp_path / "own_verifier.py"
        path.write_text(textwrap.dedent(source))
        return f"{path}:grade"

    return write


def make_group(prompt: Prompt, *completions: str) -> RolloutGroup:
    return RolloutGroup(
        prompt=prompt,
        rollouts=tuple(
            Rollout(
                prompt_id=prompt.id,
                sample_index=index,
                completion=completion,
                token_ids=np.array([index + 1, 0]),
                logprobs=None,
                entropies=None,
                finish_reason=FinishReason.STOP,
            )
            for index, completion in enumerate(completions)
        ),
    )
