# SPDX-License-Identifier: MIT
"""Colour spaces that a file gives as numbers, to ICC profiles: CICP code points, and PNG's gAMA and cHRM chunks.

A picture keeps its samples; what they mean stands in a profile. Only spaces with three primaries and a plain curve
become one. HDR transfer functions (PQ, HLG) do not: that is said, and the samples are taken for sRGB.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# White, red, green and blue, x and y of each: the order of PNG's cHRM
Chromaticities = tuple[float, float, float, float, float, float, float, float]
_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# By ColourPrimaries of Rec. ITU-T H.273 (2024), table 2; 2 is "unspecified"
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB, 2: SRGB,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (*_DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}  # fmt: skip
# By TransferCharacteristics of H.273, table 3: exponents; None is the curve of sRGB. Cameras' curves (1, 6, 14, 15) are
# shown with it, too, as browsers do: they say how light was recorded, not how it is to be shown.
_EXPONENTS: dict[int, float | None] = {
    1: None, 2: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0,
}  # fmt: skip
_HDR = {16: "PQ", 18: "HLG"}
_SAME_PLACE = 0.002  # of chromaticities
_SAME_GAMMA = 0.05  # relative, to 1 / 2.2: PNG's readers take so much for sRGB's curve
_GAMMAS = (0.1, 10.0)
_D50 = (0.96420, 1.0, 0.82491)  # of the profile connection space, as ICC.1:2022 has it
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_DATE = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01: no clock in a file
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def of_cicp(primaries: int, transfer: int, gray: bool) -> tuple[bytes | None, list[str]]:
    """What code points of H.273 say of the samples.

    Returns:
        an ICC profile, None for sRGB and for what no profile can say; and a note in the latter case.
    """
    if transfer in _HDR:
        return None, [f"HDR ({_HDR[transfer]}) is not supported: taken for sRGB, its colours are wrong"]
    if primaries not in _PRIMARIES or transfer not in _EXPONENTS:
        return None, [f"its colour space (CICP {primaries}, {transfer}) is not supported: taken for sRGB"]
    return _profile_unless_srgb(_PRIMARIES[primaries], _EXPONENTS[transfer], gray), []


def of_png(info: Mapping[Any, Any], gray: bool) -> tuple[bytes | None, list[str]]:
    """What PNG's chunks gAMA and cHRM say, as Pillow's `info` has them; sRGB where there is an sRGB chunk.

    Returns:
        as `of_cicp`.
    """
    if "srgb" in info or not ("gamma" in info or "chromaticity" in info):
        return None, []
    gamma, places = float(info.get("gamma", 1 / 2.2)), info.get("chromaticity", SRGB)
    usual = abs(gamma * 2.2 - 1) <= _SAME_GAMMA
    if not _GAMMAS[0] <= gamma <= _GAMMAS[1] or not _plausible(places):
        return None, ["damaged gAMA or cHRM chunk dropped: taken for sRGB"]
    return _profile_unless_srgb(places, None if usual else round(1 / gamma, 3), gray), []


def _plausible(places: Chromaticities) -> bool:
    """Whether white is a mixture of the primaries, each with a share."""
    if not all(0 <= place <= 1 for place in places) or min(places[1::2]) <= 0:
        return False
    columns = _columns(places)
    if abs(np.linalg.det(columns)) < 1e-3:
        return False
    return bool((np.linalg.solve(columns, _xyz(*places[:2])) > 0).all())


def _profile_unless_srgb(places: Chromaticities, exponent: float | None, gray: bool) -> bytes | None:
    same = gray or max(abs(a - b) for a, b in zip(places, SRGB, strict=True)) <= _SAME_PLACE
    return None if same and exponent is None else profile(places, exponent, gray)


# ---- ICC profiles ----------------------------------------------------------------------------------------------------


def profile(places: Chromaticities, exponent: float | None, gray: bool = False) -> bytes:
    """An ICC profile (ICC.1:2022) of a display with these primaries, the same bytes at any time.

    Header (128 bytes), u32 number of tags, for each 4 letters, u32 offset, u32 size; then their data at multiples of 4.

    Args:
        places: white and primaries.
        exponent: of the curve from samples to light; None for the curve of sRGB.
        gray: one channel, of which only the curve counts.
    """
    white = _xyz(*places[:2])
    adapted = _BRADFORD @ white
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / adapted) @ _BRADFORD
    columns = _columns(places)
    columns = adaptation @ (columns * np.linalg.solve(columns, white))
    kind, values = (0, (exponent,)) if exponent is not None else (3, _SRGB_CURVE)
    curve = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(*values)
    tags = [(b"desc", _text("RGB" if exponent is None else f"gamma {exponent:.4g}")), (b"cprt", _text("CC0"))]
    tags += [(b"wtpt", b"XYZ " + bytes(4) + _fixed(*_D50)), (b"chad", b"sf32" + bytes(4) + _fixed(*adaptation.ravel()))]
    if gray:
        tags.append((b"kTRC", curve))
    else:
        tags += [
            (letter + b"XYZ", b"XYZ " + bytes(4) + _fixed(*columns[:, k]))
            for k, letter in enumerate((b"r", b"g", b"b"))
        ]
        tags += [(letter + b"TRC", curve) for letter in (b"r", b"g", b"b")]
    return _file(tags, b"GRAY" if gray else b"RGB ")


def _file(tags: list[tuple[bytes, bytes]], space: bytes) -> bytes:
    start, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), bytearray()
    places: dict[bytes, int] = {}  # the three curves are one
    for name, body in tags:
        if body not in places:
            places[body] = start + len(data)
            data += body + bytes(-len(body) % 4)
        table += struct.pack(">4sII", name, places[body], len(body))
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4sIQI12s4s16s28s",
        start + len(data), b"", 0x04300000, b"mntr", space, b"XYZ ", _DATE, b"acsp", b"", 0, b"", 0, 0, 0,
        _fixed(*_D50), b"", b"", b"",
    )  # fmt: skip
    return header + table + bytes(data)


def _fixed(*values: float) -> bytes:
    """Numbers as s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    """A text in one language, as multiLocalizedUnicode."""
    body = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(body), 28) + body


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    """A chromaticity as X, Y and Z, with Y = 1."""
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _columns(places: Chromaticities) -> NDArray[np.float64]:
    """X, Y and Z of the three primaries, [3, 3], a column each."""
    return np.stack([_xyz(*places[2 * k : 2 * k + 2]) for k in (1, 2, 3)], axis=1)
