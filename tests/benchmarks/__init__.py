"""What is measured, never asserted: each module is a command that prints a table.

One thread each, set here because BLAS reads it when NumPy is first imported.
"""

import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
