# SPDX-License-Identifier: MIT
"""The XMP packet of a picture (ISO 16684-1:2019), wherever its file keeps it, made true for the picture that is kept.

A JPEG holds what does not fit into one segment as "extended XMP", a second packet (XMP specification, part 3, 2020).
Some PNG files hold XMP as a text chunk of hexadecimal digits. A packet may announce what is appended to a JPEG: a
gain map, a video. Nothing of that is kept, so the packet must not announce it either.
"""

from __future__ import annotations

import re
import struct
from typing import Any
from xml.parsers import expat

from PIL import Image

_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"  # then 32 letters of identity, u32 size of all, u32 offset
_IN_APP1 = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_BYTES = 16 << 20
_VALUE = rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
_HAS_EXTENSION = re.compile(rb"\s+xmpNote:HasExtendedXMP" + _VALUE)
_GAIN_MAP = re.compile(rb"\s+hdrgm:\w+" + _VALUE)
_VIDEO = re.compile(rb"\s+\w+:(?:MotionPhoto|MicroVideo)\w*" + _VALUE)
_SEMANTIC = re.compile(rb"\w+:Semantic\s*=\s*[\"'](\w{1,40})[\"']")
_APPENDED = {"GainMap": "HDR gain map", "MotionPhoto": "video of a motion photo"}


def xmp_of(image: Image.Image, notes: list[str]) -> bytes | None:
    """The XMP packet of a picture; what is lost of it goes into `notes`.

    Returns:
        the packet without zero bytes at its end, its orientation, where it gives one, set to 1; None for none.
    """
    packet = _plain(image.info.get("xmp"))
    if packet is None:
        packet = _plain(_of_text_chunk(image.info, notes))
    if packet is None:
        return None
    if image.format in ("JPEG", "MPO"):
        packet = _extended(packet, getattr(image, "applist", []), notes)
        packet = _without_appended(packet, notes)
    packet = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])[2-8]", rb"\g<1>1", packet)
    return re.sub(rb"(<tiff:Orientation>\s*)[2-8]", rb"\g<1>1", packet)


def _plain(found: object) -> bytes | None:
    """What Pillow has for a packet (bytes, text, or nothing) as bytes."""
    if isinstance(found, str):
        found = found.encode("utf-8", "surrogatepass")
    if not isinstance(found, bytes) or not found.strip(b"\0 \r\n\t"):
        return None
    return found.rstrip(b"\0")


def _of_text_chunk(info: dict[Any, Any], notes: list[str]) -> bytes | None:
    """The packet of a PNG's "Raw profile type": a name, the number of bytes, and their hexadecimal digits."""
    for name in ("xmp", "APP1"):
        text = info.get(f"Raw profile type {name}")
        if not isinstance(text, str):
            continue
        parts = text.split(maxsplit=2)
        try:
            packet = bytes.fromhex(parts[2])
            if len(packet) != int(parts[1]):
                raise ValueError
        except (ValueError, IndexError):
            notes.append("damaged XMP data dropped")
            continue
        if name == "xmp" or packet.startswith(_IN_APP1):
            return packet.removeprefix(_IN_APP1)
    return None


# ---- JPEG ------------------------------------------------------------------------------------------------------------


def _extended(packet: bytes, segments: list[tuple[str, bytes]], notes: list[str]) -> bytes:
    """The packet with what stands in the segments of its extension."""
    named = _HAS_EXTENSION.search(packet)
    if named is None:
        return packet
    identity = re.split(rb"[\"']", named[0])[1]
    start = _EXTENSION + identity
    pieces = [body[len(start) :] for name, body in segments if name == "APP1" and body.startswith(start)]
    joined = _joined(pieces)
    merged = None if joined is None else _merged(_HAS_EXTENSION.sub(b"", packet), joined)
    if merged is None:
        notes.append("damaged extended XMP data dropped")
        return _HAS_EXTENSION.sub(b"", packet)
    return merged


def _joined(pieces: list[bytes]) -> bytes | None:
    """The extension from its pieces, each behind u32 size of all and u32 offset; None unless all are there, once."""
    found = sorted((struct.unpack_from(">II", piece)[::-1], piece[8:]) for piece in pieces if len(piece) >= 8)
    out = bytearray()
    for (offset, size), body in found:
        if offset != len(out) or len(out) + len(body) > min(size, _MAX_BYTES):
            return None
        out += body
    return bytes(out) if found and len(out) == found[0][0][1] else None


def _merged(packet: bytes, extension: bytes) -> bytes | None:
    """The packet with the descriptions of its extension at the end of its own; None if that is not well-formed XML."""
    start = re.search(rb"<rdf:RDF\b[^>]*>", extension)
    stop, end = extension.rfind(b"</rdf:RDF>"), packet.rfind(b"</rdf:RDF>")
    if start is None or stop < start.end() or end < 0 or b"<!DOCTYPE" in packet + extension:
        return None
    merged = packet[:end] + extension[start.end() : stop] + packet[end:]
    try:
        expat.ParserCreate(namespace_separator=" ").Parse(merged.strip(), True)  # undeclared prefixes fail, too
    except expat.ExpatError:
        return None
    return merged


def _without_appended(packet: bytes, notes: list[str]) -> bytes:
    """The packet without what it says of pictures and videos that are appended to the file."""
    gone = []
    while (start := re.search(rb"<(\w+):Directory\b", packet)) is not None:
        closing = b"</" + start[1] + b":Directory>"
        stop = packet.find(closing, start.end())
        if stop < 0:
            break
        gone += [name.decode("ascii", "replace") for name in _SEMANTIC.findall(packet, start.start(), stop)]
        packet = packet[: start.start()] + packet[stop + len(closing) :]
    for pattern, name in ((_GAIN_MAP, "GainMap"), (_VIDEO, "MotionPhoto")):
        packet, count = pattern.subn(b"", packet)
        gone += [name] * bool(count)
    notes += [f"{_APPENDED.get(name, name)} dropped" for name in dict.fromkeys(gone) if name != "Primary"]
    return packet
