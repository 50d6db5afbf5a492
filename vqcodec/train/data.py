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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vqcodec.errors import InputError

PADDED_BELOW = 64  # pixels: pictures with a shorter side are padded to whole blocks, as the encoder does
BLOCK = 16  # pixels
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
        augment: flip, turn and reduce the crops.
    """

    def __init__(self, flat: Tensor, shapes: NDArray[np.int64], device: torch.device, *, augment: bool = True) -> None:
        self.flat = flat.to(device)
        self.augment = augment
        self.shapes = shapes
        self.starts = np.concatenate([[0], np.cumsum(shapes.prod(1) * 3)])
        self.weights = shapes.prod(1) / shapes.prod(1).sum()
        self.device = device

    def __len__(self) -> int:
        return len(self.shapes)

    def crop_size(self, wanted: int) -> int:
        """The largest multiple of 16 up to `wanted` that every picture has room for."""
        return int(min(wanted, int(self.shapes.min()))) // 16 * 16

    def picture(self, number: int) -> Tensor:
        """[H, W, 3] uint8 view of one picture."""
        h, w = (int(v) for v in self.shapes[number])
        return self.flat[self.starts[number] : self.starts[number + 1]].view(h, w, 3)

    def spread(self, count: int) -> list[int]:
        """The numbers of at most `count` pictures, evenly over all."""
        return [int(n) for n in np.linspace(0, len(self) - 1, min(count, len(self)))]

    def sample(self, number: int, side: int | None = None) -> Tensor:
        """A picture [1, 3, H, W] float32 in [0, 1], its sides cut to multiples of 16 pixels, and to `side` at most."""
        picture = self.picture(number)
        height, width = (min(side or length, length // BLOCK * BLOCK) for length in picture.shape[:2])
        return picture[:height, :width].permute(2, 0, 1)[None].to(self.device).float() / 255

    def crops(self, rng: np.random.Generator, count: int, size: int) -> Tensor:
        """Random crops [count, 3, size, size] in [0, 1]; with `augment` flipped, turned, half reduced by 1 to 2.

        All on the device, a few operations for the whole batch.

        Raises:
            InputError: pictures smaller than a crop.
        """
        number = rng.choice(len(self), count, p=self.weights)
        h, w = self.shapes[number].T
        room = np.minimum(h, w) / size
        if room.min() < 1:
            raise InputError(f"a training picture is smaller than the crop of {size} pixels: give --set crop=N")
        reduced = rng.random(count) < (0.5 if self.augment else 0)
        scale = np.where(reduced, 1 + rng.random(count) * (np.minimum(2.0, room) - 1), 1.0)
        side = np.minimum(np.ceil(size * scale), np.minimum(h, w))
        top, left = np.floor(rng.random(count) * (h - side + 1)), np.floor(rng.random(count) * (w - side + 1))
        out = torch.empty(count, 3, size, size, device=self.device)
        for chosen in (reduced, ~reduced):
            if chosen.any():
                where = self.starts[number][chosen], top[chosen], left[chosen], h[chosen], w[chosen], scale[chosen]
                out[torch.from_numpy(chosen).to(self.device)] = self._sample(size, *where)
        if not self.augment:
            return out
        mirror, upside, turn = (torch.from_numpy(rng.random((3, count, 1, 1, 1)) < 0.5).to(self.device)).unbind(0)
        out = torch.where(mirror, out.flip(3), out)
        out = torch.where(upside, out.flip(2), out)
        return torch.where(turn, out.transpose(2, 3), out)

    def _sample(self, size: int, *where: NDArray[Any]) -> Tensor:
        """Crops at a scale each: bilinear, two taps an axis (scale - 1) apart, which is a box where the scale is 2."""
        start, top, left, h, w, scale = (torch.from_numpy(np.asarray(v, np.float64)).to(self.device) for v in where)
        centre = (torch.arange(size, device=self.device) + 0.5) * scale[:, None] - 0.5
        taps = (-0.5, 0.5) if bool((scale != 1).any()) else (0.0,)
        total = torch.zeros(len(start), size, size, 3, device=self.device)
        for dy in taps:
            for row, row_weight in _bilinear(centre + top[:, None] + dy * (scale - 1)[:, None], h):
                for dx in taps:
                    for column, weight in _bilinear(centre + left[:, None] + dx * (scale - 1)[:, None], w):
                        place = (row[:, :, None] * w[:, None, None].long() + column[:, None, :]) * 3
                        place = place + start[:, None, None].long()
                        samples = self.flat[place[..., None] + torch.arange(3, device=self.device)]
                        total += samples * (row_weight[:, :, None] * weight[:, None, :])[..., None]
        return total.permute(0, 3, 1, 2) / (255 * len(taps) ** 2)


def _bilinear(place: Tensor, length: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two neighbours [B, S] int64 of real positions along an axis, and their weights; one where all are whole."""
    low = place.floor()
    part = (place - low).float()
    last = (length[:, None] - 1).long()
    yield torch.minimum(low.long().clamp(min=0), last), 1 - part
    if bool((part != 0).any()):
        yield torch.minimum((low.long() + 1).clamp(min=0), last), part


def _padded(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture [H, W, 3] with its last row and column repeated up to a multiple of 16; a larger one as it is."""
    if min(picture.shape[:2]) >= PADDED_BELOW:
        return picture
    down, right = (-side % BLOCK for side in picture.shape[:2])
    return np.pad(picture, ((0, down), (0, right), (0, 0)), "edge")


def load_pictures(
    sources: Sequence[Path],
    device: torch.device,
    cache: Path | None = None,
    *,
    smallest: int = 64,
    augment: bool = True,
) -> Pictures:
    """Decode everything once; `cache` (a folder) keeps the decoded samples for the next run.

    Args:
        smallest: pictures with a shorter side (in pixels) are left out.
        augment: as `Pictures` takes it.

    Raises:
        InputError: nothing to train on, or a source that is not there.
    """
    key = hashlib.sha256("\n".join(f"{s.resolve()} {s.stat().st_size if s.exists() else 0}" for s in sources).encode())
    if smallest != PADDED_BELOW:
        key.update(f"\n{smallest}".encode())
    stem = cache / key.hexdigest()[:16] if cache else None
    if stem and stem.with_suffix(".json").exists():
        shapes = np.array(json.loads(stem.with_suffix(".json").read_text()), np.int64)
        samples = np.memmap(stem.with_suffix(".bin"), np.uint8, "r+")
        return Pictures(torch.from_numpy(samples), shapes, device, augment=augment)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        decoded = pool.map(_decode, blobs(sources))
        arrays = [_padded(a) for a in decoded if a is not None and min(a.shape[:2]) >= smallest]
    if not arrays:
        raise InputError(
            f"no pictures of {smallest}x{smallest} or more to train on: --set smallest=N takes smaller ones"
        )
    shapes = np.array([a.shape[:2] for a in arrays], np.int64)
    flat = np.concatenate([a.reshape(-1) for a in arrays])
    if stem and cache:
        cache.mkdir(parents=True, exist_ok=True)
        flat.tofile(stem.with_suffix(".bin"))
        stem.with_suffix(".json").write_text(json.dumps(shapes.tolist()))
    return Pictures(torch.from_numpy(flat), shapes, device, augment=augment)


def block_statistics(pictures: Pictures, rng: np.random.Generator, blocks: int = 200_000) -> tuple[Tensor, Tensor]:
    """Covariance [768, 768] and mean [768] (float64) of random 16x16 blocks of x - 0.5."""
    per = 64
    data = []
    for number in rng.choice(len(pictures), max(1, blocks // per), p=pictures.weights):
        picture = pictures.picture(int(number))
        windows = picture.unfold(0, 16, 1).unfold(1, 16, 1)  # [H - 15, W - 15, 3, 16, 16], a view
        top, left = (torch.from_numpy(rng.integers(0, room, per)) for room in windows.shape[:2])
        data.append(windows[top.to(picture.device), left.to(picture.device)].reshape(per, -1))
    x = torch.cat(data).float() / 255 - 0.5
    mean = x.mean(0)
    x = x - mean
    return ((x.T @ x) / len(x)).double().cpu(), mean.double().cpu()


def linear_basis(frontend: str, latents: int, covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Basis [M, 768], deviations [M] and means [M] of the linear shortcut, sorted by energy.

    "klt": the leading principal components (Karhunen-Loeve). "dct": the 16x16 DCT-II of Y, Cb, Cr-like axes.
    "random": an orthonormal basis of uniformly random directions, always the same one.
    """
    if frontend == "klt":
        _, vectors = torch.linalg.eigh(covariance)
        basis = vectors.T.flip(0)
    elif frontend == "random":
        directions = torch.randn(768, 768, generator=torch.Generator().manual_seed(768), dtype=torch.float64)
        basis = torch.linalg.qr(directions)[0].T
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
