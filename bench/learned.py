# SPDX-License-Identifier: MIT
"""How learned codecs are called: vqcodec, and CompressAI's models where they and their weights are here. No list."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.codecs import EXCESS, Peer
from bench.errors import MissingError

PROBE = Path(__file__).parent.parent / "vqcodec" / "photographs" / "coffee.png"  # what a codec is recognised by
PROBE_BOX, PROBE_QUALITIES = (0, 0, 256, 192), (30, 75)


@dataclass(frozen=True)
class VqcodecPeer(Peer):
    """vqcodec through its Python interface; whole processes through its command line."""

    effort: int = 5
    tune: str | None = None  # None for the default of vqcodec.encode
    decoder: str = "faithful"
    realism: float | None = None  # None for the decoder's own choice

    @property
    def writer(self) -> str:
        tune = "" if self.tune is None else f"-{self.tune}"
        return f"vqcodec{tune}" if self.effort == 5 else f"vqcodec{tune}-e{self.effort}"

    def version(self) -> str:
        import vqcodec
        from vqcodec import VqcError
        from vqcodec.model import zoo

        if self.tune is not None and "tune" not in inspect.signature(vqcodec.encode).parameters:
            raise MissingError(f"this vqcodec has no tune {self.tune}")
        if self.decoder != "faithful" or self.tune is not None:
            self._try()
        try:
            files = zoo.find()
        except VqcError as error:
            raise MissingError(str(error)) from None
        listed = files.card["files"]
        others = "".join(listed[name]["sha256"] for name in sorted(listed) if name != "tables.npz")
        graphs = hashlib.sha256(others.encode()).hexdigest()[:8]
        return f"vqcodec {vqcodec.__version__}, model {files.id} {files.checksum.hex()}, its graphs {graphs}"

    def fingerprint(self) -> str:
        """Of its files and their pixels: it tells a changed encoder by its work, and stays when only names change."""
        with Image.open(PROBE) as whole:
            image = whole.convert("RGB").crop(PROBE_BOX)
        found = hashlib.sha256()
        for quality in PROBE_QUALITIES:
            data = self.encode(image, quality, 1)
            found.update(data + self.decode(data, 1).tobytes())
        return found.hexdigest()[:8]

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        import vqcodec

        return vqcodec.encode(image, setting, effort=self.effort, threads=threads, **self._tuning)

    @property
    def _tuning(self) -> dict[str, Any]:
        """Of `vqcodec.encode`, the tune where it is not the default."""
        return {} if self.tune is None else {"tune": self.tune}

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

        unknown = set(self._options) - set(inspect.signature(vqcodec.decode).parameters)
        try:
            if unknown:
                raise MissingError(f"this vqcodec has no {self.decoder} decoder")
            self.decode(self.encode(Image.new("RGB", (32, 32), (90, 120, 60)), 30))
        except VqcError as error:
            raise MissingError(str(error)) from None

    def reach(self, image: Image.Image, bpp: float) -> bytes:
        """By vqcodec's own search; by that of quality alone where its file comes out too large."""
        import vqcodec

        data = vqcodec.encode(image, bpp=bpp, effort=self.effort, **self._tuning)
        return data if 8 * len(data) <= bpp * (1 + EXCESS) * image.width * image.height else super().reach(image, bpp)

    def command(self, direction: str, setting: int, source: Path, target: Path, threads: int) -> list[str]:
        files = [str(source), str(target), "--force", "--threads", str(threads)]
        return [sys.executable, "-m", "vqcodec", *self._told(direction, setting), *files]

    def folder_command(self, direction: str, setting: int, source: Path, target: Path) -> list[str]:
        """The command line of a process that takes all files of a folder to another, on all processors."""
        files = [str(source), "-o", str(target), "--recursive", "--jobs", "0"]
        return [sys.executable, "-m", "vqcodec", *self._told(direction, setting), *files]

    def _told(self, direction: str, setting: int) -> list[str]:
        """The command and its options."""
        if direction == "encode":
            tune = [] if self.tune is None else ["--tune", self.tune]
            return ["compress", "-q", str(setting), "-e", str(self.effort), *tune]
        return ["decompress", *(part for name, value in self._options.items() for part in (f"--{name}", str(value)))]


STRIDE = 64  # CompressAI's transforms want sides that are multiples of it
_SIZES = struct.Struct("<HHHHB")  # width, height, and those of the smallest latents; number of strings


@functools.lru_cache(maxsize=1)
def _network(architecture: str, quality: int) -> Any:
    zoo = importlib.import_module("compressai.zoo")
    return zoo.image_models[architecture](quality=quality, metric="mse", pretrained=True).eval()


@dataclass(frozen=True)
class CompressAIPeer(Peer):
    """A model of CompressAI, trained for mean squared error. The setting is its quality; nothing is downloaded.

    Its entropy model computes in floats: a file is only sure to decode on the machine that wrote it.
    """

    architecture: str = ""

    @property
    def span(self) -> tuple[int, int]:
        return self.settings[0], self.settings[-1]

    def version(self) -> str:
        try:
            torch: Any = importlib.import_module("torch")
            image: Any = importlib.import_module("compressai.zoo.image")
        except ImportError:
            raise MissingError("compressai is not installed") from None
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        urls = image.model_urls[self.architecture]["mse"]
        lacking = [name for s in self.settings if not (folder / (name := urls[s].rsplit("/", 1)[-1])).is_file()]
        if lacking:
            raise MissingError(f"weights that CompressAI would download are not here: {folder / lacking[0]}")
        return f"compressai {importlib.metadata.version('compressai')}"

    def encode(self, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        torch: Any = importlib.import_module("torch")
        right, low = -image.width % STRIDE, -image.height % STRIDE
        padded = np.pad(np.asarray(image), ((0, low), (0, right), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            found = _network(self.architecture, setting).compress(x)
        strings = [parts[0] for parts in found["strings"]]
        head = _SIZES.pack(image.width, image.height, *found["shape"], len(strings))
        lengths = struct.pack(f"<{len(strings)}I", *map(len, strings))
        return bytes([setting]) + head + lengths + b"".join(strings)

    def decode(self, data: bytes, threads: int = 0) -> Image.Image:
        torch: Any = importlib.import_module("torch")
        width, height, *shape, count = _SIZES.unpack_from(data, 1)
        place = 1 + _SIZES.size
        lengths = struct.unpack_from(f"<{count}I", data, place)
        place += 4 * count
        strings = []
        for length in lengths:
            strings.append([data[place : place + length]])
            place += length
        with torch.inference_mode():
            x = _network(self.architecture, data[0]).decompress(strings, shape)["x_hat"]
        pixels = (x[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
        return Image.fromarray(pixels[:height, :width])
