# SPDX-License-Identifier: MIT
"""Pictures to train on: folders or tar shards, decoded once, kept as uint8, crops cut on the device."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vqcodec.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"}


def blobs(sources: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Every picture file in the folders (recursively), tar shards and files given, in a fixed order."""
    for source in sources:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
                yield str(path), path.read_bytes()
        elif source.suffix == ".tar":
            with tarfile.open(source) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        stream = tar.extractfile(member)
                        assert stream is not None
                        yield f"{source}/{member.name}", stream.read()
        elif source.is_file():
            yield str(source), source.read_bytes()
        else:
            raise InputError(f"{source}: no such file or folder")


def _decode(item: tuple[str, bytes]) -> NDArray[np.uint8] | None:
    try:
        return np.asarray(Image.open(io.BytesIO(item[1])).convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        print(f"{item[0]}: left out ({error})", file=sys.stderr)
        return None


class Pictures:
    """All training pictures in one flat uint8 tensor on the device, and random crops of them.

    Args:
        flat: [total samples] uint8, the pictures one after the other, each [H, W, 3].
        shapes: [N, 2] heights and widths.
    """

    def __init__(self, flat: Tensor, shapes: NDArray[np.int64], device: torch.device) -> None:
        self.flat = flat.to(device)
        self.shapes = shapes
        self.starts = np.concatenate([[0], np.cumsum(shapes.prod(1) * 3)])
        self.weights = shapes.prod(1) / shapes.prod(1).sum()
        self.device = device

    def __len__(self) -> int:
        return len(self.shapes)

    def picture(self, number: int) -> Tensor:
        """[H, W, 3] uint8 view of one picture."""
        h, w = (int(v) for v in self.shapes[number])
        return self.flat[self.starts[number] : self.starts[number + 1]].view(h, w, 3)

    def crops(self, rng: np.random.Generator, count: int, size: int) -> Tensor:
        """Random crops, flipped, turned, and half of them reduced by 1 to 2: [count, 3, size, size] in [0, 1]."""
        out = torch.empty(count, 3, size, size, device=self.device)
        for i, number in enumerate(rng.choice(len(self), count, p=self.weights)):
            picture = self.picture(int(number))
            h, w = picture.shape[:2]
            room = min(h, w) / size
            scale = float(rng.uniform(1, min(2.0, room))) if room > 1 and rng.random() < 0.5 else 1.0
            side = min(round(size * scale), h, w)
            top, left = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
            crop = picture[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
            if side != size:
                crop = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
            turn, flip = int(rng.integers(4)), bool(rng.integers(2))
            crop = torch.rot90(crop, turn, (2, 3))
            out[i] = (crop.flip(3) if flip else crop)[0]
        return out


def load_pictures(sources: Sequence[Path], device: torch.device, cache: Path | None = None) -> Pictures:
    """Decode everything once; `cache` (a folder) keeps the decoded samples for the next run.

    Raises:
        InputError: nothing to train on, or a source that is not there.
    """
    key = hashlib.sha256("\n".join(f"{s.resolve()} {s.stat().st_size if s.exists() else 0}" for s in sources).encode())
    stem = cache / key.hexdigest()[:16] if cache else None
    if stem and stem.with_suffix(".json").exists():
        shapes = np.array(json.loads(stem.with_suffix(".json").read_text()), np.int64)
        samples = np.memmap(stem.with_suffix(".bin"), np.uint8, "r+")
        return Pictures(torch.from_numpy(samples), shapes, device)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        arrays = [a for a in pool.map(_decode, blobs(sources)) if a is not None and min(a.shape[:2]) >= 64]
    if not arrays:
        raise InputError("no pictures of 64x64 or more to train on")
    shapes = np.array([a.shape[:2] for a in arrays], np.int64)
    flat = np.concatenate([a.reshape(-1) for a in arrays])
    if stem and cache:
        cache.mkdir(parents=True, exist_ok=True)
        flat.tofile(stem.with_suffix(".bin"))
        stem.with_suffix(".json").write_text(json.dumps(shapes.tolist()))
    return Pictures(torch.from_numpy(flat), shapes, device)


def block_statistics(pictures: Pictures, rng: np.random.Generator, blocks: int = 200_000) -> tuple[Tensor, Tensor]:
    """Covariance [768, 768] and mean [768] (float64) of random 16x16 blocks of x - 0.5."""
    per = 64
    data = []
    for number in rng.choice(len(pictures), max(1, blocks // per), p=pictures.weights):
        picture = pictures.picture(int(number))
        h, w = picture.shape[:2]
        for _ in range(per):
            top, left = int(rng.integers(h - 15)), int(rng.integers(w - 15))
            data.append(picture[top : top + 16, left : left + 16].permute(2, 0, 1).reshape(-1))
    x = torch.stack(data).float() / 255 - 0.5
    mean = x.mean(0)
    x = x - mean
    return ((x.T @ x) / len(x)).double().cpu(), mean.double().cpu()


def linear_basis(frontend: str, latents: int, covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Basis [M, 768], deviations [M] and means [M] of the linear shortcut, sorted by energy.

    "klt": the leading principal components (Karhunen-Loeve). "dct": the 16x16 DCT-II of Y, Cb, Cr-like axes.
    """
    if frontend == "klt":
        _, vectors = torch.linalg.eigh(covariance)
        basis = vectors.T.flip(0)
    else:
        k, n = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        dct = (torch.cos(torch.pi * (n + 0.5) * k / 16) * (2 / 16) ** 0.5).double()
        dct[0] *= 0.5**0.5
        colour = torch.tensor([[1, 1, 1], [-1, -1, 2], [1, -1, 0]], dtype=torch.float64)
        colour = colour / colour.norm(dim=1, keepdim=True)
        basis = torch.einsum("cr,ky,lx->cklryx", colour, dct, dct).reshape(768, 768)
    variance = torch.einsum("mi,ij,mj->m", basis, covariance, basis)
    order = variance.argsort(descending=True)[:latents]
    basis = basis[order]
    # A sign that does not depend on the eigen-solver
    basis = basis * torch.sign(basis.gather(1, basis.abs().argmax(1, keepdim=True)))
    return basis.float(), variance[order].clamp(min=1e-8).sqrt().float(), (basis @ mean).float()
