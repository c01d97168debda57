"""Rows of the oracle table for `statistics/dynamics.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_rlrisk import statistics as st

LOGPROBS, ADVANTAGES = [-0.1, -0.5, -2, -3, -0.2, -1], [1, 1, 1, -1, -1, -1]
_FALLING = np.linspace(1.6, 0.05, 20)
LAW = st.fit_entropy_law(_FALLING, 0.55 - 0.12 * np.exp(_FALLING))

DYNAMICS_TABLE: list[tuple[str, Callable[[str], Any]]] = [
    (r"token_cov logp", lambda _: st.token_covariance(LOGPROBS, ADVANTAGES)),
    (r"token_cov_mean", lambda _: st.token_covariance(LOGPROBS, ADVANTAGES).mean()),
    (r"entropy_law fit", lambda _: [LAW.a, LAW.b]),
    (r"entropy_law ceiling", lambda _: LAW.ceiling),
    (r"entropy_law R at H=1", lambda _: LAW.reward_at(1.0)),
    (r"relative_drop\(H10", lambda _: round(st.relative_drop(0.0174, 0.0063), 6)),
    (r"relative_drop guru", lambda _: round(st.relative_drop(0.2195, 0.5760), 6)),
]
