"""Does a checkpoint learn from its own signal? The RL run's first updates, tried.

`grpo_updates` makes them, `first_updates` says what they reach, `stored_rollouts` tries them on an
assessment's folder.
"""

from mlflow_rlrisk.lookahead.first_updates import GradedPrompt, Lookahead, OnStep, look_ahead

__all__ = [
    "GradedPrompt",
    "Lookahead",
    "OnStep",
    "look_ahead",
]
