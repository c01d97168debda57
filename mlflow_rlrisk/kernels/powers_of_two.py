"""Exponentials as powers of 2, which cost half of what they do on a CPU."""

import math

BITS = 1.0 / math.log(2.0)
"""Bits in a nat."""

LOWEST = -200.0
"""Bits, for a masked word's -inf: 2 to that is 0 in float32 as well, and no product is NaN."""
