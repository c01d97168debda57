"""One random stream per (seed, prompt, sample): a rollout never depends on its batch.

The uniforms are a pure function of the key and the position (Philox 4x64, Salmon et al. 2011,
doi:10.1145/2063384.2063405), so that a resumed or reordered run draws the same numbers.
"""

import hashlib

import numpy as np
import numpy.typing as npt

_TO_UNIT = 2.0**-53


def uniforms(seed: int, prompt_id: str, sample_index: int, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in ``[0, 1)`` of one rollout, one per token position.

    The raw 64-bit output is used: NumPy promises it for ever, its distributions it does not.

    Returns:
        Shape ``[count]``; a longer call begins with the numbers of a shorter one.
    """
    name = f"{seed}/{sample_index}/{prompt_id}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * _TO_UNIT, dtype=np.float64)
