# SPDX-License-Identifier: MIT
"""`python -m vqcodec`: the command line."""

from vqcodec.cli.main import program

if __name__ == "__main__":
    program()
