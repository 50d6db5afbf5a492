# SPDX-License-Identifier: MIT
"""How classical codecs are called: each a few lines over a well-kept library, behind one interface. No list of them.

A peer turns an RGB image and one number (its setting, more is better) into the bytes of a whole file, and back.
A library that is not there is no failure: `version` raises `MissingError`, and the peer's rows are left out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from bench.errors import MissingError

EXCESS = 0.03  # what a file may have beyond the bits per pixel that were asked for


@dataclass(frozen=True)
class Peer:
    """One codec with one way of calling it; subclasses say how.

    Attributes:
        name: what the command line calls it.
        label: what tables and figures call it.
        settings: the points of its curve, ascending in rate.
        stated: its options in words.
        trained_on: the metrics that its model was trained on; tables mark them.
    """

    name: str
    label: str
    settings: tuple[int, ...]
    stated: str
    trained_on: tuple[str, ...] = field(default=(), kw_only=True)

    def version(self) -> str:
        """The library's name and version.

        Raises:
            MissingError: it is not there.
        """
        raise NotImplementedError

    def facts(self, version: str) -> dict[str, str]:
        """What a results folder says of it."""
        told = {"label": self.label, "stated": self.stated, "version": version}
        files = self.fingerprint()
        told |= {"files": files} if files else {}
        return {**told, "trained_on": " ".join(self.trained_on)} if self.trained_on else told

    def fingerprint(self) -> str:
        """A checksum of what it makes of a test picture, where that says more than the version; else nothing."""
        return ""

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        """An RGB image to the bytes of a file; `threads` 0 means the library's own choice."""
        raise NotImplementedError

    def decode(self, data: bytes, threads: int = 0) -> Image.Image:
        """The bytes of a file to an RGB image, all its pixels decoded."""
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        """The command line of a process that does "encode" or "decode" from file to file."""
        arguments = [direction, self.name, str(setting), str(source), str(target), str(threads)]
        return [sys.executable, "-m", "bench.process", *arguments]

    @property
    def browser_type(self) -> str | None:
        """The media type under which browsers show its files as they are; None if they do not."""
        return None

    @property
    def middle(self) -> int:
        """The setting for figures that take one only."""
        return self.settings[len(self.settings) // 2]

    @property
    def span(self) -> tuple[int, int]:
        """The lowest and the highest setting that the codec takes."""
        return 1, 100

    @property
    def writer(self) -> str:
        """The name of the peer that writes its files: another one's where only the decoders differ."""
        return self.name

    def reach(self, image: Image.Image, bpp: float) -> bytes:
        """The file that comes closest to `bpp` bits per pixel without exceeding them by more than `EXCESS`.

        Where even the lowest setting exceeds them, the smallest file that was found.
        """
        low, high = self.span
        wanted = bpp * image.width * image.height / 8
        tried: dict[int, bytes] = {}
        while low <= high:
            middle = (low + high) // 2
            tried[middle] = self.encode(image, middle)
            low, high = (middle + 1, high) if len(tried[middle]) <= wanted else (low, middle - 1)
        fitting = [data for data in tried.values() if len(data) <= wanted * (1 + EXCESS)]
        if not fitting:
            return min(tried.values(), key=len)
        return min(fitting, key=lambda data: abs(len(data) - wanted))


@dataclass(frozen=True)
class PillowPeer(Peer):
    """A format that Pillow writes, by itself or with a plugin."""

    format: str
    feature: str
    parameter: str = "quality"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def browser_type(self) -> str | None:
        return f"image/{self.format.lower()}" if self.format in ("JPEG", "WEBP", "AVIF") else None

    def version(self) -> str:
        if not features.check(self.feature):
            raise MissingError(f"this Pillow was built without {self.format}")
        library = features.version(self.feature)
        return f"Pillow {PIL.__version__}, {self.feature} {library}"

    @property
    def span(self) -> tuple[int, int]:
        if self.parameter == "quality_layers":
            return 10, 60
        if self.format == "AVIF":
            return 0, 99  # 100 is lossless, which tune=iq refuses
        return (1 if self.format == "JPEG" else 0), 100

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        buffer = io.BytesIO()
        value = [setting] if self.parameter == "quality_layers" else setting
        image.save(buffer, self.format, **{self.parameter: value}, **self.options)
        return buffer.getvalue()


@dataclass(frozen=True)
class PluginPeer(PillowPeer):
    """A format that another package adds to Pillow; `feature` is the package's name."""

    module: str = ""
    register: str = ""  # a function of the module that has to be called once

    def version(self) -> str:
        self._load()
        return f"{self.feature} {importlib.metadata.version(self.feature)}"

    def _load(self) -> None:
        try:
            plugin = importlib.import_module(self.module)
        except ImportError:
            raise MissingError(f"{self.feature} is not installed: pip install '.[bench]'") from None
        if self.register:
            getattr(plugin, self.register)()

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        self._load()
        return super().encode(image, setting, threads)

    def decode(self, data: bytes, threads: int = 0) -> Image.Image:
        self._load()
        return super().decode(data, threads)


def _pyvips() -> Any:
    try:
        return importlib.import_module("pyvips")
    except (ImportError, OSError):
        raise MissingError("pyvips is not installed: pip install '.[bench]'") from None


def _vips_version(pyvips: Any) -> str:
    major, minor, micro = (pyvips.version(part) for part in range(3))
    return f"pyvips {importlib.metadata.version('pyvips')}, libvips {major}.{minor}.{micro}"


def _vips_image(image: Image.Image) -> Any:
    picture = _pyvips().Image.new_from_memory(image.tobytes(), image.width, image.height, 3, "uchar")
    return picture.copy(interpretation="srgb")


@dataclass(frozen=True)
class MozJpegPeer(Peer):
    """MozJPEG as libvips calls it, with trellis quantisation. libjpeg-turbo ignores these options: it is told apart."""

    @property
    def browser_type(self) -> str | None:
        return "image/jpeg"

    def version(self) -> str:
        pyvips = _pyvips()
        noise = pyvips.Image.gaussnoise(64, 64, mean=128, sigma=40, seed=1).cast("uchar")
        if noise.jpegsave_buffer(Q=50, trellis_quant=True) == noise.jpegsave_buffer(Q=50, trellis_quant=False):
            raise MissingError("this libvips was built without MozJPEG")
        return f"{_vips_version(pyvips)} with MozJPEG"

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        data: bytes = _vips_image(image).jpegsave_buffer(
            Q=setting, optimize_coding=True, interlace=True, optimize_scans=True, trellis_quant=True,
            overshoot_deringing=True, quant_table=3, subsample_mode="on", keep="none",
        )  # fmt: skip
        return data


@dataclass(frozen=True)
class SharpWebpPeer(Peer):
    """WebP as libvips calls it: the slowest method, with sharp YUV, which Pillow does not offer."""

    @property
    def browser_type(self) -> str | None:
        return "image/webp"

    def version(self) -> str:
        return _vips_version(_pyvips())

    @property
    def span(self) -> tuple[int, int]:
        return 0, 100

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        data: bytes = _vips_image(image).webpsave_buffer(Q=setting, effort=6, smart_subsample=True, keep="none")
        return data


@dataclass(frozen=True)
class JpegliPeer(Peer):
    """jpegli through pyjpegli, which fixes 4:2:0 and progressive scans."""

    @property
    def browser_type(self) -> str | None:
        return "image/jpeg"

    def version(self) -> str:
        try:
            importlib.import_module("pyjpegli")
        except ImportError:
            raise MissingError("pyjpegli is not installed: pip install '.[bench]'") from None
        return f"pyjpegli {importlib.metadata.version('pyjpegli')}"

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        pyjpegli = importlib.import_module("pyjpegli")
        data: bytes = pyjpegli.encode(image.tobytes(), image.width, image.height, quality=setting)
        return data


TOP_QP = 63


@dataclass(frozen=True)
class VvcPeer(Peer):
    """VVC (H.266) intra by vvenc, as the ffmpeg of imageio-ffmpeg brings it: 4:2:0, 10 bits, BT.709 with full range.

    The setting is 63 - QP. A file is a raw stream after one byte that says whether width and height were odd: VVC's
    4:2:0 wants even sides.
    """

    preset: str = "medium"
    perceptual: bool = False

    @property
    def span(self) -> tuple[int, int]:
        return 0, TOP_QP

    def version(self) -> str:
        listed = subprocess.run([self._ffmpeg(), "-hide_banner", "-encoders"], capture_output=True, text=True)
        if "libvvenc" not in listed.stdout:
            raise MissingError("this ffmpeg was built without vvenc")
        first = subprocess.run([self._ffmpeg(), "-version"], capture_output=True, text=True).stdout.split()
        return f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}, ffmpeg {first[2]} with vvenc"

    @staticmethod
    def _ffmpeg() -> str:
        try:
            path: str = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise MissingError("imageio-ffmpeg is not installed: pip install '.[bench]'") from None
        return path

    def _run(self, arguments: list[str], data: bytes) -> bytes:
        command = [self._ffmpeg(), "-hide_banner", "-loglevel", "error", *arguments, "pipe:1"]
        done = subprocess.run(command, input=data, capture_output=True)
        if done.returncode:
            raise ValueError((done.stderr.decode(errors="replace").strip().splitlines() or ["ffmpeg failed"])[-1])
        return done.stdout

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        odd = image.width % 2, image.height % 2
        padded = np.pad(np.asarray(image), ((0, odd[1]), (0, odd[0]), (0, 0)), mode="edge")
        height, width = padded.shape[:2]
        flags = "accurate_rnd+full_chroma_int+full_chroma_inp+lanczos"
        stream = self._run(
            ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}", "-i", "pipe:0",
             "-vf", f"scale=out_color_matrix=bt709:out_range=full:flags={flags},format=yuv420p10le",
             "-frames:v", "1", "-c:v", "libvvenc", "-preset", self.preset, "-qp", str(TOP_QP - setting),
             "-qpa", str(int(self.perceptual)), "-threads", str(threads), "-f", "vvc"],
            padded.tobytes(),
        )  # fmt: skip
        return bytes([odd[0] + 2 * odd[1]]) + stream

    def decode(self, data: bytes, threads: int = 0) -> Image.Image:
        flags = "accurate_rnd+full_chroma_int+lanczos"
        shown = self._run(
            ["-threads", str(threads), "-f", "vvc", "-i", "pipe:0",
             "-vf", f"scale=in_color_matrix=bt709:in_range=full:out_range=full:flags={flags},format=rgb24",
             "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm"],
            data[1:],
        )  # fmt: skip
        with Image.open(io.BytesIO(shown)) as image:
            return image.convert("RGB").crop((0, 0, image.width - data[0] % 2, image.height - data[0] // 2))
