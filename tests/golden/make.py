# SPDX-License-Identifier: MIT
"""Write the golden files: `python -m tests.golden.make`. Only for a new model or a new version of the format.

Golden files are what users have on their disks: a change that alters the indices of an existing one breaks the promise
that every file decodes for ever. The expected indices are kept as sha256 of their little-endian int32 bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

import vqcodec
from vqcodec.codec import encode
from vqcodec.options import EncodeOptions
from vqcodec.pictures import metadata, read
from vqcodec.pictures.picture import Picture

FOLDER = Path(__file__).parent


def digest(array: np.ndarray) -> str:
    """sha256 of an index array."""
    return hashlib.sha256(array.astype("<i4").tobytes()).hexdigest()


def with_metadata(rgb: np.ndarray, icc: bytes | None) -> Picture:
    """A picture with a colour profile, EXIF and XMP."""
    exif = Image.Exif()
    exif[315] = "somebody"
    bare = exif.tobytes().removeprefix(b"Exif\0\0")
    return Picture(np.ascontiguousarray(rgb), icc=icc, exif=bare, xmp=b"<x:xmpmeta/>")


def with_text(photo: np.ndarray) -> np.ndarray:
    """A photograph with large letters of two colours and a checkerboard in it, drawn without a font."""
    out, rng = photo.copy(), np.random.default_rng(0)
    letters = np.repeat(np.repeat(rng.integers(0, 2, (24, 40)), 4, 0), 4, 1)
    out[:96, :160] = np.where(letters[:, :, None], (20, 30, 60), (250, 250, 240))
    rows, columns = np.indices((64, 96))
    out[192:256, 320:416] = 255 * ((rows + columns) % 2)[:, :, None]
    return out


def page(photo: np.ndarray) -> np.ndarray:
    """Letters on a plain ground, and a photograph that ends within blocks: [192, 256, 3]."""
    out, rng = np.full((192, 256, 3), (243, 243, 240), np.uint8), np.random.default_rng(1)
    letters = np.repeat(np.repeat(rng.integers(0, 2, (12, 48)), 4, 0), 4, 1)
    out[8:56, 32:224][letters == 1] = (20, 30, 60)
    out[77:177, 45:205] = photo[100:200, 100:260]
    return out


PSNR_TUNE = ("high", "tiled")  # the others are of the eye tune


def main() -> None:
    """Encode crops of the bundled photograph in every kind of file, and write down their indices."""
    from tests.conftest import wide_gamut_profile  # needs pytest, which those who only want `digest` may not have

    (path,) = Path(vqcodec.__file__).with_name("photographs").glob("*.png")
    photo = np.asarray(Image.open(path).convert("RGB"))
    alpha = np.dstack([photo[100:180, 200:300], np.arange(8000, dtype=np.uint8).reshape(80, 100)])
    cases = {
        "base": (photo, 1, 10),
        "low": (photo, 20, 10),
        "default": (photo[:256, :320], 75, 10),
        "high": (photo[100:220, 150:310], 100, 10),
        "tiled": (photo[:300, :540], 60, 8),
        "one": (photo[:1, :1], 50, 10),
        "gray": (photo[:77, :101, 0], 70, 10),
        "alpha": (alpha, 55, 10),
        "metadata": (with_metadata(photo[200:260, 300:380], wide_gamut_profile()), 40, 10),
        "patches": (with_text(photo[:352, :480]), 75, 10),
        "page": (page(photo), 60, 10),
        "screen": (with_text(photo)[:64, :96], 75, 10),
        "srgb": (with_metadata(photo[200:260, 300:380], metadata.srgb_profile()), 40, 10),
    }
    expected = {}
    for name, (pixels, quality, tile_log2) in cases.items():
        picture = pixels if isinstance(pixels, Picture) else read.load(pixels)
        tune = "psnr" if name in PSNR_TUNE else "eye"
        data = encode.encode(picture, quality, EncodeOptions(tile_log2=tile_log2, tune=tune))
        (FOLDER / f"{name}.vqc").write_bytes(data)
        found = vqcodec.indices(data)
        expected[name] = {
            "bytes": len(data),
            "base_shape": list(found.base.shape),
            "base": digest(found.base),
            "refinement": None if found.refinement is None else digest(found.refinement),
            "colour": None if found.colour is None else digest(found.colour),
            "drift": None if found.drift is None else digest(found.drift),
        }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
