# SPDX-License-Identifier: MIT
"""The codecs, each a few lines over a well-kept library, behind one interface. The only place that knows them.

A peer turns an RGB image and one number (its setting, more is better) into the bytes of a whole file, and back.
A library that is not there is no failure: `version` raises `MissingError`, and the peer's rows are left out.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, features

from bench.errors import BenchError, MissingError

EXCESS = 0.03  # what a file may have beyond the bits per pixel that were asked for


@dataclass(frozen=True)
class Peer:
    """One codec with one way of calling it; subclasses say how.

    Attributes:
        name: what the command line calls it.
        label: what tables and figures call it.
        settings: the points of its curve, ascending in rate.
        stated: its options in words.
    """

    name: str
    label: str
    settings: tuple[int, ...]
    stated: str

    def version(self) -> str:
        """The library's name and version.

        Raises:
            MissingError: it is not there.
        """
        raise NotImplementedError

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


@dataclass(frozen=True)
class MozJpegPeer(Peer):
    """MozJPEG as libvips calls it, with trellis quantisation. libjpeg-turbo ignores these options: it is told apart."""

    @property
    def browser_type(self) -> str | None:
        return "image/jpeg"

    def version(self) -> str:
        try:
            pyvips = importlib.import_module("pyvips")
        except (ImportError, OSError):
            raise MissingError("pyvips is not installed: pip install '.[bench]'") from None
        noise = pyvips.Image.gaussnoise(64, 64, mean=128, sigma=40, seed=1).cast("uchar")
        if noise.jpegsave_buffer(Q=50, trellis_quant=True) == noise.jpegsave_buffer(Q=50, trellis_quant=False):
            raise MissingError("this libvips was built without MozJPEG")
        major, minor, micro = (pyvips.version(part) for part in range(3))
        return f"pyvips {importlib.metadata.version('pyvips')}, libvips {major}.{minor}.{micro} with MozJPEG"

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        pyvips = importlib.import_module("pyvips")
        picture = pyvips.Image.new_from_memory(image.tobytes(), image.width, image.height, 3, "uchar")
        data: bytes = picture.copy(interpretation="srgb").jpegsave_buffer(
            Q=setting, optimize_coding=True, interlace=True, optimize_scans=True, trellis_quant=True,
            overshoot_deringing=True, quant_table=3, subsample_mode="on", keep="none",
        )  # fmt: skip
        return data


@dataclass(frozen=True)
class VqcodecPeer(Peer):
    """vqcodec through its Python interface; whole processes through its command line."""

    effort: int = 5
    decoder: str = "faithful"
    realism: float | None = None  # None for the decoder's own choice

    @property
    def writer(self) -> str:
        return "vqcodec" if self.effort == 5 else f"vqcodec-e{self.effort}"

    def version(self) -> str:
        import vqcodec
        from vqcodec import VqcError
        from vqcodec.model import zoo

        if self.decoder != "faithful":
            self._try()
        try:
            card = zoo.find().card
        except VqcError as error:
            raise MissingError(str(error)) from None
        digests = "".join(card["files"][name]["sha256"] for name in sorted(card["files"]))
        return f"vqcodec {vqcodec.__version__}, model {card['id']} {hashlib.sha256(digests.encode()).hexdigest()[:8]}"

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        import vqcodec

        return vqcodec.encode(image, setting, effort=self.effort, threads=threads)

    def decode(self, data: bytes, threads: int = 0) -> Image.Image:
        import vqcodec

        return vqcodec.decode(data, threads=threads, **self._options).convert("RGB")

    @property
    def _options(self) -> dict[str, Any]:
        """Of `vqcodec.decode`, those that are not its defaults."""
        named: dict[str, Any] = {} if self.decoder == "faithful" else {"decoder": self.decoder}
        return named if self.realism is None else {**named, "realism": self.realism}

    def _try(self) -> None:
        """Decode something small.

        Raises:
            MissingError: this vqcodec or its model has no such decoder.
        """
        import vqcodec
        from vqcodec import VqcError

        data = vqcodec.encode(Image.new("RGB", (32, 32), (90, 120, 60)), 30)
        unknown = set(self._options) - set(inspect.signature(vqcodec.decode).parameters)
        try:
            if unknown:
                raise MissingError(f"this vqcodec has no {self.decoder} decoder")
            self.decode(data)
        except VqcError as error:
            raise MissingError(str(error)) from None

    def reach(self, image: Image.Image, bpp: float) -> bytes:
        """By vqcodec's own search; by that of quality alone where its file comes out too large."""
        import vqcodec

        data = vqcodec.encode(image, bpp=bpp, effort=self.effort)
        return data if 8 * len(data) <= bpp * (1 + EXCESS) * image.width * image.height else super().reach(image, bpp)

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        files = [str(source), str(target), "--force", "--threads", str(threads)]
        if direction == "encode":
            return [sys.executable, "-m", "vqcodec", "compress", "-q", str(setting), "-e", str(self.effort), *files]
        more = [part for name, value in self._options.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-m", "vqcodec", "decompress", *more, *files]


# Points of each curve, from its lowest rate to about its highest useful one
_JPEG = (3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 95)
_AVIF = (8, 18, 28, 38, 48, 58, 68, 78, 88)
_VQC = (5, 15, 30, 45, 60, 75, 90, 100)
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        PillowPeer("jpeg", "JPEG", _JPEG, "4:2:0, optimised", "JPEG", "libjpeg_turbo",
                   options={"optimize": True, "subsampling": 2}),
        PillowPeer("jpeg444", "JPEG 4:4:4", _JPEG, "4:4:4, optimised", "JPEG", "libjpeg_turbo",
                   options={"optimize": True, "subsampling": 0}),
        MozJpegPeer("mozjpeg", "MozJPEG", _JPEG, "4:2:0, progressive, trellis, quantisation table 3"),
        PillowPeer("webp", "WebP", (0, 5, 15, 30, 50, 70, 85, 94), "method 6", "WEBP", "webp", options={"method": 6}),
        PillowPeer("avif", "AVIF", _AVIF, "speed 6, 4:2:0", "AVIF", "avif",
                   options={"speed": 6, "subsampling": "4:2:0"}),
        PillowPeer("avif-slow", "AVIF slow 4:4:4", _AVIF, "speed 4, 4:4:4", "AVIF", "avif",
                   options={"speed": 4, "subsampling": "4:4:4"}),
        PillowPeer("jpeg2000", "JPEG 2000", (24, 26, 28, 30, 33, 36, 39, 42), "irreversible, target PSNR in dB",
                   "JPEG2000", "jpg_2000", "quality_layers",
                   options={"quality_mode": "dB", "irreversible": True, "mct": 1}),
        PluginPeer("jxl", "JPEG XL", (5, 15, 30, 45, 60, 70, 80, 88, 94), "effort 7, 4:4:4", "JXL", "pillow-jxl-plugin",
                   options={"effort": 7}, module="pillow_jxl"),
        PluginPeer("heic", "HEIC", (5, 12, 20, 28, 36, 44, 52, 60, 68), "x265, 4:2:0", "HEIF", "pillow-heif",
                   module="pillow_heif", register="register_heif_opener"),
        VqcodecPeer("vqcodec", "vqcodec", _VQC, "effort 5"),
        VqcodecPeer("vqcodec-e1", "vqcodec effort 1", _VQC, "effort 1", effort=1),
        VqcodecPeer("vqcodec-e7", "vqcodec effort 7", _VQC, "effort 7", effort=7),
        VqcodecPeer("vqcodec-e9", "vqcodec effort 9", _VQC, "effort 9", effort=9),
        VqcodecPeer("vqcodec-realistic", "vqcodec realistic", _VQC, "effort 5, realistic decoder", decoder="realistic"),
    )
}  # fmt: skip


def realistic(realism: float) -> VqcodecPeer:
    """vqcodec's realistic decoder with that much realism, 0 (the faithful picture) to 1."""
    name = "vqcodec-realistic" if realism == 1 else f"vqcodec-realistic-{realism:g}"
    stated = f"effort 5, realistic decoder, realism {realism:g}"
    return VqcodecPeer(name, f"vqcodec realistic {realism:g}", _VQC, stated, decoder="realistic", realism=realism)


DEFAULT_PEERS = ("jpeg", "jpeg444", "mozjpeg", "webp", "avif", "jpeg2000", "jxl", "heic", "vqcodec")


def choose(names: str) -> list[Peer]:
    """Peers by their names with commas in between; "default" and "all" stand for lists.

    Raises:
        BenchError: an unknown name.
    """
    wanted: list[str] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        more = {"all": tuple(PEERS), "default": DEFAULT_PEERS}.get(name, (name,))
        wanted += [one for one in more if one not in wanted]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown or not wanted:
        raise BenchError(f"unknown codec {', '.join(unknown) or '(none)'}; known are {', '.join(PEERS)}, all, default")
    return [PEERS[name] for name in wanted]
