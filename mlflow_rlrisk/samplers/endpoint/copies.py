"""Are the answers to one prompt drawn, each for itself?

A cache in front of the model, ``n`` choices of one seed or a temperature that is not applied give
the same answer again and again: groups without a reward difference, which the model would have had.
"""

import math
from collections.abc import Sequence

from mlflow_rlrisk.errors import SamplerError
from mlflow_rlrisk.records import Rollout

IMPOSSIBLE = -50.0
"""Nats: no number of prompts makes a coincidence of it."""


def refuse_copies(rollouts: Sequence[Rollout]) -> None:
    """Refuse equal answers that cannot have been drawn: their own logprobs say how likely they are.

    Rollouts whose logprobs are not known tell nothing.

    Args:
        rollouts: All of one prompt.

    Raises:
        SamplerError: Answers are equal against all likelihood.
    """
    logprobs: dict[bytes, list[float]] = {}
    for rollout in rollouts:
        if rollout.logprobs is not None:
            found = logprobs.setdefault(rollout.token_ids.tobytes(), [])
            found.append(float(rollout.logprobs.sum()))
    for equal in logprobs.values():
        # Chance that some so many of all are this answer, which the first of them may choose.
        log_chance = math.log(math.comb(len(rollouts), len(equal))) + sum(sorted(equal)[1:])
        if len(equal) > 1 and log_chance < IMPOSSIBLE:
            raise SamplerError(
                f"prompt {rollouts[0].prompt_id}: {len(equal)} of {len(rollouts)} answers are the "
                f"same, which by their logprobs has a chance of e^{log_chance:.0f}: the endpoint "
                "must draw each anew at the temperature asked for (a cache, one seed for all n "
                "choices, or a temperature that is not applied gives copies)"
            )
