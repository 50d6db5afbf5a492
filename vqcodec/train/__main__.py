# SPDX-License-Identifier: MIT
"""`python -m vqcodec.train`: training without the rest of the command line; torch, NumPy and Pillow will do."""

import sys

from vqcodec.train.cli import main

sys.exit(main(sys.argv[1:]))
