# SPDX-License-Identifier: MIT
"""The one walk over the priors. Encoder, decoder, the count of the tables and a model's try-out all take it.

What differs is what is done in a step: indices are chosen and written, or read, or counted. The refinement of a tile
depends on the base layer of the tile and of a few places around it, so that nothing breaks off where two tiles meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import LATENT_CLIP, Classes, Floats, Ints, dequantise
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.quality import Setting
from vqcodec.bitstream.tiles import Grid, Rect, Tile
from vqcodec.model.prior import PASSES, STEP_HALO, BasePrior, RefinementPrior, Step, checkerboard, quarter
from vqcodec.spans import span

# Chooses or reads the base indices of one pass: (positions [h, w], frequencies [n, K]) -> indices [n]
BaseChooser = Callable[[NDArray[np.bool_], Floats], Ints]


class Predicted(NamedTuple):
    """What the prior says of the latents of one step, at its n positions."""

    step: Step
    where: NDArray[np.bool_]  # [h, w], the positions
    means: Floats  # [n, C], 2**-LATENT_BITS
    classes: Classes  # [n, C]
    sizes: Floats  # [n, C] or [C] quantiser steps, 2**-LATENT_BITS

    def values(self, indices: Ints, tables: ClassTables | None) -> Floats:
        """Latents of indices [n, C] (2**-LATENT_BITS); few are not zero, and only these take work."""
        values: Floats = np.clip(self.means, -LATENT_CLIP, LATENT_CLIP)
        at = np.flatnonzero(indices)
        if not len(at):
            return values
        few, width = indices.ravel()[at], indices.shape[1]
        sizes = self.sizes[at % width] if self.sizes.ndim == 1 else self.sizes.ravel()[at]
        shrink = np.zeros(few.shape) if tables is None else tables.reconstruction(few, self.classes.ravel()[at])
        np.put(values, at, dequantise(few, self.means.ravel()[at], sizes, shrink))  # whatever the order in memory
        return values


# Chooses or reads the indices of one step: [n, C]
Chooser = Callable[[Predicted], Ints]


class Base(NamedTuple):
    """The base layer of a tile and of the places around it on which the refinement depends."""

    indices: Ints  # [h', w']
    tile: Rect  # where the tile lies in them

    @classmethod
    def of(cls, indices: NDArray[np.integer[Any]], grid: Grid, tile: Tile, halo: int) -> Base:
        """Of a tile of a picture with these indices, and `halo` latents around it, as far as there are some."""
        around = grid.with_halo(tile.latents, halo)
        return cls(indices[around.slices].astype(np.int64), tile.latents.relative_to(around))

    @classmethod
    def alone(cls, indices: Ints) -> Base:
        """Of a tile that is the whole picture."""
        return cls(indices, Rect(0, 0, indices.shape[1], indices.shape[0]))

    @property
    def inner(self) -> Ints:
        """The tile's own indices, [h, w]."""
        return self.indices[self.tile.slices]


@span("prior")
def walk_base(prior: BasePrior, shape: tuple[int, int], choose: BaseChooser) -> Ints:
    """Go through the base layer's four passes: indices [h, w] int64."""
    indices, known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number in range(PASSES):
        where = quarter(*shape, number)
        if where.any():
            indices[where] = choose(where, prior.frequencies(indices, known, number))
            known |= where
    return indices


@span("prior")
def walk_refinement(
    prior: RefinementPrior,
    tables: ClassTables | None,
    base: Ints,
    setting: Setting,
    choose: Chooser,
    tile: Rect | None = None,
) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Args:
        tables: say where in its bin an index stands; None: in the middle (before there are tables).
        base: [h', w'] base indices.
        setting: quality 2 to 100, and tune.
        tile: where the tile, [h, w], lies in `base`: `prior.halo` latents from its edges, or where the picture ends;
            None: it is all of it.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    whole = Rect(0, 0, base.shape[1], base.shape[0])
    tile = whole if tile is None else tile
    seen = tile.grown(STEP_HALO).intersection(whole)  # what lies around the tile is predicted with it, and dropped
    inner = tile.relative_to(seen).slices
    features, base_mean = prior.base(base)
    features, base_mean = np.ascontiguousarray(features[seen.slices]), base_mean[seen.slices]
    latents, indices = base_mean[inner].copy(), np.zeros((tile.height, tile.width, prior.latents), np.int64)
    known, before = prior.nothing_known((seen.height, seen.width)), None
    places = prior.places(features, setting.row)
    for step in prior.steps:
        channels = step.channels
        where, kept = _positions(seen, inner, step)
        mean, classes, before = prior.predict(step, known, features, base_mean, setting.row, places, before)
        sizes = prior.sizes(step, setting.row, places)
        mean, classes, sizes = mean[kept], classes[kept], sizes[kept] if sizes.ndim > 1 else sizes
        predicted = Predicted(step, where, mean, classes, sizes)
        chosen = choose(predicted)
        values = predicted.values(chosen, tables)
        # Boolean index on the positions, slice on the channels
        latents[:, :, channels][where] = values
        indices[:, :, channels][where] = chosen
        if step.number + 1 < len(prior.steps):
            above = values - base_mean[inner][:, :, channels][where]
            known[inner][:, :, 2 * channels.start : 2 * channels.stop][where] = prior.contexts(above, channels)
    return latents, indices


def _positions(seen: Rect, inner: tuple[slice, slice], step: Step) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The positions of a step in the tile [h, w], and which of those in all that is seen they are [n]."""
    positions, inside = checkerboard(seen.height, seen.width, step.half), np.zeros((seen.height, seen.width), bool)
    inside[inner] = True
    return positions[inner], inside[positions]


def given(indices: Ints) -> Chooser:
    """Gives indices [h, w, M] that are chosen already."""
    return lambda predicted: indices[:, :, predicted.step.channels][predicted.where]
