# SPDX-License-Identifier: MIT
"""Command-line encoders of the system, for speed beside vqcodec's: cwebp, avifenc and cjxl, as Debian packages them.

They are only run as whole processes, file to file. Their rate and distortion are those of the libraries in peers.py.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.codecs import Peer
from bench.errors import MissingError

LONGEST = 60  # seconds for a program to tell its version


@dataclass(frozen=True)
class Tool(Peer):
    """A pair of programs. In their arguments, {q}, {in}, {out} and {threads} stand for setting, files and threads."""

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    package: str
    version_option: str = "--version"

    def version(self) -> str:
        for program in (self.encoder[0], self.decoder[0]):
            if shutil.which(program) is None:
                raise MissingError(f"{program} is not installed: apt-get install {self.package}")
        command = [self.encoder[0], self.version_option]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        lines = (done.stdout + done.stderr).strip().splitlines() or ["unknown version"]
        words = lines[0].replace("(", " ").split()
        return f"{self.encoder[0]} {next((w for w in words if w.strip('v')[:1].isdigit()), words[-1])}"

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        values = {"q": setting, "in": source, "out": target, "threads": threads or "all"}
        parts: Sequence[str] = self.encoder if direction == "encode" else self.decoder
        return [part.format(**values) for part in parts]


@dataclass(frozen=True)
class AvifTool(Tool):
    """avifenc, whose option for quality came with version 1.0; before, it took a range of quantisers."""

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        found = super().command(direction, setting, source, target, threads)
        listed = subprocess.run([self.encoder[0], "--help"], capture_output=True, text=True, timeout=LONGEST)
        if direction == "encode" and "--qcolor" not in listed.stdout + listed.stderr:
            place, quantiser = found.index("-q"), str(round((100 - setting) * 63 / 100))
            found[place : place + 2] = ["--min", quantiser, "--max", quantiser]
        return found


@dataclass(frozen=True)
class JxlTool(Tool):
    """cjxl and djxl, which take a number of threads; all of them are -1 for cjxl, and 0 for djxl."""

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        every = "=-1" if direction == "encode" else "=0"
        return [part.replace("=all", every) for part in super().command(direction, setting, source, target, threads)]


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("cwebp", "cwebp (process)", (50,), "method 6, sharp YUV, several threads",
             ("cwebp", "-quiet", "-m", "6", "-sharp_yuv", "-mt", "-q", "{q}", "{in}", "-o", "{out}"),
             ("dwebp", "-quiet", "-mt", "{in}", "-o", "{out}"), "webp", "-version"),
        AvifTool("avifenc", "avifenc (process)", (48,), "speed 6, 4:2:0",
                 ("avifenc", "-s", "6", "-y", "420", "-j", "{threads}", "-q", "{q}", "{in}", "{out}"),
                 ("avifdec", "-j", "{threads}", "{in}", "{out}"), "libavif-bin"),
        JxlTool("cjxl", "cjxl (process)", (60,), "effort 7",
                ("cjxl", "-e", "7", "-q", "{q}", "--num_threads={threads}", "{in}", "{out}"),
                ("djxl", "--num_threads={threads}", "{in}", "{out}"), "libjxl-tools"),
    )
}  # fmt: skip
SUFFIXES = {"cwebp": ".webp", "avifenc": ".avif", "cjxl": ".jxl"}  # what these programs go by
