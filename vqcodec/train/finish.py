# SPDX-License-Identifier: MIT
"""After joint training: the base layer's prior on frozen indices, then the frequency tables counted on real ones.

The tables are counted with the rounded integer prior itself, walking pictures exactly as the codec does, so that what
is shipped describes what will be coded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.bitstream.codebook import Classes, Ints, quantise
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.quality import Setting, quality_level
from vqcodec.bitstream.range_coder import TOTAL
from vqcodec.codec.tradeoff import WEIGHTS, cheapen
from vqcodec.model.engines import Onnx, Plain
from vqcodec.model.prior import CLASS_ORIGIN, CLASSES_PER_OCTAVE, RefinementPrior
from vqcodec.model.walk import Predicted, walk_refinement
from vqcodec.train.codec import Codec
from vqcodec.train.data import BLOCK, Pictures
from vqcodec.train.prior import BasePrior, quarter
from vqcodec.train.prior_graph import prior_graphs
from vqcodec.train.steps import clip_gradients, phase_done, rate_factor

Report = Callable[[str, float], None]  # takes the name of what is done, and how much of it, a part of 1
MOST_CROPS = 3000  # that the base prior learns from, where it is not said
SPAN = 600  # indices beyond +-SPAN are counted at the edge
INDICES_AT_ONCE, MOST_MAPS = 12 * 28 * 28, 512  # in a step of the base prior's training: indices, and crops
MOST_FIRST = 32  # so many crops are enough for the first of two counts
STRIDE = 38  # from quality to quality, of 99: 99 less the golden section of it, so that any number spreads evenly
SKIP_BELOW = 3e-4  # a class whose indices are non-zero more rarely than this is not coded


class Sample(NamedTuple):
    """A crop as the analysis sees it."""

    setting: Setting
    latents: NDArray[np.float64]  # [h, w, M]
    base: NDArray[np.int64]  # [h, w] indices


def quiet(_what: str, _done: float) -> None:
    """Reports to nobody."""


@torch.no_grad()
def analysed(
    model: Codec, pictures: Pictures, count: int, size: int, seed: int, device: torch.device, report: Report = quiet
) -> list[Sample]:
    """Random crops through the analysis, the tunes in turn; the first few have qualities from 2 to 100 already."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        report(f"analysing {count:,} crops to count on", number / count)
        setting = Setting(2 + number * STRIDE % 99, number % len(model.config.tunes))
        x = pictures.crops(rng, 1, pictures.crop_size(size))
        level = torch.tensor([quality_level(setting.quality)], device=device)
        y, z = model.analysis(x, model.anchor_weights(level, torch.tensor([setting.tune], device=device)))
        index = model.quantiser(z).indices
        out.append(Sample(setting, y[0].permute(1, 2, 0).double().cpu().numpy(), index[0].cpu().numpy()))
    return out


def train_base_prior(
    model: Codec,
    pictures: Pictures,
    known: Tensor,
    minutes: float,
    seed: int = 1,
    crops: int | None = None,
    start: dict[str, Tensor] | None = None,
    report: Report = quiet,
    say: Callable[[str], object] = print,
) -> tuple[BasePrior, float]:
    """Train the base layer's prior on the indices of the frozen codebook.

    Args:
        model: in evaluation mode.
        known: [n, h, w] indices that are found already, of square crops.
        minutes: time for the training itself; finding the indices of more crops comes before. 0: none.
        crops: how many crops to learn from; None: as many as half of the training's time allows, up to MOST_CROPS.
        start: weights to go on from.
        report: told how far it is.
        say: takes a line now and then.

    Returns:
        the prior and its cost on held-out crops, bits per index.
    """
    torch.manual_seed(seed)
    device, rng = known.device, np.random.default_rng(seed)
    most, seconds = (MOST_CROPS, 30 * minutes) if crops is None else (crops, math.inf)
    indices = _base_indices(model, pictures, known, most, seconds, rng, report) if minutes else known
    count = min(40, len(indices) // 5)
    held_out, indices = indices[:count], indices[count:]
    maps = max(12, min(MOST_MAPS, INDICES_AT_ONCE // (indices.shape[1] * indices.shape[2])))  # many, of small pictures
    prior = _fresh_base_prior(model, indices).to(device)
    if start is not None:
        prior.load_state_dict(start)
    optimiser = torch.optim.AdamW(prior.parameters(), lr=2e-3, weight_decay=1e-3)
    begin = time.perf_counter()
    with torch.no_grad():
        best, state = float(_base_bits(model, prior, held_out)), {k: v.clone() for k, v in prior.state_dict().items()}
    step = 0
    while minutes and ((done := phase_done(step, 0, time.perf_counter() - begin, minutes)) < 1 or step < 2):
        report(f"training the base prior for {60 * minutes:.0f} s", done)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * rate_factor(step, done, 100, 0.02)
        batch = indices[torch.randint(len(indices), (maps,))]
        # Other sizes, but no turns: a codeword turned by 90 degrees is another codeword
        batch = batch[:, : int(rng.integers(8, 29)), : int(rng.integers(8, 29))]
        # The first pass knows nothing and learns little more than the codebook's histogram: now and then is enough.
        with torch.autocast(device.type, torch.bfloat16):
            loss = _base_bits(model, prior, batch, range(0 if step % 8 == 0 else 1, 4))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(prior.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 200 == 0 or step == 2 or done > 0.98:
            with torch.no_grad():
                bits = float(_base_bits(model, prior, held_out))
            if bits < best:
                best, state = bits, {k: v.clone() for k, v in prior.state_dict().items()}
            say(f"base prior step {step}: {float(loss.detach()):.3f} bits an index, held out {bits:.3f}")
    prior.load_state_dict(state)
    return prior, best


@torch.no_grad()
def _base_indices(
    model: Codec, pictures: Pictures, known: Tensor, most: int, seconds: float, rng: np.random.Generator, report: Report
) -> Tensor:
    """Base indices [crops, h, w]: `known` ones, then of random crops at random qualities; up to `most`, in time."""
    maps, begin = [known[:most]], time.perf_counter()
    for number in range(len(known), most, 8):
        done = max(number / most, (time.perf_counter() - begin) / seconds if seconds else 1.0)
        if done >= 1:
            break
        report("finding base indices to learn from", done)
        x = pictures.crops(rng, 8, BLOCK * known.shape[1])
        level = torch.from_numpy(rng.random(len(x), np.float32)).to(x.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            _, z = model.analysis(x, model.anchor_weights(level))
        maps.append(model.quantiser(z.float()).indices)
    return torch.cat(maps)


@torch.no_grad()
def _fresh_base_prior(model: Codec, indices: Tensor) -> BasePrior:
    """A base prior that starts with the frequencies of the indices, and little context."""
    prior = BasePrior(model.config)
    order0 = torch.bincount(indices.flatten(), minlength=model.config.codebook_size).float() + 1
    assert prior.out.bias is not None
    prior.out.bias.copy_(torch.log2(order0 / order0.sum()))
    prior.out.weight.mul_(0.1)
    return prior


def _base_bits(model: Codec, prior: BasePrior, indices: Tensor, passes: Iterable[int] = range(4)) -> Tensor:
    """Mean bits per index of [B, h, w], over the positions of the passes named."""
    code = model.quantiser.codebook[indices].permute(0, 3, 1, 2)
    h, w = indices.shape[1:]
    quarters = [quarter(h, w, number, indices.device) for number in range(4)]
    total, count = code.new_zeros(()), 0
    for number in passes:
        known = torch.stack([torch.zeros_like(quarters[0]), *quarters[:number]]).any(0)
        where = quarters[number]
        logits = prior(code * known, number, where).float().flatten(0, 1) * math.log(2)
        total = total + F.cross_entropy(logits, indices[:, where].flatten(), reduction="sum")
        count += len(logits)
    return total / math.log(2) / count


def class_scale(number: int) -> float:
    """Standard deviation of a scale class, in steps."""
    return float(2.0 ** (CLASS_ORIGIN + number / CLASSES_PER_OCTAVE))


class _Counts:
    """Histograms of indices by class, and where within their bins the values lay."""

    def __init__(self) -> None:
        self.histogram = np.zeros((64, 2 * SPAN + 1), np.int64)
        self.offset = np.zeros((64, 3))
        self.number = np.zeros((64, 3))

    def add(self, indices: NDArray[np.int64], t: NDArray[np.float64], classes: Classes) -> None:
        def of(column: Ints, width: int, weights: NDArray[np.float64] | None = None) -> NDArray[Any]:
            cell = (classes * np.int64(width) + column).ravel()
            return np.bincount(cell, None if weights is None else weights.ravel(), 64 * width).reshape(64, width)

        self.histogram += of(np.clip(indices, -SPAN, SPAN) + SPAN, 2 * SPAN + 1)
        magnitude = np.minimum(np.abs(indices), 2)
        self.offset += of(magnitude, 3, (indices - t) * np.sign(indices))
        self.number += of(magnitude, 3)

    def tables(self, limits: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """The shipped arrays `tables.limits`, `.counts`, `.shrink`."""
        symmetric = self.histogram + self.histogram[:, ::-1]
        if limits is None:
            limits = self._limits(symmetric)
        counts = [_frequencies(symmetric[i], i, int(limits[i])) for i in range(64) if limits[i]]
        shrink = np.where(self.number > 200, self.offset / np.maximum(self.number, 1), 0.0) * 256
        shrink[:, 0] = 0
        return {
            "tables.limits": limits.astype(np.int32),
            "tables.counts": np.concatenate(counts).astype(np.int32),
            "tables.shrink": np.clip(np.rint(shrink), 0, 100).astype(np.int16),
        }

    @staticmethod
    def _limits(symmetric: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.maximum(symmetric.sum(1), 1)
        rare = 1 - symmetric[:, SPAN] / total < SKIP_BELOW
        first = int(np.argmin(rare)) if not rare.all() else 63
        limits = np.array([min(255, math.ceil(5 * class_scale(i)) + 2) for i in range(64)], np.int64)
        limits[:first] = 0
        return limits


def _frequencies(symmetric: NDArray[np.int64], number: int, limit: int) -> NDArray[np.int64]:
    """Frequencies of a class: counts, blended with a discretised Laplacian of its scale where they are few."""
    value = np.arange(-SPAN, SPAN + 1)
    rate = math.sqrt(2) / class_scale(number)
    laplace = np.exp(-rate * np.abs(value))
    laplace[SPAN] = max(laplace[SPAN], 1e-6)
    laplace = laplace / laplace.sum()
    blend = symmetric + 200 * laplace
    inside = blend[SPAN - limit : SPAN + limit + 1]
    escape = blend.sum() - inside.sum() + 0.5
    p = np.append(inside, escape) / (inside.sum() + escape)
    room = TOTAL - len(p)
    frequencies: NDArray[np.int64] = np.floor(p * room).astype(np.int64)
    frequencies[limit] += room - frequencies.sum()  # to the index 0
    return frequencies


def count_tables(
    tables: dict[str, NDArray[Any]], samples: Sequence[Sample], model: Codec, report: Report = quiet
) -> dict[str, NDArray[Any]]:
    """Count the class tables on samples, twice: with plain rounding, then with the encoder's own choices.

    Args:
        tables: from `integer_tables`.
        samples: from `analysed`.
        model: where the tables come from (for the Lagrangian of each quality).
        report: told how far it is.

    Returns:
        `tables` with the `tables.*` arrays added.
    """
    prior = RefinementPrior(tables, Onnx(prior_graphs(tables).__getitem__, torch.get_num_threads(), Plain(tables)))
    counted: dict[str, NDArray[Any]] | None = None
    for turn in range(2):
        counts = _Counts()
        current = ClassTables.load(counted) if counted else None
        part = samples if turn else samples[:MOST_FIRST]
        for number, sample in enumerate(part):
            report("counting the coder's tables, twice", (turn + number / len(part)) / 2)
            choice = WEIGHTS[model.config.tunes[sample.setting.tune]][0]
            lagrangian = choice * float(model.lambda_of(torch.tensor(quality_level(sample.setting.quality))))
            _count_one(prior, current, sample, counts, lagrangian)
        counted = counts.tables(counted["tables.limits"].astype(np.int64) if counted else None)
    assert counted is not None
    return {**tables, **counted}


def _count_one(
    prior: RefinementPrior,
    tables: ClassTables | None,
    sample: Sample,
    counts: _Counts,
    lagrangian: float,
) -> None:
    def choose(p: Predicted) -> Ints:
        indices, t = quantise(sample.latents[:, :, p.step.channels][p.where], p.means, p.sizes)
        if tables is not None:
            indices[tables.limits[p.classes] == 0] = 0
            size = prior.step_size[sample.setting.row, p.step.channels]
            cheapen(indices, t, p.classes, size, tables, lagrangian)
        counts.add(indices, t, p.classes)
        return indices

    walk_refinement(prior, tables, sample.base, sample.setting, choose)
