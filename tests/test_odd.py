# SPDX-License-Identifier: MIT
"""Odd and broken pictures: those of collections (VQCODEC_DATA names their folder), and thousands made up here.

What became of each file of the collections stands in `odd.json`: its size, or the kind of error.
`VQCODEC_DATA=FOLDER python -m tests.test_odd` writes it anew; FOLDER holds `odd/pngsuite` and the like.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import PIL
import pytest
from PIL import Image, features

import vqcodec
from tests.conftest import few_or
from tests.mutate import scrambled
from vqcodec.errors import VqcError
from vqcodec.pictures import read

FOLDER = Path(os.environ.get("VQCODEC_DATA", "")) / "odd"
OUTCOMES = Path(__file__).with_name("odd.json")
NO_PICTURES = {"LICENSE", "README", "README.markdown", "README.md"}
MAX_PIXELS = 2**21
SECONDS = 2.0  # of processor time, for one file

needs_data = pytest.mark.skipif(
    not (os.environ.get("VQCODEC_DATA") and FOLDER.is_dir()), reason="VQCODEC_DATA names no folder of odd pictures"
)


def outcome(source: Path | bytes) -> str:
    """The size of the picture, or the kind of error; anything else that is raised passes through."""
    started = time.process_time()
    try:
        picture = read.load(source, max_pixels=MAX_PIXELS)
    except VqcError as error:
        message = str(error)
        assert message.isprintable(), message
        result = type(error).__name__
    else:
        assert picture.rgb.dtype == np.uint8
        assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]
        result = "{1}x{0}".format(*picture.rgb.shape)
    assert time.process_time() - started < SECONDS, source
    return result


def outcomes() -> dict[str, str]:
    """What becomes of every file of the collections."""
    paths = [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and path.name not in NO_PICTURES]
    return {path.relative_to(FOLDER).as_posix(): outcome(path) for path in paths}


@needs_data
def test_every_odd_picture_ends_as_it_should() -> None:
    expected = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    found = outcomes()
    assert len(found) > 400
    assert all(result.endswith("Error") for name, result in found.items() if name.startswith("pngsuite/x"))
    if PIL.__version__.split(".")[0] == expected["Pillow"].split(".")[0]:  # what it can read changes between them
        assert {
            name: (found.get(name), kind) for name, kind in expected["files"].items() if found.get(name) != kind
        } == {}


@needs_data
def test_small_odd_pictures_are_compressed() -> None:
    """Those that can be read go there and back, in the size that they have."""
    done = 0
    for name, result in json.loads(OUTCOMES.read_text(encoding="utf-8"))["files"].items():
        if name.startswith(("pngsuite", "exif")) and "x" in result and np.prod([*map(int, result.split("x"))]) <= 1024:
            back = vqcodec.decode(vqcodec.encode(FOLDER / name, 1, effort=1, threads=1), threads=1)
            assert f"{back.width}x{back.height}" == result
            done += 1
    assert done > 100


def small_pictures() -> list[bytes]:
    """A tiny picture in many formats."""
    rng = np.random.default_rng(5)
    rgb = Image.fromarray(rng.integers(0, 256, (13, 17, 3), np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(rng.integers(0, 256, (13, 17), np.uint8)))
    exif = Image.Exif()
    exif[0x0112], exif[315] = 6, "somebody"
    kinds = [
        ("PNG", rgba), ("PNG", rgb.convert("P")), ("PNG", rgb.convert("1")), ("JPEG", rgb), ("GIF", rgb.convert("P")),
        ("TIFF", rgb), ("BMP", rgb), ("PPM", rgb), ("TGA", rgba), ("ICO", rgba), ("PCX", rgb), ("SGI", rgb),
        ("DDS", rgba), ("ICNS", rgba),
    ]  # fmt: skip
    kinds += [(name, rgba) for name in ("WEBP", "AVIF", "JPEG2000") if features.check(CODECS[name])]
    out = []
    for name, picture in kinds:
        stream = io.BytesIO()
        picture.save(stream, name, **({"exif": exif} if name in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
        out.append(stream.getvalue())
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        rgb.save(stream := io.BytesIO(), "TIFF", compression=compression)
        out.append(stream.getvalue())
    return out


CODECS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}


@pytest.mark.timeout(600)
@few_or(2_500, 500)
def test_scrambled_pictures(capfd: pytest.CaptureFixture[str], count: int) -> None:
    """A picture or one `InputError`, soon, and nothing on stderr but what libraries in C write there themselves."""
    good = small_pictures()
    assert all("x" in outcome(data) for data in good)
    found: Counter[str] = Counter()
    for seed in range(count):
        random = Random(seed)
        data = scrambled(random.choice(good), random)
        try:
            found["picture" if "x" in (kind := outcome(data)) else kind] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert found["InputError"] > 0.2 * count
    assert found["picture"] > 0.2 * count
    assert "Traceback" not in capfd.readouterr().err


if __name__ == "__main__":
    text = json.dumps({"Pillow": PIL.__version__, "files": outcomes()}, indent=0)
    OUTCOMES.write_text(text + "\n", encoding="utf-8")
