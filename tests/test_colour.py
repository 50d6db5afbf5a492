# SPDX-License-Identifier: MIT
"""The colour layer: what it saves, that it is coded exactly, and that what is not its own is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec.bitstream import colour, container, corrections
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.corrections import Corrections
from vqcodec.bitstream.entropy import Encoder
from vqcodec.codec import decode, encode, tradeoff
from vqcodec.model import zoo
from vqcodec.options import DecodeOptions, EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load(zoo.find())


def error(a: U8, b: U8) -> float:
    return float(((a.astype(float) - b) ** 2).mean())


def tinted(photo: U8) -> U8:
    """A photograph as a cheap camera saw it: strong colours in the wrong places."""
    rgb = photo[:256, :384].astype(float)
    rgb[:, :, 0] = 255 * (rgb[:, :, 0] / 255) ** 0.6
    rgb[:, :, 2] *= 0.6
    return rgb.astype(np.uint8)


def test_it_pays(photo: U8) -> None:
    """At low rates fewer bits than any quality without it would need for the same error."""
    for quality in (20, 30, 60):
        picture = read.load(tinted(photo))
        plain = encode.encode(picture, quality, EncodeOptions(effort=colour_effort() - 1, tune="psnr"))
        corrected = encode.encode(picture, quality, EncodeOptions(effort=colour_effort(), tune="psnr"))
        assert container.read_header(corrected).lengths.colour
        assert container.read_header(plain).lengths.colour is None
        for a, b in zip(vqcodec.indices(plain)[:2], vqcodec.indices(corrected)[:2], strict=True):
            np.testing.assert_array_equal(a, b)
        more = encode.encode(picture, quality + 10, EncodeOptions(effort=colour_effort() - 1, tune="psnr"))
        before, after, beyond = (error(decode.decode(d).rgb, picture.rgb) for d in (plain, corrected, more))
        gain = 10 * np.log10(before / after)  # [dB]
        assert gain > 0.1
        share = np.log(before / after) / np.log(before / beyond)  # of the way to the next quality
        assert np.log(len(corrected) / len(plain)) < share * np.log(len(more) / len(plain))


def colour_effort() -> int:
    return tradeoff.COLOUR_EFFORT


def test_none_where_it_would_not_pay(photo: U8) -> None:
    for picture in (photo[:1, :1], np.full((64, 64, 3), 128, np.uint8)):
        data = vqcodec.encode(picture, 50)
        found = vqcodec.indices(data).colour
        assert found is None
        assert container.read_header(data).lengths.colour is None
        assert (
            len(data) <= len(vqcodec.encode(picture, 50, effort=colour_effort() - 1)) + 12
        )  # or the whole without loss


def test_features_are_the_terms_of_the_format() -> None:
    """Each by its formula in docs/FORMAT.md, one by one."""
    rng = np.random.default_rng(1)
    r, g, b = (rng.random(50).astype(np.float32) for _ in range(3))
    t = 2 * (0.299 * r + 0.587 * g + 0.114 * b) - 1
    u, v = 4 * (b - g), 4 * (r - g)
    legendre = [np.polynomial.Legendre.basis(i)(t) for i in range(5)]
    found = colour._features(r, g, b, colour.MAX_DEGREE)
    wanted = [e for e in product(range(5), repeat=3) if sum(e) <= 4]
    assert sorted(colour.terms(4)) == sorted(wanted)
    for row, (i, j, k) in zip(found, colour.terms(4), strict=True):
        np.testing.assert_allclose(row, legendre[i] * u**j * v**k, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("degree", range(5))
def test_coded_and_back(model: zoo.Model, degree: int) -> None:
    rng = np.random.default_rng(degree)
    indices = rng.integers(-3, 4, (len(colour.terms(degree)), 3))
    indices[-1] = 700, -70_000, 0  # escapes
    layer = Colour(int(rng.integers(16)), indices)
    payload = Corrections(layer).payload(model.tables)
    assert payload is not None
    found = corrections.read(payload, model.tables, 48, 32).colour
    assert found is not None
    assert found.exponent == layer.exponent
    np.testing.assert_array_equal(found.indices, indices)
    with pytest.raises(vqcodec.DamagedError, match="left over behind the colour layer"):
        corrections.read(payload + b"12345678", model.tables, 48, 32)
    again = Colour.of_array(layer.array())
    assert again.exponent == layer.exponent
    np.testing.assert_array_equal(again.indices, indices)


def test_apply_adds_the_polynomial() -> None:
    """A layer made by hand: 3 levels more red everywhere, and 2 levels more blue per unit of t."""
    picture = np.linspace(-0.1, 1.1, 3 * 40 * 700, dtype=np.float32).reshape(1, 3, 40, 700).copy()
    kept = np.clip(picture, 0, 1)
    indices = np.zeros((4, 3), np.int64)
    indices[0, 0], indices[1, 2] = 3, 2
    Colour(2, indices).apply(picture)
    t = 2 * (0.299 * kept[0, 0] + 0.587 * kept[0, 1] + 0.114 * kept[0, 2]) - 1
    np.testing.assert_allclose(picture[0, 0], kept[0, 0] + 3 / 255, atol=1e-6)
    np.testing.assert_array_equal(picture[0, 1], kept[0, 1])
    np.testing.assert_allclose(picture[0, 2], kept[0, 2] + 2 / 255 * t, atol=1e-5)


def test_regions_scales_and_decoders_have_it(photo: U8) -> None:
    data = vqcodec.encode(tinted(photo), 20)
    assert vqcodec.indices(data).colour is not None
    whole = np.asarray(vqcodec.decode(data)).astype(int)
    region = np.asarray(vqcodec.decode(data, region=(100, 50, 120, 90))).astype(int)
    assert np.abs(whole[50:140, 100:220] - region).max() <= 1
    assert np.abs(whole - np.asarray(vqcodec.decode(data, decoder="realistic", realism=0))).max() == 0
    plain = np.asarray(vqcodec.decode(vqcodec.encode(tinted(photo), 20, effort=colour_effort() - 1))).astype(int)
    smooth = whole.reshape(16, 16, 24, 16, 3).mean((1, 3))
    rough = np.asarray(vqcodec.decode(data, decoder="realistic")).reshape(16, 16, 24, 16, 3).mean((1, 3))
    other = plain.reshape(16, 16, 24, 16, 3).mean((1, 3))
    assert np.abs(rough - smooth).mean() < np.abs(rough - other).mean()  # nearer to the corrected colours


def test_the_same_layer_on_any_number_of_threads(photo: U8) -> None:
    picture = read.load(photo[:270, :280])  # four tiles
    files = {encode.encode(picture, 25, EncodeOptions(threads=n, tile_log2=8)) for n in (1, 2, 3)}
    assert len(files) == 1


def test_a_damaged_first_tile_does_not_take_the_layer_with_it(photo: U8) -> None:
    picture = read.load(np.tile(tinted(photo), (1, 2, 1)))  # three tiles; the second one's refinement goes with it
    whole = encode.encode(picture, 20, EncodeOptions(tile_log2=8))
    first = next(s for s in container.read_header(whole).sections() if s.kind == container.BASE)
    found = decode.decode(flipped(whole, first), DecodeOptions(allow_partial=True))
    np.testing.assert_array_equal(found.rgb[:, 512 + 64 :], decode.decode(whole).rgb[:, 512 + 64 :])


def test_a_damaged_layer_costs_only_itself(photo: U8) -> None:
    """The picture is restored without it, and it is said; without --allow-partial nothing is shown."""
    picture = read.load(tinted(photo))
    whole = encode.encode(picture, 20, EncodeOptions(effort=colour_effort()))
    (section,) = (s for s in container.read_header(whole).sections() if s.kind == container.COLOUR)
    data = flipped(whole, section)
    with pytest.raises(vqcodec.DamagedError, match=r"^colour layer: checksum does not match"):
        vqcodec.decode(data)
    found = decode.decode(data, DecodeOptions(allow_partial=True))
    assert found.notes == ("colour layer: checksum does not match; the file is damaged.",)
    plain = decode.decode(encode.encode(picture, 20, EncodeOptions(effort=colour_effort() - 1)))
    np.testing.assert_array_equal(found.rgb, plain.rgb)


def flipped(data: bytes, section: container.Section) -> bytes:
    """The file with one bit of a section flipped."""
    return data[: section.offset] + bytes([data[section.offset] ^ 1]) + data[section.offset + 1 :]


def test_hostile_layers_are_refused(model: zoo.Model) -> None:
    coder = Encoder()
    coder.put_uniform(7, colour.DEGREES)
    with pytest.raises(vqcodec.DamagedError, match="of a degree that there is not"):
        corrections.read(coder.finish(), model.tables, 48, 32)
    picture = np.full((1, 3, 4, 4), 0.5, np.float32)
    Colour(0, np.full((35, 3), 2**20)).apply(picture)  # as large as any that can be coded
    assert np.isfinite(picture).all()
