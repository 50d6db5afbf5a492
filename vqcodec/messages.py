# SPDX-License-Identifier: MIT
"""Text for people, in which nothing can steer a terminal."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """The text with a question mark for every letter that cannot be printed, but for those to keep."""
    return "".join(letter if letter.isprintable() or letter in keep else "?" for letter in text)


def on_one_line(text: str) -> str:
    """The same, with single spaces for white space of all kinds."""
    return printable(" ".join(text.split()))


def one_line(error: BaseException, longest: int = 120) -> str:
    """What an exception says, in at most so many letters."""
    text = on_one_line(str(error)) or type(error).__name__
    return text if len(text) <= longest else text[: longest - 3] + "..."


def reason(error: OSError | ValueError) -> str:
    """What the system says, for the end of a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
