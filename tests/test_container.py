# SPDX-License-Identifier: MIT
"""Tests of the container: exact bytes, round trips, and files that are damaged, cut off or hostile."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.api import describe
from vqcodec.bitstream import container, layout, varint
from vqcodec.bitstream.container import Contents, Header, pack, read_header, unpack, unpack_partial
from vqcodec.errors import DamagedError, LimitError, VqcError

ANY_SIZE = 1 << 60
MODEL = bytes.fromhex("a1b2c3d4")
FORMAT_MD = Path(__file__).parent.parent / "docs" / "FORMAT.md"

# The example of docs/FORMAT.md.
EXAMPLE = Contents(
    Header(20, 300, 75, MODEL, tile_log2=8),
    base=(bytes(range(8)), b"\xff\xfe\xfd\xfc"),
    refinement=(b"\x10\x20\x30\x40", b""),
    alpha=b"alpha",
)
EXAMPLE_BYTES = bytes.fromhex(
    "b15651430112a1b2c3d44b14ac0202010100 05961f882e 0001020304050607 6eac2001"
    "fffefdfc 28b834c2 10203040 3ba033f9 0626fc83 616c706861 dd10e812"
)

# Every kind of section and nine tiles, as small as that goes.
RICH = Contents(
    Header(513, 600, 3, MODEL, gray=True, tile_log2=8),
    base=tuple(bytes([i]) * 4 for i in range(9)),
    refinement=tuple(bytes([i]) * 4 * (i % 3) for i in range(9)),
    colour=b"colour..",
    alpha=b"\x89PNG",
    icc=b"profile" * 5,
    exif=b"",
    xmp=b"<x:xmpmeta/>" * 3,
    patches=b"\x00patches",
    noise=b"\x19",
)


def read_by_the_book(data: bytes) -> Contents:
    """A second reader, written from docs/FORMAT.md alone; trusts its input, except for the checksums."""
    position = 11 + data[10] // 128
    more = data[11] if data[10] & 128 else 0

    def u32() -> int:
        nonlocal position
        position += 4
        return int.from_bytes(data[position - 4 : position], "little")

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    assert data[:5] == b"\xb1\x56\x51\x43\x01"
    gray, alpha, icc, exif, refinement = (bool(data[5] & 1 << bit) for bit in range(5))
    side_log2 = 8 + data[5] // 32
    width, height = varint(), varint()
    n = ((width - 1) // 2**side_log2 + 1) * ((height - 1) // 2**side_log2 + 1)
    sizes = [varint() for _ in range(icc + exif)]
    colour = bool(more & 4)
    sizes += [4 * varint() for _ in range(colour + n * (1 + refinement))]
    sizes += [varint() for _ in range(alpha)]
    kinds = []
    for _ in range(varint() if more & 2 else 0):
        kinds.append(varint())
        sizes.append(varint())
    assert not any(kind % 2 and kind != 3 for kind in kinds)
    header_end = position
    assert u32() == zlib.crc32(data[:header_end])
    header_crc = data[header_end:position]
    bodies = []
    for number, size in enumerate(sizes):
        body = data[position : position + size]
        position += size
        assert u32() == zlib.crc32(header_crc + number.to_bytes(4, "little") + body)
        bodies.append(body)
    assert position == len(data)
    icc_body = zlib.decompress(bodies.pop(0)) if icc else None
    exif_body = zlib.decompress(bodies.pop(0)) if exif else None
    colour_body = bodies.pop(0) if colour else None
    further = dict(zip(kinds, bodies[len(bodies) - len(kinds) :], strict=True))
    bodies = bodies[: len(bodies) - len(kinds)]
    return Contents(
        Header(width, height, data[10] & 127, data[6:10], gray, side_log2, bool(more & 1)),
        tuple(bodies[:n]),
        tuple(bodies[n : 2 * n]) if refinement else None,
        colour_body,
        bodies[-1] if alpha else None,
        icc_body,
        exif_body,
        zlib.decompress(further[2]) if 2 in further else None,
        further.get(3),
        further.get(4),
    )


def seal(header_without_crc: bytes) -> bytes:
    """Returns a header with a right checksum, whatever nonsense it says."""
    return header_without_crc + struct.pack("<I", zlib.crc32(header_without_crc))


def raw_header(
    flags: int = 0x40, quality: int = 75, sides: bytes = b"\x14\x0a", table: bytes = b"\x01", version: int = 1
) -> bytes:
    return seal(b"\xb1VQC" + bytes([version, flags]) + MODEL + bytes([quality]) + sides + table)


def further(table: bytes) -> bytes:
    """A header that announces further sections with this table."""
    return raw_header(quality=0x80 + 75, sides=b"\x02\x14\x0a", table=b"\x00" + table)


payloads = st.integers(0, 6).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))


@st.composite
def contents(draw: st.DrawFn) -> Contents:
    header = Header(
        width=draw(st.integers(1, 800)),
        height=draw(st.integers(1, 800)),
        quality=draw(st.integers(1, 100)),
        model=draw(st.binary(min_size=4, max_size=4)),
        gray=draw(st.booleans()),
        tile_log2=draw(st.integers(8, 10)),
        srgb=draw(st.booleans()),
    )
    layer = st.tuples(*[payloads] * header.tile_count)
    optional = st.none() | st.binary(max_size=40)
    layers = draw(layer), draw(st.none() | layer)
    icc = None if header.srgb else draw(optional)
    return Contents(
        header, *layers, draw(st.none() | payloads), draw(optional), icc, draw(optional), draw(optional), draw(optional)
    )


# ---- exact bytes ---------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    assert pack(EXAMPLE) == EXAMPLE_BYTES
    assert unpack(EXAMPLE_BYTES, max_pixels=6000) == EXAMPLE


def test_golden_bytes_with_metadata_are_read() -> None:
    # Written once and kept: another zlib may compress differently, but must read these.
    data = bytes.fromhex(
        "b1565143014da1b2c3d40101010909014c4e561378da4b04000062006288a2295078da4b0400006200620d7bbf8d776f72643c2b554b"
    )
    assert unpack(data, max_pixels=1) == Contents(Header(1, 1, 1, MODEL, gray=True), (b"word",), icc=b"a", exif=b"a")


def test_the_dump_in_the_document_is_what_pack_writes() -> None:
    text = FORMAT_MD.read_text()
    rows = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)
    assert bytes.fromhex("".join(rows)) == pack(EXAMPLE)
    table = re.findall(r"^\| ([0-9a-f]{2}) \| (?:`([0-9a-f ]+)`)? ?\|", text, re.MULTILINE)
    position = 0
    for offset, row in table:
        assert int(offset, 16) == position
        position += len(bytes.fromhex(row))
    assert bytes.fromhex("".join(row for _, row in table)) == pack(EXAMPLE)


def rows_of(title: str) -> list[list[str]]:
    """The cells of the first table below a heading of the document."""
    part = FORMAT_MD.read_text(encoding="utf-8").split(f"\n{title}\n", 1)[1]
    table = part[part.index("\n|") + 1 :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_the_tables_of_the_header_in_the_document() -> None:
    offset = 0
    fields = rows_of("## Header")
    for (name, form), row in zip(layout.FIELDS, fields, strict=False):
        assert row[:3] == [str(offset), str(struct.calcsize("<" + form)), name]
        offset += struct.calcsize("<" + form)
    assert [row[:3] for row in fields[len(layout.FIELDS) :]] == [
        [str(offset), "0 or 1", "more flags"], ["", "varint", "width"], ["", "varint", "height"],
        ["", "varints", "table of lengths"], ["", str(container.CRC_BYTES), "header CRC"],
    ]  # fmt: skip
    assert fields[0][3] == f"`{container.MAGIC.hex(' ')}`"
    assert fields[1][3] == str(container.VERSION)
    assert all(f"{container.MAX_SIDE:,}" in row[3] for row in fields if row[2] in ("width", "height"))


def test_the_flags_in_the_document() -> None:
    names = ("gray", "alpha", "ICC", "EXIF", "refinement")
    *flags, side = rows_of("### Flags")
    assert [(row[1], 1 << int(row[0])) for row in flags] == [
        (name, getattr(layout, f"FLAG_{name.upper()}")) for name in names
    ]
    assert side[0] == f"{layout.TILE_SHIFT} to 7"
    sides = re.findall(r"\d+", side[2].split("(")[-1])
    assert sides == [str(1 << log2) for log2 in range(container.MIN_TILE_LOG2, container.MAX_TILE_LOG2 + 1)]
    text = FORMAT_MD.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (sRGB|further|colour) \|", text, re.MULTILINE)
    more = {name: 1 << int(bit) for bit, name in rows}
    assert more == {"sRGB": layout.MORE_SRGB, "further": layout.MORE_SECTIONS, "colour": layout.MORE_COLOUR}


def test_the_order_of_the_sections_in_the_document() -> None:
    names = [row[0] for row in rows_of("## Sections")]
    assert names == ["ICC", "EXIF", "colour layer", "base payload", "refinement payload", "alpha", "further"]
    further = tuple((kind, 1) for kind in container.FURTHER)
    lengths = container.Lengths((4,), (4,), 1, 1, 4, 1, further)
    kinds = [kind for kind, _, _ in layout._in_order(lengths)]
    assert kinds == [
        container.ICC, container.EXIF, container.COLOUR, container.BASE, container.REFINEMENT, container.ALPHA,
        container.XMP, container.PATCHES, container.NOISE,
    ]  # fmt: skip
    assert [row[0] for row in rows_of("### Further sections")] == [str(kind) for kind in container.FURTHER]


def test_the_varints_in_the_document() -> None:
    rows = re.findall(r"^\| ([0-9,]+|invalid: .*?) \| `([0-9a-f ]+)` \|$", FORMAT_MD.read_text(), re.MULTILINE)
    assert len(rows) == 13
    for name, dump in rows:
        data = bytes.fromhex(dump)
        if name.startswith("invalid"):
            with pytest.raises(DamagedError):
                varint.read_varint(data, 0)
        else:
            number = int(name.replace(",", ""))
            assert varint.write_varint(number) == data
            assert varint.read_varint(b"?" + data, 1) == (number, 1 + len(data))


def test_crc32_test_vector() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926


@pytest.mark.parametrize(("width", "height"), [(1, 1), (768, 512), (1024, 1024)])
def test_at_most_24_bytes_before_the_first_payload(width: int, height: int) -> None:
    largest = Contents(Header(width, height, 100, MODEL), (b"\x01" * 4 * 16383,), (b"\x02" * 4 * width * height,))
    data = pack(largest)
    assert data.index(b"\x01" * 64) == read_header(data).header_size_bytes <= 24
    kodak = pack(Contents(Header(768, 512, 75, MODEL), (bytes(1400),), (bytes(30_000),)))
    assert read_header(kodak).header_size_bytes == 23
    assert data[0] >= 0x80


# ---- round trips ---------------------------------------------------------------------------------------------------


@given(contents())
@settings(max_examples=150, deadline=None)
def test_round_trip(before: Contents) -> None:
    data = pack(before)
    assert unpack(data, max_pixels=before.header.width * before.header.height) == before
    assert read_by_the_book(data) == before
    assert pack(before) == data
    layout = read_header(data)
    assert layout.header == before.header
    assert layout.file_size_bytes == len(data)
    assert read_header(data[: layout.header_size_bytes]) == layout


@given(contents())
@settings(max_examples=50, deadline=None)
def test_describe_adds_up_and_is_json(before: Contents) -> None:
    data = pack(before)
    facts = describe(read_header(data))
    assert json.loads(json.dumps(facts)) == facts
    parts = (
        "header", "checksum", "colour", "base", "refinement", "alpha", "icc", "exif", "xmp", "patches", "noise",
        "further",
    )  # fmt: skip
    assert sum(int(facts[f"{part}_bytes"] or 0) for part in parts) == facts["file_bytes"] == len(data)
    assert facts["bpp"] == 8 * len(data) / (before.header.width * before.header.height)


def test_describe_names_everything() -> None:
    facts = describe(read_header(pack(RICH)))
    assert (facts["width"], facts["height"], facts["quality"], facts["gray"]) == (513, 600, 3, True)
    assert (facts["tiles"], facts["tile_columns"], facts["tile_rows"], facts["tile_side"]) == (9, 3, 3, 256)
    assert (facts["model"], facts["base_bytes"], facts["refinement_bytes"]) == ("a1b2c3d4", 36, 36)
    assert describe(read_header(pack(dataclasses.replace(RICH, refinement=None))))["refinement_bytes"] is None


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [EXAMPLE, RICH], ids=["example", "rich"])
def test_every_flipped_bit_is_found(good: Contents) -> None:
    data = pack(good)
    for position in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            with pytest.raises(DamagedError):
                unpack(bytes(bad), max_pixels=ANY_SIZE)


@pytest.mark.parametrize("good", [EXAMPLE, RICH], ids=["example", "rich"])
def test_every_truncation_and_every_extra_byte_is_found(good: Contents) -> None:
    data = pack(good)
    for size in range(len(data)):
        with pytest.raises(DamagedError):
            unpack(data[:size], max_pixels=ANY_SIZE)
    with pytest.raises(DamagedError, match="1 bytes follow the end"):
        unpack(data + b"\0", max_pixels=ANY_SIZE)


@given(contents(), st.data())
@settings(max_examples=100, deadline=None)
def test_changed_stretches_are_found(good: Contents, data: st.DataObject) -> None:
    whole = pack(good)
    start = data.draw(st.integers(0, len(whole) - 1))
    stretch = data.draw(st.binary(min_size=1, max_size=40))
    bad = whole[:start] + stretch + whole[start + len(stretch) :]
    if bad != whole:
        with pytest.raises(DamagedError):
            unpack(bad, max_pixels=ANY_SIZE)


def test_swapped_and_foreign_payloads_are_found() -> None:
    one = Contents(Header(512, 256, 50, MODEL, tile_log2=8), (b"aaaa", b"bbbb"))
    data = pack(one)
    start = read_header(data).header_size_bytes
    swapped = data[:start] + data[start + 8 :] + data[start : start + 8]
    with pytest.raises(DamagedError, match="tile 0"):
        unpack(swapped, max_pixels=ANY_SIZE)
    other = pack(dataclasses.replace(one, header=dataclasses.replace(one.header, quality=51)))
    with pytest.raises(DamagedError, match="tile 1"):
        unpack(data[: start + 8] + other[start + 8 :], max_pixels=ANY_SIZE)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not a .vqc file"),
        (b"\xb1V", "not a .vqc file"),
        (raw_header(version=2), r"newer vqcodec \(format version 2\)"),
        (raw_header(version=0), "no format version 0"),
        (raw_header()[:9], "cut off inside its header"),
        (raw_header()[:-1], "cut off inside its header"),
        (raw_header(flags=0x60), "reserved bits.*newer vqcodec"),
        (raw_header(flags=0xA0), "reserved bits.*newer vqcodec"),
        (raw_header(quality=0x80 + 75, sides=b"\x00\x14\x0a"), "reserved bits.*newer vqcodec"),
        (raw_header(quality=0x80 + 75, sides=b"\x10\x14\x0a"), "reserved bits.*newer vqcodec"),
        (raw_header(quality=0x80 + 75, sides=b"\x81\x14\x0a"), "reserved bits.*newer vqcodec"),
        (raw_header(quality=0x80 + 75, flags=0x44, sides=b"\x01\x14\x0a"), "reserved bits.*newer vqcodec"),
        (raw_header(quality=0x80 + 75)[:11], "cut off inside its header"),
        (raw_header(quality=0x80, sides=b"\x01\x14\x0a"), "quality 0"),
        (further(b"\x00"), "0 further sections are not possible"),
        (further(b"\x41"), "65 further sections are not possible"),
        (further(b"\x01\x00\x00"), "do not ascend"),
        (further(b"\x02\x02\x00\x02\x00"), "do not ascend"),
        (further(b"\x02\x04\x00\x02\x00"), "do not ascend"),
        (further(b"\x40" + b"\x02\x00" * 2), "cut off|do not ascend|not valid"),
        (further(b"\x01\x05\x00"), "section of kind 5, which only a newer vqcodec can read"),
        (raw_header(quality=0), "quality 0"),
        (raw_header(quality=101), "quality 101"),
        (raw_header(sides=b"\x00\x0a"), "0 x 10 pixels"),
        (raw_header(sides=b"\x0a\x00"), "10 x 0 pixels"),
        (raw_header(sides=b"\x81\x80\x80\x08\x01"), "16777217 x 1 pixels"),
        (raw_header(sides=b"\x94\x00\x0a"), "no valid number at byte 11"),
        (raw_header(table=b"\xff\xff\xff\xff\x1f"), "no valid number at byte 13"),
        (raw_header(table=b"\x80\x80\x80\x80\x80\x01"), "no valid number at byte 13"),
        (raw_header(table=b"\xff\xff\xff\xff\x0f"), r"cut off, 22 of 17179869206 bytes.*tile 0 .* is missing"),
        (raw_header(sides=b"\x80\x80\x80\x08" * 2), "268435456 tiles"),
        (raw_header(sides=b"\x80\x80\x40\x80\x80\x40", flags=0x40), "cut off inside its header"),
    ],
)
def test_hostile_headers_are_told_apart(data: bytes, sentence: str) -> None:
    with pytest.raises(DamagedError, match=sentence):
        unpack(data, max_pixels=ANY_SIZE)


def test_messages_say_where() -> None:
    good = Contents(Header(2000, 600, 9, MODEL, tile_log2=9), tuple(b"%04d" % i for i in range(8)), icc=b"x")
    data = pack(good)
    bad = data.replace(b"0006", b"0_06")
    with pytest.raises(DamagedError) as caught:
        unpack(bad, max_pixels=ANY_SIZE)
    assert str(caught.value) == (
        "tile 6 (x 1024..1535, y 512..599), base layer: checksum does not match; the file is damaged."
    )
    with pytest.raises(DamagedError, match=r"tile 3 \(x 1536..1999, y 0..511\).*\(and 1 more damaged\)"):
        unpack(bad.replace(b"0003", b"0_03"), max_pixels=ANY_SIZE)
    layout = read_header(data)
    icc = next(layout.sections())
    with pytest.raises(DamagedError, match=r"^ICC profile: checksum"):
        unpack(data[: icc.offset] + b"?" + data[icc.offset + 1 :], max_pixels=ANY_SIZE)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_else(noise: bytes) -> None:
    for data in (noise, container.MAGIC + b"\x01" + noise, raw_header(flags=0x5F, table=noise) + noise):
        with pytest.raises(VqcError):
            unpack(data, max_pixels=ANY_SIZE)


@given(
    flags=st.integers(0, 255),
    quality=st.integers(0, 255),
    sides=st.binary(min_size=2, max_size=8),
    table=st.binary(max_size=30),
    rest=st.binary(max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_sealed_nonsense_raises_nothing_else(flags: int, quality: int, sides: bytes, table: bytes, rest: bytes) -> None:
    # Whether it passes or not: an attacker can compute checksums too.
    data = raw_header(flags, quality, sides, table) + rest
    try:
        found = unpack_partial(data, max_pixels=10**6)
    except VqcError:
        return
    assert len(found.base) == found.header.tile_count


# ---- limits --------------------------------------------------------------------------------------------------------


def test_pixel_limit() -> None:
    data = pack(EXAMPLE)
    with pytest.raises(LimitError, match=r"20 x 300 pixels, more than the limit of 5999"):
        unpack(data, max_pixels=5999)
    with pytest.raises(LimitError):
        unpack_partial(data, max_pixels=5999)
    with pytest.raises(LimitError):  # before the missing payloads are looked for
        unpack(raw_header(sides=b"\x80\x80\x40\x01", table=b"\x01" * 1024), max_pixels=2**20 - 1)


@pytest.mark.parametrize(
    "header", [Header(2**24 + 1, 1, 1, MODEL), Header(1, 2**24 + 1, 1, MODEL), Header(2**24, 2**24, 1, MODEL)]
)
def test_pack_refuses_what_unpack_refuses(header: Header) -> None:
    with pytest.raises(LimitError):
        pack(Contents(header, ()))


def test_large_metadata() -> None:
    largest = bytes(16 << 20)
    data = pack(dataclasses.replace(EXAMPLE, icc=largest))
    assert unpack(data, max_pixels=ANY_SIZE).icc == largest
    with pytest.raises(LimitError, match="EXIF data: more than 16 MiB"):
        pack(dataclasses.replace(EXAMPLE, exif=largest + b"x"))


def with_icc_stream(stream: bytes) -> bytes:
    """Returns a file whose ICC section holds these very bytes, all checksums right."""
    header = raw_header(flags=0x44, table=varint.write_varint(len(stream)) + b"\x00")
    out = header
    for number, body in enumerate((stream, b"")):
        out += body + struct.pack("<I", zlib.crc32(header[-4:] + struct.pack("<I", number) + body))
    return out


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"", "does not end where"),
        (b"nonsense", "not a zlib stream"),
        (zlib.compress(b"profile")[:-1], "does not end where"),
        (zlib.compress(b"profile") + b"x", "does not end where"),
        (zlib.compress(bytes((16 << 20) + 1)), "more than 16 MiB"),
    ],
)
def test_bad_zlib_streams(stream: bytes, sentence: str) -> None:
    with pytest.raises(DamagedError, match=f"^ICC profile: .*{sentence}"):
        unpack(with_icc_stream(stream), max_pixels=ANY_SIZE)
    found = unpack_partial(with_icc_stream(stream), max_pixels=ANY_SIZE)
    assert found.icc is None
    assert found.base == (b"",)


def test_small_files_take_little_memory() -> None:
    bomb = zlib.compressobj(9)
    stream = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(200)) + bomb.flush()
    cases = {
        with_icc_stream(stream): 64 << 20,  # 200 MiB uncompressed; the limit is 16, and zlib's buffer may double
        raw_header(sides=b"\x80\x80\x80\x08" * 2): 1 << 16,  # 2**48 pixels
        raw_header(sides=b"\x80\x80\x40" * 2): 1 << 16,  # 2**20 tiles, one byte of table
        raw_header(sides=b"\x80\x80\x40" * 2, table=bytes(2**20 - 10)): 1 << 16,  # the same, ten too few
        raw_header(table=b"\xff\xff\xff\xff\x0f"): 1 << 16,  # 16 GiB of payload
        raw_header(flags=0x42, table=b"\x00\xff\xff\xff\xff\x0f"): 1 << 16,  # 4 GiB of alpha
    }
    for data, allowed_bytes in cases.items():
        tracemalloc.start()
        try:
            with pytest.raises(DamagedError):
                unpack(data, max_pixels=ANY_SIZE)
            assert tracemalloc.get_traced_memory()[1] < allowed_bytes
        finally:
            tracemalloc.stop()


# ---- what is left of a damaged file --------------------------------------------------------------------------------


def test_partial_of_a_whole_file() -> None:
    found = unpack_partial(pack(RICH), max_pixels=ANY_SIZE)
    assert found.damage == ()
    assert (found.header, found.base, found.refinement) == (RICH.header, RICH.base, RICH.refinement)
    assert (found.alpha, found.icc, found.exif) == (RICH.alpha, RICH.icc, RICH.exif)


def test_partial_names_what_is_damaged() -> None:
    data = bytearray(pack(RICH))
    for section in read_header(bytes(data)).sections():
        if (section.kind, section.tile) in ((container.BASE, 4), (container.REFINEMENT, 5)) or section.number == 0:
            data[section.offset] ^= 1
    found = unpack_partial(bytes(data), max_pixels=ANY_SIZE)
    assert found.damage == (
        "ICC profile: checksum does not match; the file is damaged.",
        "tile 4 (x 256..511, y 256..511), base layer: checksum does not match; the file is damaged.",
        "tile 5 (x 512..512, y 256..511), refinement layer: checksum does not match; the file is damaged.",
    )
    assert found.refinement is not None
    assert RICH.refinement is not None
    assert [i for i in range(9) if found.base[i] != RICH.base[i]] == [4]
    assert [i for i in range(9) if found.refinement[i] != RICH.refinement[i]] == [5]
    assert found.base[4] is None
    assert found.refinement[5] is None
    assert (found.icc, found.exif, found.alpha) == (None, b"", RICH.alpha)


def test_partial_of_every_prefix() -> None:
    data = pack(RICH)
    layout = read_header(data)
    for size in range(len(data)):
        if size < layout.header_size_bytes:
            with pytest.raises(DamagedError):
                unpack_partial(data[:size], max_pixels=ANY_SIZE)
            continue
        found = unpack_partial(data[:size], max_pixels=ANY_SIZE)
        assert found.refinement is not None
        there = [s.offset + s.size_bytes + 4 <= size for s in layout.sections()]
        bodies = [found.icc, found.exif, found.colour, *found.base, *found.refinement, found.alpha, found.xmp]
        bodies += [found.patches, found.noise]
        assert [body is not None for body in bodies] == there
        assert len(found.damage) == 1
        assert f"{size} of {len(data)} bytes" in found.damage[0]
        section = next(s for s in layout.sections() if s.offset + s.size_bytes + 4 > size)
        if section.tile is None:
            assert found.cut is None
        else:
            start = data[section.offset : min(size, section.offset + section.size_bytes)]
            whole_words = start[: len(start) - len(start) % 4]
            assert found.cut == container.Cut(section.kind, section.tile, whole_words, section.size_bytes)


def test_partial_cut_in_the_refinement_keeps_the_whole_base() -> None:
    data = pack(RICH)
    first = next(s for s in read_header(data).sections() if s.kind == container.REFINEMENT)
    found = unpack_partial(data[: first.offset], max_pixels=ANY_SIZE)
    assert found.base == RICH.base
    assert found.refinement == (None,) * 9
    assert "tile 0 (x 0..255, y 0..255), refinement layer and 12 sections behind it are missing" in found.damage[0]


def test_partial_mentions_bytes_behind_the_end() -> None:
    found = unpack_partial(pack(EXAMPLE) + b"more", max_pixels=ANY_SIZE)
    assert found.base == EXAMPLE.base
    assert found.damage == ("4 bytes follow the end of the picture; the file is damaged.",)


# ---- further sections ----------------------------------------------------------------------------------------------


def with_further(*sections: tuple[int, bytes]) -> bytes:
    """A file of one empty base payload and these sections behind it, all checksums right."""
    table = bytes([len(sections)]) + b"".join(
        varint.write_varint(kind) + varint.write_varint(len(body)) for kind, body in sections
    )
    out = header = further(table)
    for number, body in enumerate((b"", *(body for _, body in sections))):
        out += body + struct.pack("<I", zlib.crc32(header[-4:] + struct.pack("<I", number) + body))
    return out


def test_an_unknown_section_that_may_be_skipped_is_skipped() -> None:
    data = with_further((2, zlib.compress(b"xmp")), (6, b"something new"), (1000, b""))
    found = unpack(data, max_pixels=ANY_SIZE)
    assert found == Contents(Header(20, 10, 75, MODEL), (b"",), xmp=b"xmp")
    assert read_by_the_book(data) == found
    facts = describe(read_header(data))
    assert (facts["further_bytes"], facts["file_bytes"]) == (13, len(data))
    for position in range(len(data)):
        bad = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(DamagedError):
            unpack(bad, max_pixels=ANY_SIZE)


def test_an_unknown_section_that_must_be_understood_is_refused() -> None:
    with pytest.raises(DamagedError, match="kind 5, which only a newer vqcodec can read"):
        unpack_partial(with_further((2, b""), (5, b"new")), max_pixels=ANY_SIZE)


def test_damaged_xmp_is_named() -> None:
    found = unpack_partial(with_further((2, b"nonsense")), max_pixels=ANY_SIZE)
    assert found.xmp is None
    assert found.damage == ("XMP data: not a zlib stream; the file is damaged.",)
    whole = unpack_partial(pack(RICH), max_pixels=ANY_SIZE)
    assert (whole.xmp, whole.damage) == (RICH.xmp, ())


def test_the_mark_of_srgb_takes_one_byte() -> None:
    marked = dataclasses.replace(EXAMPLE, header=dataclasses.replace(EXAMPLE.header, srgb=True))
    assert len(pack(marked)) == len(pack(EXAMPLE)) + 1
    assert unpack(pack(marked), max_pixels=ANY_SIZE).header.srgb
