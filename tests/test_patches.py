# SPDX-License-Identifier: MIT
"""Blocks that are kept without loss: screens, text, patterns; and the section that holds them, damaged and hostile."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from bench import screens
from tests.conftest import psnr
from tests.golden.make import page
from vqcodec.bitstream import container, patches
from vqcodec.bitstream.patches import SIDE, Area, Patches
from vqcodec.bitstream.tiles import Rect
from vqcodec.codec import encode, patching
from vqcodec.codec.patching import Filled, Paster, Survey
from vqcodec.errors import DamagedError, VqcError
from vqcodec.options import EncodeOptions
from vqcodec.pictures import webp
from vqcodec.pictures.picture import Picture

U8 = NDArray[np.uint8]
EFFORT = 3  # the lowest with patches, for where the rest of the picture is not the matter
OVERHEAD = 20  # bytes over lossless WebP, for a picture of one tile


def lossless_webp(rgb: U8) -> int:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", lossless=True)
    return len(stream.getvalue())


def restored(data: bytes, **options: object) -> U8:
    return np.asarray(vqcodec.decode(data, **options))  # type: ignore[arg-type]


def repacked(data: bytes, **changes: object) -> bytes:
    """A file with other contents and right checksums."""
    return container.pack(dataclasses.replace(container.unpack(data, max_pixels=1 << 30), **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mixed(photo: U8) -> U8:
    """A photograph with text in it and a dithered patch: 352 x 480 pixels."""
    rgb = photo[:352, :480].copy()
    rgb[32:224, 32:256] = screens.terminal(224, 192)
    rgb[256:320, 320:416] = screens.dithered(photo[:64, :96])
    return rgb


@pytest.fixture(scope="module")
def mixed_file(mixed: U8) -> bytes:
    return vqcodec.encode(mixed, quality=75, tune="psnr")


# ---- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [20, 50, 75, 100])
@pytest.mark.parametrize("pair", [(0, 255), (96, 160)])
def test_checkerboards_keep_their_brightness(quality: int, pair: tuple[int, int]) -> None:
    board = screens.checkerboard(*pair, side=160)
    back = restored(vqcodec.encode(board, quality=quality))
    assert abs(float(back.mean()) - float(board.mean())) < 2
    if quality == 100:
        assert np.array_equal(back, board)


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_dithers_keep_their_brightness(photo: U8, quality: int) -> None:
    dither = screens.dithered(photo[:256, :320])
    back = restored(vqcodec.encode(dither, quality=quality))
    assert np.abs(back.mean((0, 1)) - dither.mean((0, 1))).max() < 2


def test_a_dithered_patch_in_a_photograph(photo: U8, mixed: U8, mixed_file: bytes) -> None:
    back = restored(mixed_file)
    assert np.array_equal(back[256:320, 320:416], mixed[256:320, 320:416])
    assert np.array_equal(back[32:224, 32:256], mixed[32:224, 32:256])
    facts = vqcodec.info(mixed_file)
    assert 42 <= facts["patched_blocks"] < 15 * 11  # the text's 7 x 6 blocks, the dither's, and not all
    # the rest is about as good as in the photograph alone
    alone = restored(vqcodec.encode(photo[:352, :480], quality=75, tune="psnr"))
    rest = (slice(None), slice(416, None))
    assert psnr(back[rest], mixed[rest]) > psnr(alone[rest], photo[:352, :480][rest]) - 0.5


@pytest.mark.parametrize("decoder", ["faithful", "diffusion"])
def test_the_page_around_a_photograph_is_exact_up_to_its_edge(photo: U8, decoder: str) -> None:
    whole = page(photo)
    data = vqcodec.encode(whole, 60, effort=EFFORT)
    back = restored(data, decoder=decoder)
    outside = np.ones(whole.shape[:2], bool)
    outside[77:177, 45:205] = False
    assert np.array_equal(back[outside], whole[outside])
    assert not np.array_equal(back, whole)
    part = restored(data, decoder=decoder, region=(33, 60, 140, 50))
    assert np.abs(part.astype(int) - back[60:110, 33:173]).max() <= 1


@pytest.mark.parametrize("quality", [50, 75])
def test_no_letter_changes(quality: int) -> None:
    text = screens.terminal(480, 320)
    data = vqcodec.encode(text, quality=quality)
    assert np.array_equal(restored(data), text)
    assert vqcodec.info(data)["patched_blocks"] == 150
    plain = vqcodec.encode(text, quality=quality, patches=False)
    assert not np.array_equal(restored(plain), text)  # what is tested needs the patches


@pytest.mark.parametrize("quality", [20, 50, 75, 100])
@pytest.mark.parametrize("name", ["terminal", "map", "pixel-art", "flat", "gradient"])
def test_never_larger_than_lossless_webp_at_lower_fidelity(name: str, quality: int) -> None:
    rgb = {
        "terminal": lambda: screens.terminal(320, 240),
        "map": lambda: screens.street_map(256),
        "pixel-art": lambda: screens.pixel_art(24),
        "flat": lambda: np.full((64, 96, 3), (200, 120, 40), np.uint8),
        "gradient": lambda: np.ascontiguousarray(screens.slide(320, 180)),
    }[name]()
    assert len(vqcodec.encode(rgb, quality=quality)) <= lossless_webp(rgb) + OVERHEAD


def test_photographs_have_no_patches(photo: U8) -> None:
    for quality in (20, 60, 95):
        options = EncodeOptions(EFFORT, threads=1)
        with_patches = encode.encode(Picture(photo), quality, options)
        assert with_patches == encode.encode(Picture(photo), quality, dataclasses.replace(options, patches=False))


@pytest.mark.parametrize("effort", [1, 2])
def test_low_efforts_keep_nothing(effort: int) -> None:
    data = vqcodec.encode(screens.checkerboard(side=64), effort=effort)
    assert vqcodec.info(data)["patches_bytes"] is None


# ---- everything else works with them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [(0, 0, 480, 352), (17, 40, 200, 100), (290, 250, 60, 80), (440, 300, 40, 52)])
def test_a_region_is_what_the_whole_shows(mixed_file: bytes, region: tuple[int, int, int, int]) -> None:
    x, y, width, height = region
    whole = restored(mixed_file)[y : y + height, x : x + width]
    assert np.abs(restored(mixed_file, region=region).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("region", [(3, 5, 130, 90), (250, 200, 200, 100)])
def test_regions_of_what_is_all_kept(region: tuple[int, int, int, int]) -> None:
    text = screens.terminal(480, 320)
    x, y, width, height = region
    data = vqcodec.encode(text)
    assert np.array_equal(restored(data, region=region), text[y : y + height, x : x + width])
    small = restored(data, scale=4)
    assert np.array_equal(small, np.asarray(Image.fromarray(text).reduce(4)))


def test_the_realistic_decoder_leaves_them_alone(mixed: U8, mixed_file: bytes) -> None:
    back = restored(mixed_file, decoder="realistic")
    assert np.array_equal(back[32:224, 32:256], mixed[32:224, 32:256])


def test_tiles_that_are_all_kept_are_not_coded(photo: U8) -> None:
    rgb = np.concatenate([screens.terminal(256, 256), photo[:256, :300]], axis=1)
    options = EncodeOptions(tile_log2=8, tune="psnr", threads=1)
    data = encode.encode(Picture(np.ascontiguousarray(rgb)), 75, options)
    lengths = container.read_header(data).lengths
    assert lengths.base[0] == 0 < lengths.base[1]
    assert lengths.refinement is not None
    assert lengths.refinement[0] == 0 < lengths.refinement[1]
    back = restored(data)
    assert np.array_equal(back[:, :256], rgb[:, :256])
    assert psnr(back[:, 256:], rgb[:, 256:]) > 30
    found = vqcodec.indices(data)
    assert found.refinement is not None
    assert not found.base[:, :16].any()
    assert not found.refinement[:, :16].any()


def test_alpha_and_gray() -> None:
    text = screens.terminal(160, 96)
    rgba = np.dstack([text, np.arange(160 * 96, dtype=np.uint32).reshape(96, 160).astype(np.uint8)])
    assert np.array_equal(restored(vqcodec.encode(rgba)), rgba)
    gray = screens.checkerboard(30, 220, side=96)[:, :, 0]
    back = vqcodec.decode(vqcodec.encode(gray))
    assert back.mode == "L"
    assert np.array_equal(np.asarray(back), gray)


def test_targets() -> None:
    text = screens.terminal(192, 128)
    exact = lossless_webp(text) + OVERHEAD
    assert np.array_equal(restored(vqcodec.encode(text, max_bytes=exact, effort=EFFORT)), text)
    small = vqcodec.encode(text, max_bytes=exact // 3, effort=EFFORT)
    assert len(small) <= exact // 3
    assert np.array_equal(restored(vqcodec.encode(text, psnr=60, effort=EFFORT)), text)
    assert np.array_equal(restored(vqcodec.encode(text, bpp=8.0, effort=EFFORT)), text)


@pytest.mark.parametrize("effort", [1, 5])
def test_lossless(photo: U8, effort: int) -> None:
    rgb = photo[:96, :160]
    data = vqcodec.encode(rgb, lossless=True, effort=effort)
    assert np.array_equal(restored(data), rgb)
    assert len(data) <= lossless_webp(rgb) + OVERHEAD
    assert vqcodec.encode_batch([rgb], lossless=True, effort=effort) == [data]
    rgba = np.dstack([rgb, rgb[:, :, 0]])  # colours below transparent pixels, too
    assert np.array_equal(restored(vqcodec.encode(rgba, lossless=True, effort=effort)), rgba)
    gray = vqcodec.decode(vqcodec.encode(rgb[:, :, 1], lossless=True, effort=effort))
    assert gray.mode == "L"
    assert np.array_equal(np.asarray(gray), rgb[:, :, 1])


def test_lossless_is_no_quality(photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(vqcodec.UsageError, match="quality and lossless"):
        vqcodec.encode(photo, 50, lossless=True)
    with pytest.raises(vqcodec.UsageError, match="True or False"):
        vqcodec.encode(photo, lossless=1)  # type: ignore[arg-type]
    monkeypatch.setattr(webp, "available", lambda: False)
    with pytest.raises(vqcodec.UsageError, match="WebP"):
        vqcodec.encode(photo, lossless=True)


# ---- the section -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_map_makes_a_round_trip(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    rows, columns = patches.blocks(width, height)
    bits = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns).filter(any))
    mask = np.array(bits).reshape(rows, columns)
    count = len(Patches(width, height, mask, ()).sheets())
    areas, top, room = [], 0, width * height
    for _ in range(data.draw(st.integers(0, 3))):
        x0, x1 = sorted(
            data.draw(st.tuples(st.integers(0, width), st.integers(0, width)).filter(lambda x: x[0] != x[1]))
        )
        top = data.draw(st.integers(top, height - 1))
        place = Rect(x0, top, x1, data.draw(st.integers(top + 1, height)))
        room -= place.area
        if room >= 0:
            areas.append(Area(place, (data.draw(st.integers(0, 1)), 0, 255)))
    pieces = tuple(bytes([n + 1]) * n for n in range(1, count + 1))
    kept = Patches(width, height, mask, pieces, areas=tuple(areas))
    again = patches.read(kept.payload(), width, height)
    assert np.array_equal(again.mask, mask)
    assert again.pieces == kept.pieces
    assert not again.whole
    assert again.areas == kept.areas


def test_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large picture, as small pieces: bands, sheets and their lengths."""
    monkeypatch.setattr(patches, "MAX_HEIGHT", 64)
    monkeypatch.setattr(patches, "MAX_WIDTH", 96)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (300, 250, 3), np.uint8)
    mask = rng.random(patches.blocks(250, 300)) < 0.6
    from vqcodec.codec.patching import laid_out

    sheets = Patches(250, 300, mask, ()).sheets()
    assert len(sheets) > 5
    kept = Patches(250, 300, mask, tuple(webp.encode(laid_out(rgb, mask, sheet)) for sheet in sheets))
    paster, out = Paster(patches.read(kept.payload(), 250, 300)), np.zeros_like(rgb)
    for top in range(0, 300, 70):
        paster.paste(out[top : top + 70, 10:], Rect(10, top, 250, min(top + 70, 300)))
    wanted = np.repeat(np.repeat(mask, SIDE, 0), SIDE, 1)[:300, :250, None] * rgb
    assert np.array_equal(out[:, 10:], wanted[:, 10:])


@pytest.mark.parametrize(
    ("areas", "reason"),
    [
        (b"", "number"),
        (b"\0", "so many"),
        (b"\x81\x20" + bytes(30_000), "so many"),  # 4,097
        (b"\1\0\0\1\1\0", "no colour"),  # that of the one before, and there is none
        (b"\1\0\0\1\1\2\1\2\3", "no colour"),
        (b"\1\0\0\1\1\1\1\2", "no colour"),  # cut off
        (b"\1\0\0\0\1\1\1\2\3", "does not fit"),  # no pixels
        (b"\1\x21\0\1\x20\1\1\2\3", "does not fit"),  # beyond the lower edge
        (b"\1\0\x21\x20\1\1\1\2\3", "does not fit"),  # and the right one
        (b"\2\0\0\x40\x40\1\1\2\3\0\0\1\1\0", "does not fit"),  # more pixels than the picture
    ],
)
def test_areas_that_cannot_be_are_refused(areas: bytes, reason: str) -> None:
    for kind in (b"\3\xf0", b"\4\0\4"):  # 64 x 64 pixels: all four blocks
        with pytest.raises(DamagedError, match=reason):
            patches.read(kind + areas, 64, 64)
    fits = b"\2\1\2\3\4\1\5\6\7\0\0\1\1\0"
    found = patches.read(b"\3\xf0" + fits, 64, 64).areas
    assert found == (Area(Rect(2, 1, 5, 5), (5, 6, 7)), Area(Rect(0, 1, 1, 2), (5, 6, 7)))


def test_what_is_filled_is_smooth_and_the_rest_stays(photo: U8) -> None:
    mask = np.zeros(patches.blocks(photo.shape[1], photo.shape[0]), bool)
    mask[2:5, 3:7] = True
    whole = Filled(photo, mask)
    seen = whole[:, :]
    assert np.array_equal(whole[48:130, 90:999], seen[48:130, 90:999])
    covered = np.repeat(np.repeat(mask, SIDE, 0), SIDE, 1)[: photo.shape[0], : photo.shape[1]]
    assert np.array_equal(seen[~covered], photo[~covered])
    inside = seen[64:160, 96:224].astype(int)
    assert np.abs(np.diff(inside, axis=0)).max() < 60
    assert seen[covered].std() < photo[covered].std()


def test_looking_at_a_large_picture_takes_little_memory(photo: U8) -> None:
    """So that 100 megapixels take less than 1 GB: 300 MB are the samples themselves."""
    picture = np.tile(photo[:256, :256], (80, 1, 1))  # 5 megapixels
    picture[:4000] = 7
    mask = np.zeros(patches.blocks(picture.shape[1], picture.shape[0]), bool)
    mask[: 4000 // SIDE] = True
    tracemalloc.start()
    try:
        assert Survey(picture).plain[0].all()
        looking = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert Filled(picture, mask)[:256, :].shape == (256, 256, 3)
        filling = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    pixels = picture.shape[0] * picture.shape[1]
    assert looking < 1 * pixels
    assert filling < 4 * pixels


@pytest.mark.parametrize(
    "section",
    [
        b"", b"\x03", b"\x01", b"\x02", b"\x02\x80", b"\x02\x05", b"\x02\x00\x00\xff", b"\x02\xff\xff\xff\xff\x0f",
        b"\x01" + bytes(21), b"\x01" + b"\xff" * 21, b"\x00", b"\x00not a WebP",
    ],
)  # fmt: skip
def test_hostile_sections_are_refused(mixed_file: bytes, section: bytes) -> None:
    data = repacked(mixed_file, patches=section)
    with pytest.raises(VqcError) as caught:
        vqcodec.decode(data)
    assert "\n" not in str(caught.value)
    partial = vqcodec.decode(data, allow_partial=True)
    assert partial.info["damage"]


def test_a_webp_of_another_size_is_refused_before_it_is_unpacked() -> None:
    text = screens.terminal(96, 64)
    data = vqcodec.encode(text)
    huge = webp.encode(np.zeros((4000, 4000, 3), np.uint8))
    hostile = repacked(data, patches=b"\0" + huge)
    vqcodec.decode(data)
    tracemalloc.start()
    with pytest.raises(DamagedError, match="not RGB of 96 x 64"):
        vqcodec.decode(hostile)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["cut", "noise"])
def test_damaged_webp(kind: str) -> None:
    text = screens.terminal(192, 128)
    data = vqcodec.encode(text)
    section = container.unpack(data, max_pixels=1 << 20).patches
    assert section is not None
    rng = np.random.default_rng(1)
    changed = section[: len(section) // 2] if kind == "cut" else section[:40] + rng.bytes(len(section) - 40)
    try:
        found = restored(repacked(data, patches=changed))
    except DamagedError:
        return
    assert found.shape == text.shape  # WebP has no checksum of its own: the section's was made right here


def test_damage_is_found_and_the_rest_restored(mixed: U8, mixed_file: bytes) -> None:
    broken = bytearray(mixed_file)
    broken[-20] ^= 1
    with pytest.raises(DamagedError, match="patches"):
        vqcodec.decode(bytes(broken))
    partial = vqcodec.decode(bytes(broken), allow_partial=True)
    assert any("patches" in sentence for sentence in partial.info["damage"])
    assert psnr(np.asarray(partial)[:, 420:], mixed[:, 420:]) > 30
    assert vqcodec.info(bytes(broken))["patched_blocks"] is None


def test_a_tile_whose_patches_are_lost_is_gray() -> None:
    data = vqcodec.encode(screens.terminal(96, 64))
    partial = vqcodec.decode(data[:-1], allow_partial=True)
    assert (np.asarray(partial) == 128).all()
    assert any("lost" in sentence for sentence in partial.info["damage"])


def test_the_lowest_quality_stays_small(photo: NDArray[np.uint8]) -> None:
    """The base layer alone comes back far from any picture with texture, and is what was asked for."""
    picture = photo[:192, :256].copy()
    picture[64:128, 64:128] = 255 * np.random.default_rng(0).integers(0, 2, (64, 64, 1))
    data = vqcodec.encode(picture, 1)
    assert 8 * len(data) < 0.1 * picture[..., 0].size
    assert not vqcodec.info(data)["patched_blocks"]


def test_repeated_pixels_are_found_across_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.random.default_rng(0).integers(0, 2, (100, 30, 3), dtype=np.uint8)
    whole = patching.Survey(rgb).new
    monkeypatch.setattr(patching, "STRIP", SIDE)
    assert np.array_equal(patching.Survey(rgb).new, whole)


def test_noise_is_not_kept_without_loss(photo: NDArray[np.uint8]) -> None:
    noise = 22 * np.random.default_rng(1).normal(size=(192, 256, 3))
    noisy = np.clip(np.rint(photo[:192, :256] + noise), 0, 255).astype(np.uint8)
    data = vqcodec.encode(noisy, 75)
    assert len(data) < 0.25 * noisy.size
    assert vqcodec.info(data)["patched_blocks"] == 0
