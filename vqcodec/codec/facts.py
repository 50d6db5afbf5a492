# SPDX-License-Identifier: MIT
"""What a file says about itself, without decoding it."""

from __future__ import annotations

from vqcodec.bitstream import container, patches
from vqcodec.errors import DamagedError
from vqcodec.options import DEFAULT_MAX_PIXELS


def patched_blocks(data: bytes, layout: container.Layout) -> int | None:
    """Blocks of 32 x 32 pixels that are kept without loss; None where that cannot be read."""
    section = next((section for section in layout.sections() if section.kind == container.PATCHES), None)
    if section is None:
        return 0
    header = layout.header
    if header.width * header.height > DEFAULT_MAX_PIXELS:
        return None
    try:
        body = container.read_section(data, layout, section)
        return int(patches.read(body, header.width, header.height).mask.sum())
    except DamagedError:
        return None


def denoised(data: bytes, layout: container.Layout) -> float | None:
    """Levels of noise that were removed before coding, 0 for none; None where that cannot be read."""
    section = next((section for section in layout.sections() if section.kind == container.NOISE), None)
    try:
        return 0.0 if section is None else container.noise_level(container.read_section(data, layout, section))
    except DamagedError:
        return None


def describe(layout: container.Layout) -> dict[str, int | float | bool | str | None]:
    """Returns what `vqcodec info` shows, ready for JSON; a size is None where the section is absent.

    `header_bytes`, `checksum_bytes` and the sizes of the sections add up to `file_bytes`.
    """
    header, lengths = layout.header, layout.lengths
    pixels = header.width * header.height
    base_bytes = sum(lengths.base)
    refinement_bytes = None if lengths.refinement is None else sum(lengths.refinement)
    return {
        "format_version": container.VERSION,
        "width": header.width,
        "height": header.height,
        "gray": header.gray,
        "srgb": header.srgb,
        "quality": header.quality,
        "tune": header.tune,
        "model": header.model.hex(),
        "tile_side": header.tile_side,
        "tile_columns": header.columns,
        "tile_rows": header.rows,
        "tiles": header.tile_count,
        "file_bytes": layout.file_size_bytes,
        "header_bytes": layout.header_size_bytes,
        "checksum_bytes": layout.checksum_size_bytes,
        "colour_bytes": lengths.colour,
        "base_bytes": base_bytes,
        "refinement_bytes": refinement_bytes,
        "alpha_bytes": lengths.alpha,
        "icc_bytes": lengths.icc,
        "exif_bytes": lengths.exif,
        "xmp_bytes": dict(lengths.further).get(container.KIND_XMP),
        "patches_bytes": dict(lengths.further).get(container.KIND_PATCHES),
        "noise_bytes": dict(lengths.further).get(container.KIND_NOISE),
        "further_bytes": sum(size for kind, size in lengths.further if kind not in container.FURTHER) or None,
        "bpp": 8 * layout.file_size_bytes / pixels,
        "base_bpp": 8 * base_bytes / pixels,
        "refinement_bpp": None if refinement_bytes is None else 8 * refinement_bytes / pixels,
    }
