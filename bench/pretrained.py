# SPDX-License-Identifier: MIT
"""LPIPS and FID, by torchmetrics, where that and the weights are here already: nothing is ever downloaded.

Both look through networks trained on ImageNet. FID of a few dozen pictures is taken over their crops, as papers on
codecs do, and is far from what it would be over many pictures: it only compares lines of one table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]  # [H, W, 3]

CROP = 256  # pixels a side, for FID (Mentzer et al., "High-fidelity generative image compression", 2020)
# measure -> packages that it needs, and the file of its weights in torch's own cache
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "LPIPS": (("torch", "torchmetrics", "torchvision"), "alexnet-owt-7be5be79.pth"),
    "FID": (("torch", "torchmetrics", "torchvision", "torch_fidelity"), "weights-inception-2015-12-05-6726825d.pth"),
}


def here(name: str) -> bool:
    """Whether the packages and the weights of a measure are on this machine."""
    packages, weights = NEEDS[name]
    try:
        torch, *_ = [importlib.import_module(package) for package in packages]
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return False
    return (Path(torch.hub.get_dir()) / "checkpoints" / weights).is_file()


def lpips(originals: Sequence[Rgb], restored: Sequence[Rgb]) -> float:
    """LPIPS (Zhang et al. 2018) with AlexNet, mean over the pictures; 0 for identical ones."""
    torch: Any = importlib.import_module("torch")
    found: Any = importlib.import_module("torchmetrics.image.lpip")
    measure = found.LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    with torch.no_grad():
        values = [
            measure(*(_tensor([rgb]).float() / 255 for rgb in pair)) for pair in zip(originals, restored, strict=True)
        ]
    return float(np.mean([float(value) for value in values]))


def fid(originals: Sequence[Rgb], restored: Sequence[Rgb]) -> float:
    """Fréchet inception distance (Heusel et al. 2017) between all crops of 256 x 256, at steps of 128."""
    torch: Any = importlib.import_module("torch")
    found: Any = importlib.import_module("torchmetrics.image.fid")
    measure = found.FrechetInceptionDistance(feature=2048)
    with torch.no_grad():
        for real, pictures in ((True, originals), (False, restored)):
            for rgb in pictures:
                measure.update(_tensor(_crops(rgb)), real=real)
    return float(measure.compute())


def _crops(rgb: Rgb) -> list[Rgb]:
    side = min(CROP, *rgb.shape[:2])
    tops, lefts = (range(0, size - side + 1, CROP // 2) for size in rgb.shape[:2])
    return [rgb[top : top + side, left : left + side] for top in tops for left in lefts]


def _tensor(pictures: Sequence[Rgb]) -> Any:
    """[N, 3, H, W] uint8."""
    torch: Any = importlib.import_module("torch")
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())


MEASURES: dict[str, Callable[[Sequence[Rgb], Sequence[Rgb]], float]] = {"LPIPS": lpips, "FID": fid}


def available() -> dict[str, Callable[[Sequence[Rgb], Sequence[Rgb]], float]]:
    """The measures that can be taken here."""
    return {name: measure for name, measure in MEASURES.items() if here(name)}
