# SPDX-License-Identifier: MIT
"""Text for people: on one line, with nothing in it that could steer a terminal."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """What an exception says, in at most 120 letters, none of which steers a terminal."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 120 else text[:117] + "..."
