# SPDX-License-Identifier: MIT
"""The trained priors -> integer tables: layer by layer, on samples, the float network and the integer one side by side.

Samples are crops that the codec has coded: base indices, the contexts that the float prior left, qualities. A layer
is to bring the integer network's stream to where the float network's is. Places count by the precision that the
entropy coder needs there, 1 / scale**2: smooth places at high quality count most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.bitstream.codebook import LATENT_BITS
from vqcodec.bitstream.quality import anchor_weights, quality_level
from vqcodec.errors import ModelError
from vqcodec.model.layers import (
    ACTIVE,
    FINER,
    FRACTION,
    LIMIT,
    ROOM,
    SIGNED,
    Depthwise,
    Linear,
    Range,
    leaky,
    pair,
    rounded,
)
from vqcodec.model.prior import (
    CLASS_ORIGIN,
    CLASSES_PER_OCTAVE,
    CONTEXT_BITS,
    FACTOR_BITS,
    MAX_CONTEXT_SCALE,
    MEAN_BITS,
    PLACE_LIMIT,
    PLACES_PER_OCTAVE,
    STRENGTH_BITS,
    UNIT_BITS,
    quarter,
)
from vqcodec.train.codec import Codec
from vqcodec.train.finish import Report, Sample, quiet
from vqcodec.train.graph import array
from vqcodec.train.layers import SLOPE
from vqcodec.train.layers import Block as FloatBlock
from vqcodec.train.losses import gaussian_bits
from vqcodec.train.prior import BasePrior, PriorStep, checkerboard
from vqcodec.train.quantise import Quantisation
from vqcodec.train.rounding import (
    PEAK,
    Array,
    Floats,
    Tables,
    as_pairs,
    best_unit,
    filling_unit,
    pair_table,
    round_depthwise,
    round_linear,
)

CONTEXT_MARGIN = 1.1  # of the largest context seen
MOST_WEIGHT, LEAST_WEIGHT = 50.0, 0.02  # of a place, relative to the average
LARGEST_SUM = 0.4 * ROOM * 2.0**-FRACTION  # of a layer's products in units of its output, for the largest inputs seen
BRANCH_SHARE = 0.85  # of the room for sums, which a branch may fill: its bias and what rounding adds have the rest
MOST_CROPS = 24  # of 384 x 384 pixels; 96 made files no smaller (docs/decisions/0062)
BASE_BITS = 7.0  # of an index of the base layer
COARSER = 5  # tries of a layer's unit, each twice as coarse
BASE_PAIRS = True  # pairs of codes throughout the base net, which runs once, and for its features
STEP_PAIRS = True  # pairs of codes into `enter`, `expand` and `out` of the steps


@dataclass
class _Crops:
    """Coded crops of one size."""

    rows: list[int]  # of the tables, of each crop (`Setting.row`)
    base: Tensor  # [B, h, w] base indices
    latents: Tensor  # [B, M, h, w]
    lagrangian: Tensor  # [B]

    @classmethod
    def of(cls, model: Codec, samples: Sequence[Sample]) -> _Crops:
        latents = torch.from_numpy(np.stack([sample.latents for sample in samples])).float().permute(0, 3, 1, 2)
        levels = torch.tensor([quality_level(sample.setting.quality) for sample in samples])
        base = torch.from_numpy(np.stack([sample.base for sample in samples]))
        return cls([sample.setting.row for sample in samples], base, latents, model.lambda_of(levels))


def _flat(x: Tensor) -> Array:
    """[B, C, h, w] -> [B h w, C]."""
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy())


def _in_units(x: Tensor, unit: Floats) -> Array:
    """[B, C, h, w] -> [B h w, C], each channel in its unit."""
    return np.asarray(_flat(x) / unit.astype(np.float32), np.float32)


def _taps(x: Array, grid: tuple[int, int, int]) -> Array:
    """[n, C] -> [C, n, 9], what stands around each place."""
    b, h, w = grid
    padded = np.zeros((x.shape[1], b, h + 2, w + 2), np.float32)
    padded[:, :, 1:-1, 1:-1] = x.T.reshape(-1, b, h, w)
    taps = [padded[:, :, i : i + h, j : j + w].reshape(-1, len(x)) for i in range(3) for j in range(3)]
    return np.stack(taps, -1)


def _matrix(conv: nn.Conv2d) -> Floats:
    return array(conv.weight).reshape(conv.weight.shape[0], -1)


def _over_tiles(layer: Depthwise, codes: Array, grid: tuple[int, int, int]) -> Array:
    tiles = codes.reshape(*grid, -1)
    return np.concatenate([layer(tile).reshape(-1, codes.shape[1]) for tile in tiles])


@dataclass
class _Walk:
    """Rounds networks in the order in which they run."""

    out: Tables
    grid: tuple[int, int, int]  # B, h, w of the samples
    weights: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # of the places, [n]

    def linear(self, name: str, weight: Floats, x: Array, y: Array, kept: NDArray[np.int64] | None = None) -> Array:
        """Round a linear layer; what the integer layer gives."""
        weights = self.weights if kept is None else self.weights[kept]
        round_linear(self.out, name, weight, x, y, weights)
        return Linear.load(self.out, name, added=0)(x)

    def branch(
        self, name: str, weight: Floats, x: Array, y: Array, kind: Range, kept: NDArray[np.int64] | None = None
    ) -> Array:
        """The same for a layer that takes codes of this range and is added to a stream; its sums have room for that."""
        weights = self.weights if kept is None else self.weights[kept]
        room = (ROOM * 2.0**-FRACTION - LIMIT) * BRANCH_SHARE
        round_linear(self.out, name, weight, x, y, weights, room / kind.magnitude)
        return Linear.load(self.out, name, kind)(x)

    def unit(self, x: Tensor, *blocks: FloatBlock) -> Floats:
        """The unit of a stream from `x` on through blocks, not so fine that sums could leave their range."""
        values, least = [_flat(x)], np.zeros(x.shape[1])
        for block in blocks:
            layers = [(block.leave, block.depthwise(F.leaky_relu(block.enter(x), SLOPE)))]
            if block.ffn:
                layers.append((block.reduce, F.leaky_relu(block.expand(x + block.leave(layers[0][1])), SLOPE)))
            for layer, given in layers:
                x = x + layer(given)
                values.append(_flat(x))
                least = np.maximum(least, np.abs(_matrix(layer)) @ array(given.abs().amax((0, 2, 3))) / LARGEST_SUM)
        return np.maximum(best_unit(values, [self.weights] * len(values), SIGNED), least)

    def active(self, name: str, conv: nn.Conv2d, x: Tensor, codes: Array, unit: Floats) -> tuple[Array, Floats, Tensor]:
        """Round a layer that ends in the leaky rectifier: the integer layer's output behind it, unit, float output."""
        wanted = conv(x)
        values = _flat(F.leaky_relu(wanted, SLOPE))
        weight = as_pairs(_matrix(conv) * unit, codes.shape[1])
        out_unit = filling_unit(
            best_unit([values], [self.weights], ACTIVE), weight, float((codes[::7] ** 2).mean(0).sum())
        )
        for tried in range(COARSER):  # until the sums have room: weights that had little to learn from can be large
            try:
                given = self.linear(name, weight / out_unit[:, None], codes, _in_units(wanted, out_unit))
                break
            except ModelError:
                if tried + 1 == COARSER:
                    raise
                out_unit = 2 * out_unit
        return leaky(given), out_unit, F.leaky_relu(wanted, SLOPE)

    def depthwise(
        self, name: str, conv: nn.Conv2d, x: Tensor, codes: Array, unit: Floats, out_unit: Floats | None = None
    ) -> tuple[Array, Floats, Tensor]:
        """Round a depthwise layer: codes, their unit (`out_unit`, if given), float output."""
        wanted = conv(x)
        values = _flat(wanted)
        weight = _matrix(conv) * unit[:, None]
        if out_unit is None:
            power = 9 * float((codes[::7] ** 2).mean())
            out_unit = filling_unit(best_unit([values], [self.weights], SIGNED), weight, power)
        third = slice(None, None, 3)  # of the crops: nine taps take memory
        b, h, w = self.grid
        some = codes.reshape(b, -1)[third].reshape(-1, codes.shape[1])
        targets = _in_units(wanted, out_unit).reshape(b, -1)[third].reshape(-1, codes.shape[1])
        around = _taps(some, (len(some) // (h * w), h, w))
        weights = self.weights.reshape(b, -1)[third].ravel()
        round_depthwise(self.out, name, weight / out_unit[:, None], around, targets.T, weights)
        return _over_tiles(Depthwise.load(self.out, name), codes, self.grid), out_unit, wanted

    def block(
        self, name: str, block: FloatBlock, x: Tensor, stream: Array, unit: Floats, *, pairs: bool, wide_pairs: bool,
        kept: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Array]:  # fmt: skip
        """Round a residual block.

        Args:
            x, stream: what goes in, float [B, C, h, w] and integer [n, C] in `unit` [C].
            pairs: pairs of codes into `enter` and `expand`.
            wide_pairs: pairs of codes into `reduce`.
            kept: positions that the rest needs, of the n; None for all.

        Returns:
            what comes out; the integer stream at the positions kept.
        """
        take = pair if pairs else rounded
        inner, inner_unit, wanted = self.active(f"{name}.enter", block.enter, x, take(stream), unit)
        codes, codes_unit, wanted = self.depthwise(
            f"{name}.depthwise", block.depthwise, wanted, rounded(inner, ACTIVE), inner_unit
        )
        x = x + block.leave(wanted)
        target = _in_units(x, unit)
        if kept is not None:
            codes, stream, target = codes[kept], stream[kept], target[kept]
        weight = _matrix(block.leave) * codes_unit / unit[:, None]
        stream = stream + self.branch(f"{name}.leave", weight, codes, target - stream, SIGNED, kept)
        stream = np.clip(stream, -LIMIT, LIMIT)
        if block.ffn:
            assert kept is None
            wide, wide_unit, wanted = self.active(f"{name}.expand", block.expand, x, take(stream), unit)
            codes = pair(wide, ACTIVE) if wide_pairs else rounded(wide, ACTIVE)
            x = x + block.reduce(wanted)
            weight = as_pairs(_matrix(block.reduce) * wide_unit / unit[:, None], codes.shape[1])
            target = _in_units(x, unit)
            stream = stream + self.branch(f"{name}.reduce", weight, codes, target - stream, ACTIVE)
            stream = np.clip(stream, -LIMIT, LIMIT)
        return x, stream


def _filled(weight: Floats) -> Floats:
    """Units of outputs [O] for which the largest weight of a row is 2**-FRACTION * PEAK."""
    unit: Floats = np.maximum(np.abs(weight).max(1), 1e-12) / PEAK * 2.0**FRACTION
    return unit


def _all_rows(model: Codec) -> Floats:
    """Weights of the anchors for each row of the tables, [100 tunes, R]."""
    per_tune = np.stack([anchor_weights(quality_level(quality), model.config.anchors) for quality in range(1, 101)])
    rows: Floats = np.kron(np.eye(len(model.config.tunes)), per_tune).astype(np.float64)
    return rows


def _precision(
    model: Codec, hats: Tensor, contexts: Tensor, features: Tensor, step_size: Tensor, bits: Tensor
) -> list[Array]:
    """For each step the weights of the places, [n]: what an error costs there, as a share of the crop's bits [B].

    The cost of an error of a mean is 1 / scale**2 times its square, averaged over the chunk's channels.
    """
    found, before = [], None
    sigma = model.prior.sigma[:, None, None]
    for step in model.prior.steps:
        _, scale, before = step(_known(step, contexts), features, hats, before)
        floor = 0.5 * step_size[:, step.channels] / sigma[step.channels]
        precision = ((1 / torch.maximum(2.0**scale, floor).square()).mean(1) / bits[:, None, None]).reshape(-1)
        found.append(np.clip((precision / precision.mean()).numpy(), LEAST_WEIGHT, MOST_WEIGHT))
    return found


def _known(step: PriorStep, contexts: Tensor) -> Tensor:
    """What a step knows of the contexts [B, M, h, w]: [B, seen, h, w]."""
    if not step.parity:
        return contexts[:, : step.seen]
    first = checkerboard(contexts.shape[2], contexts.shape[3], contexts.device)
    here = torch.where(first, contexts[:, step.channels], 0.0)
    return torch.cat([contexts[:, : step.channels.start], here], 1)


@torch.no_grad()
def prior_tables(model: Codec, base_prior: BasePrior, samples: Sequence[Sample], report: Report = quiet) -> Tables:
    """The integer tables of both priors, docs/FORMAT.md; `tables.*`, the frequency tables, are counted afterwards.

    Args:
        samples: crops of one size, from `finish.analysed`.
        report: told how far it is.
    """
    samples = samples[:MOST_CROPS]
    out: Tables = {}
    crops, codebook, p = _Crops.of(model, samples), model.quantiser.codebook, model.prior
    out["codes"], code_unit = pair_table(array(codebook))
    b, h, w = crops.base.shape
    walk = _Walk(out, (b, h, w))
    rows = _all_rows(model)
    hats = torch.from_numpy(rows[crops.rows]).float()
    code = codebook[crops.base].permute(0, 3, 1, 2)
    features, base_mean = p.base(code)
    step_size = model.step_size(hats)
    worth = (hats @ model.choice * crops.lagrangian)[:, None, None, None] / 3 * step_size.square()
    by_place = step_size * torch.exp2(p.log2_place(features, hats))
    latents, indices, scale = p(crops.latents, features, base_mean, by_place, hats, Quantisation.CHOICE, worth)
    contexts = (latents - base_mean) / p.sigma[:, None, None]
    bits = gaussian_bits(indices, scale).sum((1, 2, 3)) + BASE_BITS * h * w
    precision = _precision(model, hats, contexts, features, by_place, bits)
    walk.weights = np.mean(precision, 0)
    pairs = out["codes"].astype(np.float32)[crops.base.reshape(-1).numpy()]
    stream, unit = _base_net(walk, model, code, pairs, code_unit, rows)
    out["prior.ratio"], out["prior.step_size"] = _ratios(model, rows)
    _refinement(walk, model, contexts, features, stream, unit, rows, crops.rows, precision, report)
    out["prior.chunks"] = np.array(p.chunks, np.int32)
    out["prior.halves"] = np.array(p.halves, np.int32)
    _base_prior(out, base_prior, codebook, code_unit, crops.base)
    return out


def _ratios(model: Codec, rows: Floats) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the scales for each row of the tables, and the steps: both [rows, M]."""
    step_size = np.maximum(1, np.rint(np.exp(rows @ array(model.log_step)) * 2.0**LATENT_BITS))
    octaves = np.log2(array(model.prior.sigma) * 2.0**LATENT_BITS) - np.log2(step_size)
    ratio = CLASSES_PER_OCTAVE * (octaves - CLASS_ORIGIN) * 2.0**FRACTION
    return np.rint(ratio).astype(np.int32), step_size.astype(np.int32)


def _base_net(
    walk: _Walk, model: Codec, code: Tensor, pairs: Array, code_unit: Floats, rows: Floats
) -> tuple[Array, Floats]:
    """Features of the base layer, as an integer stream [n, N], and its unit."""
    p, out = model.prior, walk.out
    x = p.enter(code)
    unit = walk.unit(x, *p.blocks)
    weight = as_pairs(_matrix(p.enter) * code_unit / unit[:, None], pairs.shape[1])
    stream = walk.linear("prior.enter", weight, pairs, _in_units(x, unit))
    stream = np.clip(stream, -LIMIT, LIMIT)
    for i, block in enumerate(p.blocks):
        x, stream = walk.block(f"prior.blocks.{i}", block, x, stream, unit, pairs=BASE_PAIRS, wide_pairs=BASE_PAIRS)
    codes = pair(stream) if BASE_PAIRS else rounded(stream)
    weight = as_pairs(_matrix(p.base_mean) * unit, codes.shape[1])
    free = _filled(weight)
    out["prior.unit"] = np.maximum(1, np.rint(unit * 2.0**UNIT_BITS)).astype(np.int32)
    walk.linear("prior.base_mean", weight / free[:, None], codes, _in_units(p.base_mean(x), free))
    out["prior.base_scale"] = np.rint(free * array(p.sigma) * 2.0 ** (LATENT_BITS + MEAN_BITS)).astype(np.int32)
    if p.by_place.any():
        weight = as_pairs(_matrix(p.activity) * unit, codes.shape[1])
        walk.linear("prior.activity", weight, codes, _flat(p.activity(x)))
        strength = rows @ array(p.place_strength * p.by_place)
        out["prior.strength"] = np.rint(strength * 2.0**STRENGTH_BITS).astype(np.int32)
        octaves = np.arange(-PLACE_LIMIT, PLACE_LIMIT + 1) / PLACES_PER_OCTAVE
        out["prior.factors"] = np.rint(2.0 ** (octaves + FACTOR_BITS)).astype(np.int32)
    return stream, unit


def _refinement(
    walk: _Walk, model: Codec, contexts: Tensor, features: Tensor, stream: Array, unit: Floats, rows: Floats,
    chosen: list[int], precision: list[Array], report: Report,
) -> None:  # fmt: skip
    """All steps."""
    out, (b, h, w) = walk.out, walk.grid
    sigma = array(model.prior.sigma)
    largest = contexts.abs().amax((0, 2, 3)).double().numpy()
    context_unit = np.maximum(largest, 2.0) * CONTEXT_MARGIN / (255 + SIGNED.low)
    one = 2.0 ** (CONTEXT_BITS - LATENT_BITS) / sigma
    context_unit = np.maximum(context_unit, one / MAX_CONTEXT_SCALE)  # channels that hardly ever say anything
    scale = one / context_unit
    out["prior.context_scale"] = np.rint(scale).astype(np.int32)
    base_codes = pair(stream) if BASE_PAIRS else rounded(stream)
    hat = torch.from_numpy(rows[chosen]).float()
    before: Tensor | None = None
    before_codes, before_unit = np.zeros((len(stream), 0), np.float32), np.zeros(0)
    for number, step in enumerate(model.prior.steps):
        report("rounding the priors", (number + 1) / (len(model.prior.steps) + 2))
        name, seen, known = f"prior.steps.{number}", step.seen, _known(step, contexts)
        walk.weights = precision[number]
        joined = step.base(features)
        weights = [as_pairs(_matrix(step.base) * unit, base_codes.shape[1])]
        codes = [base_codes]
        if step.context is not None:
            joined = joined + step.context(known)
            both = _matrix(step.context) * context_unit[:seen]
            weights.append(np.stack([both, both / FINER], 2).reshape(len(both), -1))
            found = pair(_in_units(known, context_unit[:seen]))
            codes.append(found.reshape(-1, 2, seen).transpose(0, 2, 1).reshape(-1, 2 * seen))
        if step.carry is not None and before is not None:
            joined = joined + step.carry(before)
            weights.append(_matrix(step.carry) * before_unit)
            codes.append(before_codes)
        x = joined + (hat @ step.quality)[:, :, None, None]
        step_unit = walk.unit(x, step.block1, step.block2)
        weight = np.concatenate(weights, 1) / step_unit[:, None]
        target = _in_units(joined, step_unit)
        now = walk.linear(f"{name}.join", weight, np.concatenate(codes, 1), target).reshape(b, h * w, -1)
        quality = np.rint(rows @ array(step.quality) / step_unit * 2.0**FRACTION)
        out[f"{name}.quality"] = quality.astype(np.int32)
        added = (quality[chosen] * 2.0**-FRACTION).astype(np.float32)
        now = np.clip(now + added[:, None], -LIMIT, LIMIT).reshape(len(stream), -1)
        before, now = walk.block(f"{name}.block1", step.block1, x, now, step_unit, pairs=STEP_PAIRS, wide_pairs=True)
        before_codes, before_unit = rounded(now), step_unit
        places = (np.indices((h, w)).sum(0) % 2 == (step.parity or 0)) | (step.parity is None)
        kept = np.flatnonzero(np.broadcast_to(places, (b, h, w))).astype(np.int64)
        x, now = walk.block(
            f"{name}.block2", step.block2, before, now, step_unit, pairs=STEP_PAIRS, wide_pairs=False, kept=kept
        )
        codes_out = pair(now) if STEP_PAIRS else rounded(now)
        weight = as_pairs(_matrix(step.out) * step_unit, codes_out.shape[1])
        free = _filled(weight)
        count = len(free) // 2
        free[count:] = 1 / CLASSES_PER_OCTAVE
        target = _in_units(step.out(x), free)[kept]
        walk.linear(f"{name}.out", weight / free[:, None], codes_out, target, kept)
        mean_scale = free[:count] * sigma[step.channels] * 2.0 ** (LATENT_BITS + MEAN_BITS)
        out[f"{name}.mean_scale"] = np.rint(mean_scale).astype(np.int32)


def _base_prior(out: Tables, prior: BasePrior, codebook: Tensor, code_unit: Floats, base: Tensor) -> None:
    """The base layer's prior, on all four passes of a part of the samples."""
    base = base[:24]
    b, h, w = base.shape
    masks = [torch.from_numpy(quarter(h, w, number)) for number in range(4)]
    known = torch.stack([torch.stack([torch.zeros_like(masks[0]), *masks[:n]]).any(0) for n in range(4)])
    code = (codebook[base].permute(0, 3, 1, 2)[None] * known[:, None, None]).flatten(0, 1)
    codes = out["codes"].astype(np.float32)[base.numpy()][None] * known[:, None, :, :, None].numpy()
    codes = codes.reshape(-1, codes.shape[-1])
    walk = _Walk(out, (4 * b, h, w), np.ones(4 * b * h * w, np.float32))
    joined = prior.enter(code)
    passes = prior.passes.repeat_interleave(b, 0)[:, :, None, None]
    values = _flat(F.leaky_relu(joined + passes, SLOPE))
    weight = as_pairs(_matrix(prior.enter) * code_unit, codes.shape[1])
    unit = best_unit([values], [walk.weights], ACTIVE)
    stream = walk.linear("base_prior.enter", weight / unit[:, None], codes, _in_units(joined, unit))
    offset = np.rint(array(prior.passes) / unit * 2.0**FRACTION)
    out["base_prior.passes"] = offset.astype(np.int32)
    stream = stream + np.repeat((offset * 2.0**-FRACTION).astype(np.float32), b * h * w, 0)
    x = F.leaky_relu(joined + passes, SLOPE)
    block_unit = walk.unit(prior.spread(x), *prior.blocks)
    codes = rounded(leaky(stream), ACTIVE)
    stream, unit, x = walk.depthwise("base_prior.spread", prior.spread, x, codes, unit, block_unit)
    for i, block in enumerate(prior.blocks):
        x, stream = walk.block(f"base_prior.blocks.{i}", block, x, stream, unit, pairs=False, wide_pairs=False)
    where = torch.stack(masks).repeat_interleave(b, 0).reshape(-1).numpy()
    walk.weights = walk.weights[where]
    walk.linear("base_prior.out", _matrix(prior.out) * unit, rounded(stream[where]), _flat(prior.out(x))[where])
