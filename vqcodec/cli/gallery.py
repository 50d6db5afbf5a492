# SPDX-License-Identifier: MIT
"""What the page of `vqcodec view` consists of: by its address below the page, where each file of it comes from.

The page, the decoder in JavaScript and the models are files of this package. ONNX Runtime for browsers is not: where a
folder with it is at hand, browsers decode; otherwise Python does. The same addresses serve a local server and a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vqcodec.bitstream import container
from vqcodec.cli import names
from vqcodec.cli.streams import about, shown
from vqcodec.codec import decode
from vqcodec.errors import InputError, UsageError, VqcError
from vqcodec.messages import reason
from vqcodec.model import zoo
from vqcodec.options import DecodeOptions, most_file_bytes
from vqcodec.pictures import write

SUFFIX = ".vqc"
WEB = Path(__file__).parents[1] / "web"
PAGE = "index.html"
LIST = "list.json"
RUNTIME = "onnxruntime-web/dist"  # as npm lays it, beside vqcodec
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL_FILES = ("model.json", "tables.npz", "synthesis.onnx", "prior-*.onnx")  # what the faithful decoder reads
BROWSER, SERVER, FILES = "browser", "server", "files"  # who decodes; web/view.js knows them


@dataclass(frozen=True)
class Gallery:
    """Some .vqc files, and what shows them.

    Args:
        title: of the page.
        pictures: name to show, and path.
        runtime: a folder with RUNTIME_FILES; None: Python decodes.
        options: for decoding by Python, and `model` for a further model.
    """

    title: str
    pictures: list[tuple[str, str]]
    runtime: Path | None
    options: DecodeOptions = DecodeOptions()

    @classmethod
    def of(cls, path: str, runtime: str | None, options: DecodeOptions) -> tuple[Gallery, list[tuple[int, str]]]:
        """Of a file, or of all .vqc files in and below a folder; and what could not be searched.

        Raises:
            UsageError: there is no runtime where it is said to be.
            InputError: there is no such file, or nothing in the folder.
            DamagedError: it is one file, and not a .vqc file.
        """
        work = names.inputs((path,), frozenset({SUFFIX}), recursive=True)
        pictures = [
            (os.path.join(*Path(place).parts[1:], os.path.basename(source)), source) for source, place in work.pairs
        ]
        gallery = cls(os.path.basename(os.path.abspath(path)), pictures, find_runtime(runtime), options)
        if not os.path.isdir(path):
            with about(path):
                container.read_header(gallery.read(0))
        return gallery, work.failures

    def static(self) -> dict[str, Path]:
        """The files that are the same whatever the pictures are."""
        found = {PAGE: WEB / "view.html", **{f"vqcodec/{path.name}": path for path in WEB.glob("*.js")}}
        for model in [*zoo.MODELS, *([] if self.options.model is None else [self.options.model])]:
            files = zoo.find(model)
            folder = f"vqcodec/models/{files.checksum.hex()}"
            found |= {f"{folder}/{path.name}": path for name in MODEL_FILES for path in files.folder.glob(name)}
        if self.runtime is not None:
            found |= {f"{RUNTIME}/{name}": self.runtime / name for name in RUNTIME_FILES}
        return found

    def places(self) -> Iterator[tuple[str, str, str]]:
        """Of every picture its name, and the addresses of the .vqc file and of a PNG."""
        for number, (name, path) in enumerate(self.pictures):
            stem, suffix = os.path.splitext(os.path.basename(path))
            yield name, f"files/{number}/{stem}{suffix}", f"pictures/{number}/{stem}.png"

    def listing(self, decoder: str) -> bytes:
        """LIST, as JSON."""
        entries = []
        for number, (name, file, png) in enumerate(self.places()):
            entry: dict[str, Any] = {"name": name, "file": _quoted(file)}
            try:
                layout = container.read_header(self.read(number))
                entry |= {"width": layout.header.width, "height": layout.header.height, "bytes": layout.file_size_bytes}
                entry |= {} if decoder == BROWSER else {"png": _quoted(png)}
            except VqcError as error:
                entry["error"] = str(error)
            entries.append(entry)
        facts = {"title": self.title, "decoder": decoder, "pictures": entries}
        return json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace")

    def read(self, number: int) -> bytes:
        """The bytes of a .vqc file.

        Raises:
            InputError: it cannot be read, or is larger than a picture within the limit can be.
        """
        path = self.pictures[number][1]
        limit = most_file_bytes(self.options.max_pixels)
        try:
            with open(path, "rb") as stream:
                data = stream.read(limit + 1)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {shown(path)}: {reason(error)}") from None
        if len(data) > limit:
            raise InputError(f"{shown(path)} is larger than a .vqc file of a picture within --max-pixels can be")
        return data

    def png(self, data: bytes, most: int | None = None) -> bytes:
        """A .vqc file as PNG.

        Args:
            most: reduce the picture as long as its longer side has so many pixels; None: not at all.

        Raises:
            VqcError: as `codec.decode.decode`.
        """
        options = self.options
        header = container.read_header(data).header
        scales = [s for s in (8, 4, 2) if most is not None and max(header.width, header.height) >= s * most]
        scaled = DecodeOptions(
            threads=options.threads,
            model=options.model,
            max_pixels=options.max_pixels,
            scale=scales[0] if scales else 1,
        )
        return write.write_picture(decode.decode(data, scaled), ".png")[0]


def find_runtime(given: str | None) -> Path | None:
    """The folder of onnxruntime-web's files: the one given, or one that npm has put beside; None where there is none.

    Raises:
        UsageError: they are not where they are said to be.
    """
    beside = Path("node_modules") / "onnxruntime-web"
    for folder in [Path(given)] if given is not None else [WEB / beside, beside]:
        for place in (folder, folder / "dist"):
            if all((place / name).is_file() for name in RUNTIME_FILES):
                return place
    if given is not None:
        raise UsageError(f"no onnxruntime-web in {shown(given)}: it lacks {', '.join(RUNTIME_FILES)}")
    return None


def _quoted(address: str) -> str:
    return quote(os.fsencode(address))
