# SPDX-License-Identifier: MIT
"""Encode and decode: the whole way, both directions.

    picture -> tiles -> analysis -> base indices + refinement indices -> priors -> range coder -> container
    container -> range coder + priors -> indices -> latents -> synthesis (with halos) -> picture

Both directions walk the priors with the same code (`_walk_base`, `_walk_refinement`); what differs is whether the
indices of a step are chosen and written, or read. Files, options and people are the command line's affair (cli.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqcodec import container, image, metadata, zoo
from vqcodec.codebook import (
    BASE_ONLY_QUALITY,
    LATENT_BITS,
    MAX_INDEX,
    MAX_QUALITY,
    Floats,
    Ints,
    dequantise,
    quantise,
)
from vqcodec.entropy import ClassTables, Decoder, Encoder
from vqcodec.errors import DamagedError, ModelError, UsageError
from vqcodec.image import DEFAULT_MAX_PIXELS, Picture
from vqcodec.prior import Step, checkerboard, quarter
from vqcodec.refine import PLANS, refine
from vqcodec.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.zoo import Model

DEFAULT_QUALITY = 75
DEFAULT_EFFORT = 5
TILE_LOG2 = 10

# Chooses or reads the indices of one step: (step, positions, means, classes) -> indices
Chooser = Callable[[Step, NDArray[np.bool_], Floats, Ints], Ints]
ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]


class Indices(NamedTuple):
    """The codebook indices of a picture: all that a .vqc file says of its pixels.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=1)
        >>> found = vqcodec.indices(data)
        >>> found.base.shape, found.refinement is None
        ((3, 7), True)
    """

    base: NDArray[np.int32]  # [ceil(H/16), ceil(W/16)], in [0, codebook size)
    refinement: NDArray[np.int32] | None  # [ceil(H/16), ceil(W/16), latent channels]; None in a base-only file


def _walk_base(model: Model, shape: tuple[int, int], visit: Callable[[NDArray[np.bool_], Ints], Ints]) -> Ints:
    """Go through the base layer's four passes; `visit(positions, frequencies)` gives the indices of each: [h, w]."""
    indices, known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number in range(4):
        where = quarter(*shape, number)
        if where.any():
            indices[where] = visit(where, model.base_prior.frequencies(indices, known, number))
            known |= where
    return indices


def _walk_refinement(model: Model, base: Ints, quality: int, choose: Chooser) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    prior = model.prior
    features, base_mean = prior.base(model.codebook.values(base))
    latents, indices = base_mean.copy(), np.zeros(base_mean.shape, np.int64)
    known = np.zeros_like(base_mean)
    for step in prior.steps:
        where = checkerboard(base.shape[0], base.shape[1], step.half)
        mean, classes = prior.predict(step, known, features, base_mean, quality)
        chosen = choose(step, where, mean, classes)
        shrink = model.tables.reconstruction(chosen, classes)
        values = dequantise(chosen, mean, prior.step_size[quality - 1, step.channels], shrink)
        # Boolean index on the positions, slice on the channels
        latents[:, :, step.channels][where] = values
        indices[:, :, step.channels][where] = chosen
        around = base_mean[:, :, step.channels][where]
        known[:, :, step.channels][where] = prior.normalise(values, around, step.channels)
    return latents, indices


def cheapen(indices: Ints, t: Floats, classes: Ints, size: Floats, tables: ClassTables, lagrangian: float) -> None:
    """Take the next index towards zero wherever rate + lambda distortion gets smaller (in place).

    A unit of squared error of a latent is 1/768 of the mean squared error of its 256 pixels (the linear transform is
    close to orthonormal), so lambda per pixel weighs it with lambda / 3 in bits.

    Args:
        indices: [n, C] int64, the nearest indices; changed.
        t: [n, C] float64, the values in steps before rounding.
        classes: [n, C] int64 scale classes; size: [C] steps in units of 2**-LATENT_BITS.
        lagrangian: bits per pixel per unit of mean squared error.
    """
    weight = lagrangian / 3 * (size * 2.0**-LATENT_BITS) ** 2
    shrink, costs = tables.shrink * (1 / 256), tables.costs
    rows, columns = np.nonzero(indices)
    old, kind = indices[rows, columns], classes[rows, columns]
    place, sign = t[rows, columns], np.sign(old)

    def cost(index: Ints) -> Floats:
        value = index - sign * shrink[kind, np.minimum(np.abs(index), 2)]
        bits = costs[kind, np.clip(index, -256, 255) + 256]
        return np.asarray(bits + weight[columns] * (place - value) ** 2)

    new = old - sign
    indices[rows, columns] = np.where(cost(new) < cost(old), new, old)


@dataclass(frozen=True)
class _Chooser:
    """Chooses the refinement's indices in the encoder and writes them."""

    model: Model
    latents: Floats  # [h, w, M] from the analysis, real numbers
    quality: int
    effort: int
    coder: Encoder

    def __call__(self, step: Step, where: NDArray[np.bool_], mean: Floats, classes: Ints) -> Ints:
        size = self.model.prior.step_size[self.quality - 1, step.channels]
        indices, t = quantise(self.latents[:, :, step.channels][where], mean, size)
        indices[self.model.tables.limits[classes] == 0] = 0
        if self.effort >= 2:
            cheapen(indices, t, classes, size, self.model.tables, self.model.lagrangian(self.quality))
        self.coder.put_refinement(indices, classes, self.model.tables)
        return indices


def _encode_tile(
    model: Model,
    rgb: NDArray[np.uint8],
    latents: NDArray[np.float32],
    vectors: NDArray[np.float32],
    quality: int,
    effort: int,
) -> tuple[bytes, bytes | None, Ints, Ints | None]:
    """One tile: pixels [16 h, 16 w, 3], latents [h, w, M] and base vectors [h, w, D] -> payloads and indices."""
    h, w = latents.shape[:2]
    wanted = model.codebook.nearest(vectors.reshape(h * w, -1)).reshape(h, w)
    coder = Encoder()

    def put(where: NDArray[np.bool_], frequencies: Ints) -> Ints:
        coder.put_base(wanted[where], frequencies)
        return wanted[where]

    base = _walk_base(model, (h, w), put)
    payload = coder.finish()
    if quality == BASE_ONLY_QUALITY:
        return payload, None, base, None
    if effort in PLANS and model.gradient is not None:
        features, base_mean = model.prior.base(model.codebook.values(base))
        hat, size = model.analysis_hat(quality), model.prior.step_size[quality - 1]
        latents = refine(
            model.gradient, PLANS[effort], latents, rgb, features, base_mean, hat, size, model.lagrangian(quality)
        )
    chooser = _Chooser(model, latents.astype(np.float64), quality, effort, Encoder())
    _, indices = _walk_refinement(model, base, quality, chooser)
    return payload, chooser.coder.finish(), base, indices


def _decode_tile(
    model: Model, shape: tuple[int, int], quality: int, base: bytes, refinement: bytes | None
) -> tuple[NDArray[np.float32], Ints, Ints | None]:
    """One tile's payloads -> latents [h, w, M] float32 and the indices of both layers.

    Raises:
        DamagedError: the payloads do not decode under this model.
    """
    coder = Decoder(base)
    indices = _walk_base(model, shape, lambda _, frequencies: coder.get_base(frequencies))
    if not coder.exhausted():
        raise DamagedError("data is left over behind the base layer")
    scale = np.float32(2.0**-LATENT_BITS)
    if refinement is None:
        _, mean = model.prior.base(model.codebook.values(indices))
        return mean.astype(np.float32) * scale, indices, None
    reader = Decoder(refinement)
    latents, levels = _walk_refinement(
        model, indices, quality, lambda _s, _w, _m, classes: reader.get_refinement(classes, model.tables)
    )
    if not reader.exhausted():
        raise DamagedError("data is left over behind the refinement layer")
    return latents.astype(np.float32) * scale, indices, levels


def _padded(rgb: NDArray[np.uint8], window: Rect) -> NDArray[np.uint8]:
    """The pixels of a window given in latents; beyond the right and lower edge the last pixel is repeated."""
    s = LATENT_STRIDE
    part = rgb[window.y0 * s : window.y1 * s, window.x0 * s : window.x1 * s]
    down = (window.y1 - window.y0) * s - part.shape[0]
    right = (window.x1 - window.x0) * s - part.shape[1]
    return np.pad(part, ((0, down), (0, right), (0, 0)), "edge") if down or right else part


def _inside(window: Rect, tile: Rect) -> tuple[slice, slice]:
    """Where a tile lies in its window with halo."""
    return (
        slice(tile.y0 - window.y0, tile.y1 - window.y0),
        slice(tile.x0 - window.x0, tile.x1 - window.x0),
    )


def _check_options(quality: int, effort: int) -> None:
    if not (isinstance(quality, int) and BASE_ONLY_QUALITY <= quality <= MAX_QUALITY):
        raise UsageError(f"quality must be a whole number from 1 to 100, not {quality!r}")
    if not (isinstance(effort, int) and 1 <= effort <= 9):
        raise UsageError(f"effort must be a whole number from 1 to 9, not {effort!r}")


def _analyse(model: Model, rgb: NDArray[np.uint8], grid: Grid, tile: Tile, quality: int) -> Any:
    window = grid.with_halo(tile.latents, model.analysis_halo)
    y, z = model.analysis(_padded(rgb, window), model.analysis_hat(quality))
    rows, columns = _inside(window, tile.latents)
    return y[rows, columns], z[rows, columns]


def encode_picture(
    picture: Picture,
    quality: int = DEFAULT_QUALITY,
    *,
    effort: int = DEFAULT_EFFORT,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    strip: bool = False,
    tile_log2: int = TILE_LOG2,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Encode a loaded picture; see `encode`. `progress(done, tiles)` is called after each tile."""
    _check_options(quality, effort)
    files = zoo.find(model)
    loaded = zoo.load(files, threads)
    _ = loaded.analysis, effort in PLANS and loaded.gradient  # loaded here, before several threads ask for them
    height, width = picture.rgb.shape[:2]
    grid = Grid(width, height, 1 << tile_log2)

    def work(tile: Tile) -> tuple[bytes, bytes | None]:
        latents, vectors = _analyse(loaded, picture.rgb, grid, tile, quality)
        return _encode_tile(loaded, _padded(picture.rgb, tile.latents), latents, vectors, quality, effort)[:2]

    payloads = []
    for number, result in enumerate(_in_order(work, grid.tiles, threads)):
        payloads.append(result)
        if progress:
            progress(number + 1, grid.tile_count)
    refinement = None if quality == BASE_ONLY_QUALITY else tuple(r for _, r in payloads if r is not None)
    srgb = picture.icc is not None and metadata.is_srgb(picture.icc)
    return container.pack(
        container.Contents(
            header=container.Header(
                width, height, quality, files.checksum, picture.gray, tile_log2, srgb and not strip
            ),
            base=tuple(b for b, _ in payloads),
            refinement=refinement,
            alpha=None if picture.alpha is None else image.encode_alpha(picture.alpha),
            icc=None if srgb else picture.icc,  # not stripped: without it the colours would be others
            exif=None if strip else picture.exif,
            xmp=None if strip else picture.xmp,
        )
    )


def _in_order(work: Callable[[Tile], Any], tiles: Any, threads: int) -> Iterator[Any]:
    """Map over tiles, a few at a time in threads when there are several, results in order."""
    tiles = list(tiles)
    count = min(threads or os.cpu_count() or 1, len(tiles))
    if count <= 1:
        yield from map(work, tiles)
        return
    pool = ThreadPoolExecutor(count)
    try:
        pending = [pool.submit(work, tile) for tile in tiles[: 2 * count]]
        for following in range(2 * count, len(tiles) + 2 * count):
            result = pending.pop(0).result()
            if following < len(tiles):
                pending.append(pool.submit(work, tiles[following]))
            yield result
            if not pending:
                return
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C the tiles not begun are not worth waiting for


def encode(
    image_like: ImageLike,
    quality: int = DEFAULT_QUALITY,
    *,
    effort: int = DEFAULT_EFFORT,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    strip: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """Compress a picture to the bytes of a .vqc file.

    Args:
        image_like: a path, the bytes of a picture file, a PIL image, or a [H, W], [H, W, 3] or [H, W, 4] uint8 array.
        quality: 1 to 100; more is better and larger. 1 keeps the base layer alone.
        effort: 1 to 9; more is smaller and slower. Never changes what a decoder must do.
        threads: 0 for all processors.
        model: id or folder of a model; None for the default.
        strip: leave out EXIF and XMP, and a colour profile that says no more than sRGB.
        max_pixels: refuse larger pictures.

    Returns:
        the file's bytes; the same input and options give the same bytes.

    Raises:
        InputError: the picture cannot be read.
        LimitError: it has more than `max_pixels` pixels.
        ModelError: there is no such model.
        UsageError: quality or effort is out of range.

    Examples:
        >>> import numpy as np, vqcodec
        >>> photo = np.full((64, 96, 3), (200, 120, 40), np.uint8)
        >>> data = vqcodec.encode(photo, quality=75)
        >>> len(data) < photo.size / 50
        True
        >>> vqcodec.encode(photo, quality=101)
        Traceback (most recent call last):
        vqcodec.errors.UsageError: quality must be a whole number from 1 to 100, not 101
    """
    picture = image.load(image_like, max_pixels=max_pixels)
    return encode_picture(picture, quality, effort=effort, threads=threads, model=model, strip=strip)


def _opened(data: bytes, max_pixels: int, model: str | os.PathLike[str] | None, threads: int) -> Any:
    contents = container.unpack(data, max_pixels=max_pixels)
    loaded = zoo.load(zoo.by_checksum(contents.header.model, model), threads)
    header = contents.header
    return contents, loaded, Grid(header.width, header.height, 1 << header.tile_log2)


def _named(tile: Tile, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except DamagedError as error:
        raise DamagedError(f"tile {tile.index} (x {tile.pixels.x0}, y {tile.pixels.y0}): {error}") from None


def decode_picture(
    data: bytes,
    *,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Picture:
    """Decode to a `Picture`; see `decode`. `progress(done, tiles)` is called after each tile."""
    contents, loaded, grid = _opened(data, max_pixels, model, threads)
    header = contents.header
    _ = loaded.synthesis  # loaded here, before several threads ask for it
    base_only = contents.refinement is None
    hat = loaded.synthesis_hat(header.quality, base_only)

    def latents_of(tile: Tile) -> NDArray[np.float32]:
        shape = (tile.latents.y1 - tile.latents.y0, tile.latents.x1 - tile.latents.x0)
        refinement = None if base_only else contents.refinement[tile.index]
        base = contents.base[tile.index]
        result = _named(tile, lambda: _decode_tile(loaded, shape, header.quality, base, refinement))
        return np.asarray(result[0])

    rgb = np.empty((header.height, header.width, 3), np.uint8)
    rows = _TileRows(grid, latents_of, threads)

    def restore(tile: Tile) -> None:
        window = grid.with_halo(tile.latents, loaded.synthesis_halo)
        pixels = loaded.synthesis(rows.window(window), hat)
        top = (tile.latents.y0 - window.y0) * LATENT_STRIDE
        left = (tile.latents.x0 - window.x0) * LATENT_STRIDE
        p = tile.pixels
        rgb[p.y0 : p.y1, p.x0 : p.x1] = pixels[top : top + p.y1 - p.y0, left : left + p.x1 - p.x0]

    done = 0
    for row in range(grid.rows):
        rows.need(row)
        for _ in _in_order(restore, _row_tiles(grid, row), threads):
            done += 1
            if progress:
                progress(done, grid.tile_count)
    if header.gray:
        rgb[:] = np.rint(rgb.mean(2, keepdims=True)).astype(np.uint8)
    alpha = None
    if contents.alpha is not None:
        alpha = image.decode_alpha(contents.alpha, header.width, header.height)
    icc = metadata.srgb_profile() if header.srgb and not header.gray else contents.icc
    return Picture(rgb, alpha, header.gray, icc, contents.exif, xmp=contents.xmp)


def _row_tiles(grid: Grid, row: int) -> list[Tile]:
    return [grid.tile(row * grid.columns + column) for column in range(grid.columns)]


class _TileRows:
    """Decoded latents of three rows of tiles at a time: what the synthesis of the middle one needs with its halo."""

    def __init__(self, grid: Grid, latents_of: Callable[[Tile], NDArray[np.float32]], threads: int) -> None:
        self.grid, self.latents_of, self.threads = grid, latents_of, threads
        self.rows: dict[int, NDArray[np.float32]] = {}

    def need(self, row: int) -> None:
        """Have rows row - 1 .. row + 1 ready, and forget the others."""
        self.rows = {number: latents for number, latents in self.rows.items() if number >= row - 1}
        for number in range(max(0, row - 1), min(self.grid.rows, row + 2)):
            if number not in self.rows:
                tiles = _row_tiles(self.grid, number)
                parts = list(_in_order(self.latents_of, tiles, self.threads))
                self.rows[number] = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def window(self, window: Rect) -> NDArray[np.float32]:
        """Latents of a rectangle (in latents) that lies within the rows at hand."""
        side = self.grid.tile_side // LATENT_STRIDE
        parts = []
        for number in sorted(self.rows):
            top = number * side
            part = self.rows[number][max(0, window.y0 - top) : max(0, window.y1 - top), window.x0 : window.x1]
            if part.shape[0]:
                parts.append(part)
        return np.concatenate(parts, axis=0) if len(parts) > 1 else parts[0]


def decode(
    data: bytes,
    *,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """Restore the picture of a .vqc file.

    Args:
        data: the bytes of the file.
        threads: 0 for all processors; the indices are the same with any number.
        model: folder of a model that is not shipped, if the file was written with one.
        max_pixels: refuse larger pictures, before anything is allocated.

    Returns:
        a PIL image of mode L, LA, RGB or RGBA with its ICC profile, EXIF and XMP in `info`.

    Raises:
        DamagedError: it is not a .vqc file, or not as it was written.
        LimitError: the picture has more than `max_pixels` pixels.
        ModelError: the model that the file names is not there.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((64, 96, 3), (200, 120, 40), np.uint8))
        >>> picture = vqcodec.decode(data)
        >>> picture.mode, picture.size
        ('RGB', (96, 64))
        >>> vqcodec.decode(data[:-1])
        Traceback (most recent call last):
        vqcodec.errors.DamagedError: ...
    """
    return image.to_pil(decode_picture(data, threads=threads, model=model, max_pixels=max_pixels))


def indices(
    data: bytes,
    *,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Indices:
    """The codebook indices of a .vqc file, the same on every machine.

    Arguments and errors are those of `decode`.

    Returns:
        base indices [h, w] int32 and refinement indices [h, w, M] int32 (None in a base-only file), with h, w the
        picture's size over 16, rounded up.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=50)
        >>> base, refinement = vqcodec.indices(data)
        >>> base.shape, base.dtype, refinement.shape[:2]
        ((3, 7), dtype('int32'), (3, 7))
    """
    contents, loaded, grid = _opened(data, max_pixels, model, threads)
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None
    if contents.refinement is not None:
        refinement = np.empty((*base.shape, loaded.prior.latents), np.int32)

    def work(tile: Tile) -> tuple[Tile, Ints, Ints | None]:
        shape = (tile.latents.y1 - tile.latents.y0, tile.latents.x1 - tile.latents.x0)
        payload = None if contents.refinement is None else contents.refinement[tile.index]
        found = _named(
            tile,
            lambda: _decode_tile(loaded, shape, contents.header.quality, contents.base[tile.index], payload),
        )
        return tile, found[1], found[2]

    for tile, coarse, fine in _in_order(work, grid.tiles, threads):
        r = tile.latents
        base[r.y0 : r.y1, r.x0 : r.x1] = coarse
        if refinement is not None and fine is not None:
            assert np.abs(fine).max(initial=0) <= 2 * MAX_INDEX
            refinement[r.y0 : r.y1, r.x0 : r.x1] = fine
    return Indices(base, refinement)


def info(data: bytes) -> dict[str, Any]:
    """What the header of a .vqc file says (sizes in bytes, rates in bits per pixel), as a plain dict.

    Raises:
        DamagedError: not a .vqc file, or its header is damaged.

    Examples:
        >>> import numpy as np, vqcodec
        >>> facts = vqcodec.info(vqcodec.encode(np.zeros((40, 100, 3), np.uint8), quality=30))
        >>> facts["width"], facts["height"], facts["quality"], facts["model_id"]
        (100, 40, 30, 'photo-1')
    """
    found = container.describe(container.read_header(data))
    try:
        found["model_id"] = zoo.by_checksum(bytes.fromhex(str(found["model"]))).id
    except ModelError:
        found["model_id"] = None
    return found
