# SPDX-License-Identifier: MIT
"""Varints, the numbers of the header (docs/FORMAT.md): unsigned LEB128, at most 5 bytes, below 2**32, shortest form."""

from __future__ import annotations

from vqcodec.errors import DamagedError

MAX_VARINT_BYTES = 5


def write_varint(value: int) -> bytes:
    """Returns `value` as an unsigned LEB128 number of 1 to 5 bytes."""
    assert 0 <= value < 1 << 32
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads an unsigned LEB128 number; returns it and the position behind it."""
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if position + count >= len(data):
            raise header_cut_off()
        byte = data[position + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if (count and not byte) or value >= 1 << 32:
                break
            return value, position + count + 1
    raise DamagedError(f"The header is damaged: no valid number at byte {position}.")


def header_cut_off() -> DamagedError:
    """The error of a header whose end is missing."""
    return DamagedError("The file is cut off inside its header.")
