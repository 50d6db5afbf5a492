# SPDX-License-Identifier: MIT
"""XMP in the odd places where files keep it, and what a packet must not go on announcing."""

from __future__ import annotations

import io
import struct
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import vqcodec
from tests.test_metadata import UPRIGHT_XMP, XMP, saved
from vqcodec.pictures import read
from vqcodec.pictures.xmp import xmp_of

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
GUID = b"0123456789ABCDEF0123456789ABCDEF"
SIGNATURE = b"http://ns.adobe.com/xmp/extension/\0"
GAIN_MAP = b"""<Container:Directory xmlns:Container="http://ns.google.com/photos/1.0/container/"><rdf:Seq>
<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>
<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="1000"/></rdf:li>
</rdf:Seq></Container:Directory>"""


def packet(attributes: bytes = b"", inside: bytes = b"") -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + RDF.encode() + b'"><rdf:Description rdf:about="" '
        b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:GCamera="http://ns.google.com/photos/1.0/'
        b'camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"' + attributes + b"><dc:source>somewhere</dc:source>"
        + inside + b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )  # fmt: skip


def extension(size: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + RDF.encode() + b'"><rdf:Description '
        b'xmlns:big="urn:big" big:data="' + b"A" * size + b'"/></rdf:RDF></x:xmpmeta>'
    )


def jpeg(xmp: bytes, more: bytes = b"", pieces: tuple[slice, ...] = ()) -> bytes:
    """A JPEG with a packet, and pieces of a second one in segments of their own."""
    plain = saved(Image.new("RGB", (9, 7), (200, 60, 40)), "JPEG", xmp=xmp)
    segments = b""
    for piece in pieces:
        body = SIGNATURE + GUID + struct.pack(">II", len(more), piece.start) + more[piece]
        segments += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    place = plain.index(b"\xff\xdb")
    return plain[:place] + segments + plain[place:]


def test_xmp_as_a_text_chunk_of_png() -> None:
    for name, content in (("xmp", XMP), ("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP)):
        chunks = PngImagePlugin.PngInfo()
        text = f"\n{name.lower()}\n{len(content):8d}\n" + "\n".join(
            content.hex()[k : k + 72] for k in range(0, 999, 72)
        )
        chunks.add_text(f"Raw profile type {name}", text, zip=True)
        source = saved(Image.new("RGB", (9, 7)), pnginfo=chunks)
        assert read.load(source).xmp == UPRIGHT_XMP
        assert vqcodec.decode(vqcodec.encode(source, 50)).info["xmp"] == UPRIGHT_XMP


@pytest.mark.parametrize("text", ["", "xmp", "xmp 3", "xmp 3 zz", "xmp 3 00", "xmp x 00", "\nxmp\n -1 \n00"])
def test_a_damaged_text_chunk_is_said(text: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Raw profile type xmp", text)
    picture = read.load(saved(Image.new("RGB", (9, 7)), pnginfo=chunks))
    assert (picture.xmp, picture.notes) == (None, ("damaged XMP data dropped",))


def test_extended_xmp_is_put_together() -> None:
    main, more = packet(b' xmpNote:HasExtendedXMP="' + GUID + b'"'), extension(100_000)
    source = jpeg(main, more, (slice(60_000, 120_000), slice(0, 60_000)))
    picture = read.load(source)
    assert picture.notes == ()
    assert picture.xmp is not None
    assert b"HasExtendedXMP" not in picture.xmp
    descriptions = ET.fromstring(picture.xmp).findall(f".//{{{RDF}}}Description")
    assert [d.get("{urn:big}data") for d in descriptions] == [None, "A" * 100_000]
    assert descriptions[0][0].text == "somewhere"


@pytest.mark.parametrize(
    ("more", "pieces"),
    [
        (extension(200), ()),
        (extension(200), (slice(0, 100),)),
        (extension(200), (slice(10, 999),)),
        (extension(200), (slice(0, 999), slice(0, 999))),
        (b"<rdf:RDF></rdf:RDF>", ()),
        (b"no XML at all", (slice(0, 99),)),
        (b"<rdf:RDF><open></rdf:RDF>", (slice(0, 99),)),
        (b"<rdf:RDF><unknown:prefix/></rdf:RDF>", (slice(0, 99),)),
        (b"<!DOCTYPE x><rdf:RDF></rdf:RDF>", (slice(0, 99),)),
    ],
)
def test_extended_xmp_that_is_not_whole_is_dropped_and_said(more: bytes, pieces: tuple[slice, ...]) -> None:
    picture = read.load(jpeg(packet(b' xmpNote:HasExtendedXMP="' + GUID + b'"'), more, pieces))
    assert picture.notes == ("damaged extended XMP data dropped",)
    assert picture.xmp == packet()


def test_what_is_appended_to_a_jpeg_is_not_announced_any_more() -> None:
    picture = read.load(jpeg(packet(b' hdrgm:Version="1.0"', GAIN_MAP)))
    assert picture.notes == ("HDR gain map dropped",)
    assert picture.xmp == packet()
    video = GAIN_MAP.replace(b"GainMap", b"MotionPhoto")
    picture = read.load(jpeg(packet(b' GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"', video)))
    assert picture.notes == ("video of a motion photo dropped",)
    assert picture.xmp == packet()
    picture = read.load(jpeg(packet(b"", GAIN_MAP.replace(b"GainMap", b"Depth"))))
    assert picture.notes == ("Depth dropped",)


def test_a_packet_of_a_png_is_left_alone() -> None:
    chunks = PngImagePlugin.PngInfo()
    whole = packet(b' hdrgm:Version="1.0"', GAIN_MAP)
    chunks.add_itxt("XML:com.adobe.xmp", whole.decode())
    picture = read.load(saved(Image.new("RGB", (9, 7)), pnginfo=chunks))
    assert (picture.xmp, picture.notes) == (whole, ())


@pytest.mark.parametrize("found", [None, "", b"", b"\0\0", 7, ("x",)])
def test_what_is_no_xmp(found: object) -> None:
    image = Image.fromarray(np.zeros((2, 2), np.uint8))
    image.info["xmp"] = found
    assert xmp_of(image, []) is None


def test_an_unclosed_directory_ends() -> None:
    many = packet(b"", b"<A:Directory " * 2000)
    picture = read.load(Image.open(io.BytesIO(jpeg(many))))
    assert picture.xmp == many
