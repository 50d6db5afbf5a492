# SPDX-License-Identifier: MIT
"""The errors of the benchmark, each one sentence that says what to do. Nothing else lives here."""

from __future__ import annotations

import click


class BenchError(click.ClickException):
    """A mistake in the options or the files; the command line prints the sentence and ends with 1."""


class MissingError(BenchError):
    """A codec or a metric cannot be had here: its library is missing, or does not have it built in."""


class NoOverlapError(BenchError):
    """Two rate-distortion curves share no range of quality, so that no BD-rate exists."""
