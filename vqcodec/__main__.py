# SPDX-License-Identifier: MIT
"""`python -m vqcodec`: the command line."""

import sys

from vqcodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
