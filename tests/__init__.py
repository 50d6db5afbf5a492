# SPDX-License-Identifier: MIT
"""Threads of NumPy and torch wait for each other in a loop, which doubles the work: one each, set before they start."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
