# SPDX-License-Identifier: MIT
"""`python -m vqcodec`: the command line."""

from vqcodec.cli import main

if __name__ == "__main__":
    main()
