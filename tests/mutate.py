# SPDX-License-Identifier: MIT
"""Broken and hostile .vqc files made from good ones, for the fuzzers; everything follows from a seed.

`broken` leaves the checksums as they are, as damage does. `hostile` takes the file apart, changes what it says, and
makes every checksum right again, as an attacker would, so that the code behind the checksums is reached.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from random import Random

from vqcodec.bitstream import container, layout

EXTREMES = (0, 1, 2, 3, 127, 128, 255, 2**14, 2**16 + 1, 2**21, 2**24, 2**24 + 1, 2**30 - 1, 2**30, 2**32 - 1)


@dataclass
class Parts:
    """A .vqc file in pieces, nothing checked: `joined` gives right checksums to whatever it says."""

    fixed: bytearray  # magic, version, flags, model, quality
    width: int
    height: int
    lengths: list[int]  # as the table has them, further sections left out
    bodies: list[bytes]  # sections, ICC, EXIF and XMP as stored
    tail: bytes = b""
    raw_table: bytes | None = None  # in place of the varints of `lengths`
    numbers: list[int] = field(default_factory=list)  # section numbers for the checksums; their order if empty
    more: bytearray = field(default_factory=bytearray)  # the byte of further flags, where there is one
    kinds: list[int] = field(default_factory=list)  # of the further sections, the last of the bodies

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """Takes a good file apart."""
        described = container.read_header(data)
        sections = list(described.sections())
        bodies = [data[s.offset : s.offset + s.size_bytes] for s in sections]
        more = bytearray(data[11:12] if data[10] & layout.MORE_FLAGS else b"")
        kinds = [kind for kind, _ in described.lengths.further]
        header = described.header
        return cls(bytearray(data[:11]), header.width, header.height, [], bodies, more=more, kinds=kinds).measured()

    def measured(self) -> Parts:
        """Sets the lengths to those of the bodies, as far as the flags say what is counted in words."""
        flags = self.fixed[5]
        first = bool(flags & layout.FLAG_ICC) + bool(flags & layout.FLAG_EXIF)
        further = len(self.bodies) - len(self.kinds)
        last = further - bool(flags & layout.FLAG_ALPHA)
        self.lengths = [len(b) // 4 if first <= n < last else len(b) for n, b in enumerate(self.bodies[:further])]
        return self

    def joined(self) -> bytes:
        """The file's bytes."""
        table = b"".join(map(varint, self.lengths)) if self.raw_table is None else self.raw_table
        if self.kinds:
            sizes = map(len, self.bodies[-len(self.kinds) :])
            table += varint(len(self.kinds))
            table += b"".join(varint(kind) + varint(size) for kind, size in zip(self.kinds, sizes, strict=False))
        head = bytes(self.fixed + self.more) + varint(self.width) + varint(self.height) + table
        crc = zlib.crc32(head)
        out = [head, struct.pack("<I", crc)]
        for number, body in zip(self.numbers or range(len(self.bodies)), self.bodies, strict=False):
            out += [body, struct.pack("<I", zlib.crc32(body, zlib.crc32(struct.pack("<II", crc, number))))]
        return b"".join(out) + self.tail


def varint(value: int) -> bytes:
    """Unsigned LEB128 of any size."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def scrambled(data: bytes, random: Random) -> bytes:
    """Bytes with something done to them: bits, stretches, length."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(out) + 1)
        size = random.choice((1, 2, 4, 4, 8, 64, 500))
        match random.randrange(7):
            case 0 | 1 if out:
                at = random.randrange(len(out))
                out[at] ^= 1 << random.randrange(8)
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = random.randbytes(size)
            case 4:
                out[at : at + size] = random.randbytes(len(out[at : at + size]))
            case 5:
                out[at : at + size] = bytes([random.choice((0, 255))]) * len(out[at : at + size])
            case _:
                del out[at:]
    return bytes(out)


def broken(good: list[bytes], random: Random) -> bytes:
    """A file that was damaged on its way: its checksums are those of the file that it was."""
    data = random.choice(good)
    if random.random() < 0.2:
        other = random.choice(good)
        return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]
    return scrambled(data, random)


def hostile(good: list[bytes], random: Random) -> bytes:
    """A file that somebody made up: its checksums are right."""
    parts = Parts.of(random.choice(good))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        CHANGES[random.randrange(len(CHANGES))](parts, good, random)
    return parts.joined()


def _scramble_a_body(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.bodies:
        at = random.randrange(len(parts.bodies))
        body = scrambled(parts.bodies[at], random)
        parts.bodies[at] = body[: len(body) // 4 * 4] if random.random() < 0.9 else body
        parts.measured()


def _shorten_a_body(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.bodies:
        at = random.randrange(len(parts.bodies))
        parts.bodies[at] = parts.bodies[at][: 4 * random.randrange(len(parts.bodies[at]) // 4 + 1)]
        parts.measured()


def _swap_bodies(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.bodies:
        a, b = random.randrange(len(parts.bodies)), random.randrange(len(parts.bodies))
        parts.bodies[a], parts.bodies[b] = parts.bodies[b], parts.bodies[a]
        parts.measured()


def _splice_a_body(parts: Parts, good: list[bytes], random: Random) -> None:
    if parts.bodies:
        other = Parts.of(random.choice(good))
        parts.bodies[random.randrange(len(parts.bodies))] = random.choice(other.bodies)
        parts.measured()


def _noise_as_body(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.bodies:
        size = 4 * random.choice((0, 1, 2, 3, 10, 100, 1000))
        fill = random.choice((random.randbytes(size), bytes(size), b"\xff" * size))
        parts.bodies[random.randrange(len(parts.bodies))] = fill
        parts.measured()


def _change_quality(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.fixed[10] = random.choice((0, 1, 2, 50, 100, 101, 127, 128, 255, random.randrange(256)))


def _change_flags(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.fixed[5] = random.choice((parts.fixed[5] ^ 1 << random.randrange(8), random.randrange(256)))
    parts.measured()


def _change_further_flags(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.more = bytearray(random.choice((b"", b"\0", b"\1", b"\2", b"\3", b"\4", b"\xff")))
    parts.fixed[10] = parts.fixed[10] & 127 | (128 if parts.more else 0)


def _change_further_kinds(parts: Parts, _: list[bytes], random: Random) -> None:
    if random.random() < 0.5:
        parts.bodies.append(random.choice((random.randbytes(7), zlib.compress(b"<x/>"), zlib.compress(bytes(2**20)))))
        parts.kinds.append(0)
        parts.more = bytearray([(parts.more[0] if parts.more else 0) | layout.MORE_SECTIONS])
        parts.fixed[10] |= layout.MORE_FLAGS
    if parts.kinds:
        parts.kinds[random.randrange(len(parts.kinds))] = random.choice((0, 1, 2, 2, 3, 4, 2**32 - 1))


def _change_model(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.fixed[random.randrange(4, 10)] ^= 1 << random.randrange(8)


def _change_a_side(parts: Parts, _: list[bytes], random: Random) -> None:
    value = max(0, random.choice((*EXTREMES, parts.width + random.randrange(-20, 20), random.randrange(700))))
    match random.randrange(3):
        case 0:
            parts.width = value
        case 1:
            parts.height = value
        case _:  # large, and yet one tile
            parts.width, parts.height = random.randrange(1, 1025), random.randrange(1, 1025)


def _change_a_length(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.lengths:
        at = random.randrange(len(parts.lengths))
        parts.lengths[at] = max(0, random.choice((*EXTREMES, parts.lengths[at] + random.choice((-1, 1)))))


def _change_the_table(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.raw_table = scrambled(b"".join(map(varint, parts.lengths)), random)


def _change_the_number_of_sections(parts: Parts, _: list[bytes], random: Random) -> None:
    if parts.bodies and random.random() < 0.5:
        del parts.bodies[random.randrange(len(parts.bodies))]
    else:
        parts.bodies.insert(random.randrange(len(parts.bodies) + 1), random.randbytes(4 * random.randrange(9)))
    parts.measured()


def _wrong_section_numbers(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.numbers = random.sample(range(len(parts.bodies) + 1), len(parts.bodies))


def _follow_it_with_more(parts: Parts, _: list[bytes], random: Random) -> None:
    parts.tail = random.randbytes(random.choice((1, 4, 100)))


CHANGES = [
    _scramble_a_body, _scramble_a_body, _scramble_a_body, _shorten_a_body, _swap_bodies, _splice_a_body,
    _splice_a_body, _noise_as_body, _noise_as_body, _change_quality, _change_quality, _change_flags, _change_flags,
    _change_model, _change_further_flags, _change_further_kinds, _change_a_side, _change_a_side, _change_a_length,
    _change_the_table, _change_the_number_of_sections, _wrong_section_numbers, _follow_it_with_more,
]  # fmt: skip
