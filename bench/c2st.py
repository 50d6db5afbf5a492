# SPDX-License-Identifier: MIT
"""Classifier two-sample test (C2ST): can a small network, trained for it, tell restored pictures from originals?

After Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (ICLR 2017). A convolutional network is trained
afresh on crops of 64 x 64, as many of originals as of restored pictures, and tested on crops of pictures that it has
not seen. It needs torch, and nothing that was trained elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MissingError

if TYPE_CHECKING:
    import torch

Rgb = NDArray[np.uint8]  # [H, W, 3]
Place = tuple[int, int, int]  # picture, top, left

SIDE = 64  # of a crop, in pixels
FOLDS = 3
STEPS = 250  # of training, for each fold
PAIRS = 32  # crops of each kind in a step
HELD_CROPS = 64  # of each kind from each held-out picture
WIDTH = 16  # channels of the first layer
LEARNING_RATE = 4e-3
AT_ONCE = 128  # crops judged at once


@dataclass(frozen=True)
class Verdict:
    """How well originals and restored pictures are told apart, on pictures that the network was not trained with."""

    accuracy: float  # share of crops that are told rightly: 0.5 is chance
    auc: float  # area under the ROC curve of crops: 0.5 is chance, 1 is every restored crop below every original
    patch_auc: float  # the same of single patches of 18 x 18 pixels


def version() -> str:
    """The library that trains.

    Raises:
        MissingError: it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingError("torch is not installed: pip install '.[train]'")
    return f"torch {importlib.metadata.version('torch')}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: sums are then the same whatever the number of processors, and small layers gain nothing from more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _network() -> torch.nn.Module:
    """Three strided convolutions, then one logit for each place and one for the whole crop."""
    from torch import Tensor, cat, nn

    def layer(before: int, after: int, size: int) -> nn.Module:
        convolution = nn.Conv2d(before, after, size, 2, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))

    class Network(nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(layer(6, WIDTH, 4), layer(WIDTH, 2 * WIDTH, 3), layer(2 * WIDTH, 2 * WIDTH, 3))
            self.patch, self.crop = nn.Conv2d(2 * WIDTH, 1, 1), nn.Linear(4 * WIDTH, 1)

        def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
            """[B, 3, 64, 64] uint8 -> logits [B] of crops and [B, 64] of their patches; positive: an original."""
            features = self.body(_features(crops))
            whole = cat([features.mean((2, 3)), features.amax((2, 3))], 1)
            return self.crop(whole)[:, 0], self.patch(features).flatten(1)

    return Network()


def _features(crops: torch.Tensor) -> torch.Tensor:
    """[B, 6, H, W] float32: the crops, and their detail (what means of 3 x 3 take away), four times as strong."""
    import torch
    from torch.nn import functional

    plane = crops.float() / 127.5 - 1
    smooth = functional.avg_pool2d(functional.pad(plane, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return torch.cat([plane, 4 * (plane - smooth)], 1)


def _planes(pictures: Sequence[Rgb]) -> list[torch.Tensor]:
    import torch

    return [torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))) for rgb in pictures]


def _places(planes: Sequence[torch.Tensor], pictures: NDArray[np.int64], random: np.random.Generator) -> list[Place]:
    """A place for a crop in each of these pictures."""
    tops = [int(random.integers(planes[k].shape[1] - SIDE + 1)) for k in pictures]
    lefts = [int(random.integers(planes[k].shape[2] - SIDE + 1)) for k in pictures]
    return list(zip(pictures.tolist(), tops, lefts, strict=True))


def _cut(planes: Sequence[torch.Tensor], places: Sequence[Place]) -> torch.Tensor:
    import torch

    return torch.stack([planes[k][:, top : top + SIDE, left : left + SIDE] for k, top, left in places])


def _trained(
    kinds: Sequence[Sequence[torch.Tensor]], pictures: NDArray[np.int64], steps: int, random: np.random.Generator
) -> torch.nn.Module:
    """A network that has learned to tell the two kinds apart on these pictures, both shown at the same places."""
    import torch
    from torch.nn import functional

    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    wanted = torch.cat([torch.ones(PAIRS), torch.zeros(PAIRS)])
    for _ in range(steps):
        places = _places(kinds[0], random.choice(pictures, PAIRS), random)
        crops = torch.cat([_cut(planes, places) for planes in kinds])
        for axis in (2, 3):
            if random.random() < 0.5:
                crops = crops.flip(axis)
        whole, patches = network(crops)
        loss = functional.binary_cross_entropy_with_logits(whole, wanted)
        loss = loss + functional.binary_cross_entropy_with_logits(patches, wanted[:, None].expand_as(patches))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def _judged(
    network: torch.nn.Module, planes: Sequence[torch.Tensor], pictures: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits of crops [n] and of their patches [n * 64], at random places of these pictures."""
    import torch

    places = _places(planes, np.repeat(pictures, HELD_CROPS), random)
    whole, patches = [], []
    with torch.no_grad():
        for start in range(0, len(places), AT_ONCE):
            found = network(_cut(planes, places[start : start + AT_ONCE]))
            whole.append(found[0].numpy())
            patches.append(found[1].flatten().numpy())
    return np.concatenate(whole), np.concatenate(patches)


def _auc(originals: NDArray[Any], restored: NDArray[Any]) -> float:
    """How often an original's logit is above a restored picture's; a tie counts half."""
    from scipy.stats import rankdata

    count = len(originals)
    ranks = rankdata(np.concatenate([originals, restored]))[:count].sum()
    return float((ranks - count * (count + 1) / 2) / (count * len(restored)))


def c2st(originals: Sequence[Rgb], restored: Sequence[Rgb], seed: int = 0, steps: int | None = None) -> Verdict:
    """Train and test on every fold of the pictures; the same seed gives the same verdict on the same machine.

    Args:
        originals: at least three pictures [H, W, 3] uint8 of 64 pixels a side or more.
        restored: the same pictures restored, in the same order. They are only paired so that both are split alike.
        steps: of training for each fold; None for `STEPS`.

    Raises:
        ValueError: too few or too small pictures, or not the same ones.
        MissingError: torch is not installed.
    """
    version()
    import torch

    if [rgb.shape for rgb in restored] != [rgb.shape for rgb in originals]:
        raise ValueError("C2ST needs as many restored pictures as originals, of the same sizes")
    if len(originals) < FOLDS or min(min(rgb.shape[:2]) for rgb in originals) < SIDE:
        raise ValueError(f"C2ST needs at least {FOLDS} pictures of at least {SIDE} pixels a side")
    kinds = (_planes(originals), _planes(restored))
    random = np.random.default_rng((seed, 3))
    order = random.permutation(len(originals))
    found: list[list[tuple[NDArray[Any], NDArray[Any]]]] = []
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fold in range(FOLDS):
            held = order[fold::FOLDS]
            network = _trained(kinds, np.setdiff1d(order, held), steps or STEPS, random)
            found.append([_judged(network, planes, held, random) for planes in kinds])
    # AUCs within a fold, then their mean: logits of different networks do not share a scale
    right = [((o[0] > 0).mean() + (r[0] <= 0).mean()) / 2 for o, r in found]
    aucs = [[_auc(o[part], r[part]) for o, r in found] for part in (0, 1)]
    return Verdict(*(math.fsum(values) / FOLDS for values in ([float(x) for x in right], *aucs)))
