# SPDX-License-Identifier: MIT
"""The models: id or checksum -> files, verified against their sha256 before use. No pickle, nothing executed.

A model is a folder: `model.json` (names, sizes and sha256 of the files, the quality scale), `tables.npz` (codebook,
integer priors, frequency tables: all that decides the indices), `analysis.onnx`, `synthesis.onnx`. A .vqc file names
its model by the first four bytes of the sha256 of `tables.npz`.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.codebook import BaseCodebook, hat_weights, quality_level
from vqcodec.entropy import ClassTables
from vqcodec.errors import ModelError
from vqcodec.prior import BasePrior, RefinementPrior
from vqcodec.refine import Gradient
from vqcodec.transform import Analysis, Synthesis

WEIGHTS = Path(__file__).with_name("weights")
# Ids are explicit, never reused; a model that files may name is never removed.
MODELS: dict[str, str] = {"photo-1": "photo-1"}
DEFAULT_MODEL = "photo-1"
GRADIENT = "gradient.onnx"
MAX_FILE_BYTES = 256 * 2**20
FILES = ("tables.npz", "analysis.onnx", "synthesis.onnx")


@dataclass(frozen=True)
class ModelFiles:
    """One model's folder with what `model.json` says of it."""

    folder: Path
    card: dict[str, Any]

    @property
    def id(self) -> str:
        """The model's name, for people."""
        return str(self.card["id"])

    @property
    def checksum(self) -> bytes:
        """The first four bytes of the sha256 of the tables: what a .vqc file names."""
        return bytes.fromhex(self.card["files"]["tables.npz"]["sha256"])[:4]

    def verified(self, name: str) -> Path:
        """Path of a file of the model, after its sha256 has been checked.

        Raises:
            ModelError: missing, or not what `model.json` says.
        """
        path = self.folder / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ModelError(f"{path} is larger than a model file may be")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(f"the model file {path} cannot be read: {error.strerror}") from None
        if digest != self.card["files"][name]["sha256"]:
            raise ModelError(f"the model file {path} is damaged: its sha256 is not the one in model.json")
        return path


def _read_card(folder: Path) -> ModelFiles:
    path = folder / "model.json"
    try:
        if path.stat().st_size > 2**20:
            raise ModelError(f"{path} is larger than a model card may be")
        card = json.loads(path.read_text(encoding="utf-8"))
        for name in FILES:
            bytes.fromhex(card["files"][name]["sha256"])
        str(card["id"]), int(card["anchors"]), float(card["lambda_min"]), float(card["lambda_max"])
        int(card["analysis_halo"]), int(card["synthesis_halo"])
    except OSError as error:
        raise ModelError(f"no model at {folder}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a model card ({error})") from None
    return ModelFiles(folder, card)


def find(name: str | os.PathLike[str] | None = None) -> ModelFiles:
    """The model of that id or folder; the default model for None.

    Raises:
        ModelError: no such model.
    """
    if name is None:
        name = DEFAULT_MODEL
    if str(name) in MODELS:
        return _read_card(WEIGHTS / MODELS[str(name)])
    if Path(name).is_dir():
        return _read_card(Path(name))
    raise ModelError(f"there is no model {str(name)!r}; known are {', '.join(MODELS)}, or give a model's folder")


def by_checksum(checksum: bytes, extra: str | os.PathLike[str] | None = None) -> ModelFiles:
    """The model that a file names, among the shipped ones and the one given.

    Raises:
        ModelError: none of them has this checksum.
    """
    for name in ([extra] if extra is not None else []) + list(MODELS):
        files = find(name)
        if files.checksum == checksum:
            return files
    raise ModelError(
        f"this file was written with the model {checksum.hex()}, which is not installed; "
        "a newer vqcodec may have it, or give its folder with --model"
    )


def _read_tables(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_FILE_BYTES:
                raise ModelError(f"{path} holds more than a model may")
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a table file ({error})") from None


class Model:
    """A loaded model. The transforms are loaded when first used: a decoder needs no analysis."""

    def __init__(self, files: ModelFiles, threads: int = 0) -> None:
        self.files = files
        self.threads = threads
        arrays = _read_tables(files.verified("tables.npz"))
        try:
            self.codebook = BaseCodebook(arrays["codebook"].astype(np.float64))
            self.base_prior = BasePrior(arrays, self.codebook)
            self.prior = RefinementPrior(arrays)
            self.tables = ClassTables.load(arrays)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ModelError(f"the tables of the model {files.id} are malformed ({error})") from None
        self._analysis: Analysis | None = None
        self._synthesis: Synthesis | None = None
        self._gradient: Gradient | None = None

    @property
    def analysis(self) -> Analysis:
        """The analysis transform."""
        if self._analysis is None:
            self._analysis = Analysis(self.files.verified("analysis.onnx"), self.threads)
        return self._analysis

    @property
    def synthesis(self) -> Synthesis:
        """The synthesis transform of the faithful decoder."""
        if self._synthesis is None:
            self._synthesis = Synthesis(self.files.verified("synthesis.onnx"), self.threads)
        return self._synthesis

    @property
    def gradient(self) -> Gradient | None:
        """The graph for the encoder's highest efforts; None if the model came without it."""
        if self._gradient is None and GRADIENT in self.files.card["files"]:
            self._gradient = Gradient(self.files.verified(GRADIENT), self.threads)
        return self._gradient

    @property
    def analysis_halo(self) -> int:
        """How far, in latents, the analysis looks beyond a latent's own block."""
        return int(self.files.card["analysis_halo"])

    @property
    def synthesis_halo(self) -> int:
        """How far, in latents, the synthesis looks beyond a block's own latent."""
        return int(self.files.card["synthesis_halo"])

    def analysis_hat(self, quality: int) -> NDArray[np.float64]:
        """Anchor weights of a quality for the analysis, [A]."""
        return hat_weights(quality_level(quality), int(self.files.card["anchors"]))

    def synthesis_hat(self, quality: int, base_only: bool) -> NDArray[np.float64]:
        """Anchor weights for the synthesis, [A + 1]: the last is the base layer alone."""
        hat = np.append(self.analysis_hat(quality), 0.0)
        if base_only:
            hat[:] = 0
            hat[-1] = 1
        return hat

    def lagrangian(self, quality: int) -> float:
        """Bits per pixel that one unit of mean squared error (on [0, 1] samples) is worth at a quality."""
        low, high = float(self.files.card["lambda_min"]), float(self.files.card["lambda_max"])
        return float(low * (high / low) ** quality_level(quality))


@lru_cache(maxsize=4)
def _load(folder: Path, digest: str, threads: int) -> Model:
    return Model(_read_card(folder), threads)


def load(files: ModelFiles, threads: int = 0) -> Model:
    """The loaded model; kept, so that the next picture does not load it again."""
    return _load(files.folder, files.card["files"]["tables.npz"]["sha256"], threads)
