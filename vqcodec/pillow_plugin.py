# SPDX-License-Identifier: MIT
"""Pillow reads and writes .vqc files once this module is imported: `import vqcodec.pillow_plugin`.

`Image.open` reads the header and the metadata; the picture is decoded when its pixels are asked for. `draft`, and so
`thumbnail`, decode at a half, a quarter or an eighth of the size. What reads pictures through Pillow (imageio,
scikit-image) then reads these, too. `save` takes quality, bpp, psnr, max_bytes or lossless, effort, tune, threads,
model, icc_profile, exif and xmp.

Errors are those that Pillow's own formats raise: UnidentifiedImageError for what is not a .vqc file or has a damaged
header, OSError for a damaged picture or a missing model, ValueError for options that make no sense.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

from PIL import Image, ImageFile

from vqcodec.bitstream import container
from vqcodec.codec import decode
from vqcodec.codec.denoise import before_coding
from vqcodec.codec.target import encode_to_target
from vqcodec.errors import DamagedError, UsageError, VqcError, VqcWarning
from vqcodec.options import SCALES, DecodeOptions, EncodeOptions, Target
from vqcodec.pictures import read, write

FORMAT, MIME, EXTENSION = "VQC", "image/x-vqc", ".vqc"
HEADER_BYTES = 4096  # read at first; the header of a picture of many tiles is longer
TARGETS = ("quality", "bpp", "psnr", "max_bytes", "lossless")
OPTIONS = ("effort", "tune", "threads", "model", "denoise")


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turns our errors into those that Pillow's users expect."""
    try:
        yield
    except UsageError as error:
        raise ValueError(str(error)) from error
    except VqcError as error:
        raise OSError(str(error)) from error


class VqcImageFile(ImageFile.ImageFile):
    """A .vqc file, opened."""

    format = FORMAT
    format_description = "vqcodec, a learned image codec"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            self._layout = _read_layout(self.fp)
        except DamagedError as error:
            raise SyntaxError(str(error)) from error  # how Pillow wants to hear that it is not ours
        header = self._layout.header
        self._scale = 1
        self._size = self._full_size = (header.width, header.height)
        self._mode = ("L" if header.gray else "RGB") + ("" if self._layout.lengths.alpha is None else "A")
        self._read_metadata()
        # To Pillow: there are pixels yet to be decoded
        self.tile = [ImageFile._Tile("vqc", (0, 0, *self._size), self._layout.header_size_bytes, "")]

    def _read_metadata(self) -> None:
        """ICC profile, EXIF and XMP into `info`; a damaged one is left out here, and `load` fails."""
        assert self.fp is not None
        if profile := decode.profile_of(self._layout.header, None):
            self.info["icc_profile"] = profile
        for section in self._layout.sections():
            if section.kind not in (container.ICC, container.EXIF, container.XMP):
                continue
            self.fp.seek(section.offset)
            body = self.fp.read(section.size_bytes + container.CRC_BYTES)
            try:
                plain = container.read_section(body, self._layout, section._replace(offset=0))
            except DamagedError:
                continue
            if section.kind == container.ICC:
                self.info["icc_profile"] = plain
            elif section.kind == container.EXIF:
                self.info["exif"] = b"Exif\0\0" + plain
            else:
                self.info["xmp"] = plain

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Have the picture decoded at a half, a quarter or an eighth, but not smaller than `size`; `mode` is ignored.

        Returns:
            the mode, and the box of the smaller picture that is the whole one; None when it is decoded already.
        """
        if not self.tile or size is None:
            return None
        width, height = self._full_size
        most = min(width // max(1, int(size[0])), height // max(1, int(size[1])))
        self._scale = max((scale for scale in SCALES if scale <= most), default=1)
        self._size = (-(-width // self._scale), -(-height // self._scale))
        self.tile = [self.tile[0]._replace(extents=(0, 0, *self._size))]
        return self.mode, (0, 0, width / self._scale, height / self._scale)

    def load(self) -> Any:
        """Decode, unless that is done.

        Raises:
            OSError: the file is damaged or cut off, or the model that it names is not installed.
        """
        if self.tile:
            with _pillow_errors():
                picture = decode.decode(self._data(), DecodeOptions(scale=self._scale, max_pixels=self._pixels))
            self.im = write.to_pil(picture).im
            self.tile = []
            self._done_with_file()
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Only there to say, as other formats do, that `load` is our own: Pillow's Parser looks for it."""

    def verify(self) -> None:
        """Check every checksum of the file without decoding it; afterwards the file must be opened again.

        Raises:
            OSError: the file is damaged or cut off.
        """
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        try:
            with _pillow_errors():
                container.unpack(self._data(), max_pixels=self._pixels)
        finally:
            self._done_with_file()

    @property
    def _pixels(self) -> int:
        return self._full_size[0] * self._full_size[1]

    def _data(self) -> bytes:
        """The file, and at most one byte of what should not be behind it."""
        if self.fp is None:
            raise ValueError("operation on a closed picture")
        self.fp.seek(0)
        data: bytes = self.fp.read(self._layout.file_size_bytes + 1)
        return data

    def _done_with_file(self) -> None:
        if self._exclusive_fp and self.fp is not None:
            self.fp.close()
        self.fp = None


def _read_layout(stream: IO[bytes]) -> container.Layout:
    """The header, however long it is."""
    data = stream.read(HEADER_BYTES)
    while True:
        try:
            return container.read_header(data)
        except DamagedError:
            more = stream.read(len(data)) if len(data) >= HEADER_BYTES else b""
            if not more:
                raise
            data += more


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    if 0 in im.size:
        raise ValueError("cannot write an empty image as VQC")
    given = im.encoderinfo
    plain = im.copy()  # only what is said here is taken along, and nothing is turned
    plain.info = {key: value for key, value in im.info.items() if key == "transparency"}
    profile = given.get("icc_profile", im.info.get("icc_profile"))
    if profile:
        plain.info["icc_profile"] = profile
    with _pillow_errors():
        target = Target(**{name: given[name] for name in TARGETS if given.get(name) is not None})
        picture = read.load(plain, max_pixels=im.width * im.height)
        for note in picture.notes:
            warnings.warn(note, VqcWarning, stacklevel=3)  # of whoever calls Pillow's `save`
        picture = replace(picture, exif=_exif_bytes(given.get("exif")), xmp=_bytes("xmp", given.get("xmp")))
        options = EncodeOptions(**{name: given[name] for name in OPTIONS if given.get(name) is not None})
        reached = encode_to_target(before_coding(picture, options), target, options)
    fp.write(reached.data)


def _exif_bytes(exif: Image.Exif | bytes | None) -> bytes | None:
    """A bare TIFF structure."""
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    return (_bytes("exif", exif) or b"").removeprefix(b"Exif\0\0") or None


def _bytes(name: str, given: object) -> bytes | None:
    """The bytes of an option of `save`; None for none."""
    if given is None or isinstance(given, bytes):
        return given or None
    raise ValueError(f"{name} must be bytes, not {type(given).__name__}")


def register() -> None:
    """Tell Pillow; done when the module is imported."""
    Image.register_open(FORMAT, VqcImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)


register()
