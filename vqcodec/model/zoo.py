# SPDX-License-Identifier: MIT
"""The models: id or checksum -> files, verified against their sha256 before use. No pickle, nothing executed.

A model is a folder: `model.json` (names, sizes and sha256 of the files, the quality scale), `tables.npz` (codebook,
integer priors, frequency tables: all that decides the indices), `analysis.onnx`, `synthesis.onnx`. A .vqc file names
its model by the first four bytes of the sha256 of `tables.npz`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import threading
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.arrays import read_array
from vqcodec.bitstream.codebook import BaseCodebook, Floats, Ints
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.quality import Setting, anchor_weights, quality_level
from vqcodec.errors import ModelError, UsageError, VqcError
from vqcodec.messages import one_line
from vqcodec.model import engines
from vqcodec.model.aim import Aim
from vqcodec.model.denoiser import Denoiser
from vqcodec.model.engines import Bytes
from vqcodec.model.layers import integers
from vqcodec.model.prior import BasePrior, RefinementPrior
from vqcodec.model.transforms import Analysis, RealisticSynthesis, Synthesis
from vqcodec.model.walk import Base, BaseChooser, Chooser, Predicted, walk_base, walk_refinement
from vqcodec.options import DEFAULT_QUALITY, DEFAULT_TUNE, MAX_QUALITY, TUNES, ModelName
from vqcodec.spans import span
from vqcodec.threads import Once

Graph = Literal["analysis", "synthesis", "realistic", "aim", "denoiser"]
WEIGHTS = Path(__file__).parents[1] / "weights"
# Ids are explicit, never reused; a model that files may name is never removed.
MODELS: dict[str, str] = {"photo-1": "photo-1"}
DEFAULT_MODEL = "photo-1"
AIM = "aim.onnx"
ANSWERS = "answers"  # in the card: what the priors' graphs must answer to the small question (engines.py)
REALISTIC = "realistic.onnx"
DENOISER = "denoiser.onnx"
MAX_FILE_BYTES = 256 * 2**20
MAX_CARD_BYTES = 2**20
MAX_ARRAYS = 4096
MAX_CODEWORD = 2**23
FILES = ("tables.npz", "analysis.onnx", "synthesis.onnx")
CARD_RANGES = {  # of the numbers in model.json
    "anchors": (2, 1024), "lambda_min": (1e-6, 1e12), "lambda_max": (1e-6, 1e12),
    "analysis_halo": (0, 64), "synthesis_halo": (0, 64),
}  # fmt: skip
REALISTIC_HALO = "realistic_halo"  # there if the realistic decoder is, in the range of the other halos
DENOISER_HALO = "denoiser_halo"  # the same of the denoiser, in pixels
FURTHER_RANGES = {REALISTIC: (REALISTIC_HALO, (0, 64)), DENOISER: (DENOISER_HALO, (0, 512))}


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
    def tunes(self) -> tuple[str, ...]:
        """What the model serves, in the order of its tables."""
        return tuple(self.card.get("tunes", TUNES[:1]))

    @property
    def checksum(self) -> bytes:
        """The first four bytes of the sha256 of the tables: what a .vqc file names."""
        return bytes.fromhex(self.card["files"]["tables.npz"]["sha256"])[:4]

    def verified(self, name: str) -> bytes:
        """The bytes of a file of the model, after their sha256 has been checked: what is used is what was checked.

        Raises:
            ModelError: missing, too large, or not what `model.json` says.
        """
        path = self.folder / name
        try:
            data = read_file(path, MAX_FILE_BYTES)
        except OSError as error:
            raise ModelError(f"the model file {path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != self.card["files"][name]["sha256"]:
            raise ModelError(f"the model file {path} is damaged: its sha256 is not the one in model.json")
        return data


def read_file(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a file of a model: of an ordinary file, for a pipe would block and a device might never end.

    Raises:
        ModelError: it is something else, or larger.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ModelError(f"{path} is not an ordinary file")
    with open(path, "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ModelError(f"{path} is larger than a file of a model may be")
    return data


def _read_card(folder: Path) -> ModelFiles:
    path = folder / "model.json"
    try:
        card = json.loads(read_file(path, MAX_CARD_BYTES))
        for name in {*FILES, *card["files"]}:
            bytes.fromhex(card["files"][name]["sha256"])
            if name != Path(name).name:
                raise ValueError(f"the file {name!r} lies outside the model's folder")
        str(card["id"])
        tunes = card.get("tunes", [TUNES[0]])
        if not (isinstance(tunes, list) and 0 < len(set(tunes) & set(TUNES)) == len(tunes)):
            raise ValueError("its tunes are none that are known")
        ranges = CARD_RANGES | dict(further for name, further in FURTHER_RANGES.items() if name in card["files"])
        answers = card.get(ANSWERS, {})
        if not (isinstance(answers, dict) and all(isinstance(text, str) for text in answers.values())):
            raise ValueError("its answers are no texts")
        for name, (low, high) in ranges.items():
            if not isinstance(card[name], int | float) or not low <= card[name] <= high:
                raise ValueError(f"{name} is out of range")
    except OSError as error:
        raise ModelError(f"no model at {folder}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} is not a model card ({one_line(error)})") from None
    return ModelFiles(folder, card)


@span("model's tables")
def find(name: ModelName | None = None) -> ModelFiles:
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


@span("model's tables")
def by_checksum(checksum: bytes, extra: ModelName | None = None) -> ModelFiles:
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


def read_tables(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of a `tables.npz`: integers, of which none takes more memory than the file says and has bytes for.

    Raises:
        ModelError: anything is wrong with it.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS or sum(entry.file_size for entry in entries) > MAX_FILE_BYTES:
                raise ModelError("the model's tables hold more than a model may")
            for entry in entries:
                arrays[entry.filename.removesuffix(".npy")] = read_array(archive.read(entry), "iu")
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"the model's tables cannot be read ({one_line(error)})") from None
    return arrays


def _try_out(base_prior: BasePrior, prior: RefinementPrior, tables: ClassTables, setting: Setting) -> None:
    """Goes once through both priors, so that arrays of a stranger's model that do not fit are found out now."""

    def base(where: NDArray[np.bool_], frequencies: Floats) -> Ints:
        return np.zeros(len(frequencies), np.int64)

    def refinement(predicted: Predicted) -> Ints:
        channels = predicted.step.channels
        shape = int(predicted.where.sum()), channels.stop - channels.start
        if predicted.means.shape != shape or predicted.classes.shape != shape:
            raise ValueError("a step of the refinement prior does not fit its channels")
        return np.zeros(shape, np.int64)

    walk_refinement(prior, tables, walk_base(base_prior, (2, 2), base), setting, refinement)


def chosen_tune(tunes: tuple[str, ...], wanted: str | None) -> str:
    """The tune that is wanted of those that a model serves; None: "eye", or its first where it has no such tune.

    Raises:
        UsageError: the model lacks this tune.
    """
    if wanted is None:
        return DEFAULT_TUNE if DEFAULT_TUNE in tunes else tunes[0]
    if wanted not in tunes:
        raise UsageError(f"this model has no tune {wanted!r}, only {' and '.join(tunes)}")
    return wanted


class Model:
    """A loaded model. The transforms are loaded when first used: a decoder needs no analysis."""

    def __init__(self, files: ModelFiles, threads: int = 0, execution: str = "cpu") -> None:
        self.files = files
        self._how = threads, execution  # of the transforms; the priors never leave the CPU
        self._graph: Once[Graph, Any] = Once(self._load_graph)
        arrays = read_tables(files.verified("tables.npz"))
        try:
            self.codebook = BaseCodebook(integers(arrays, "codebook", 2, -MAX_CODEWORD, MAX_CODEWORD))
            plain = engines.Plain(arrays)
            read = files.verified if engines.BASE in files.card["files"] else None
            self._engine = engine = engines.choose(plain, read, threads, files.card.get(ANSWERS))
            self.base_prior = BasePrior(arrays, self.codebook, engine)
            self.prior = RefinementPrior(arrays, engine)
            self.tables = ClassTables.load(arrays)
            if self.prior.rows != MAX_QUALITY * len(files.tunes):
                raise ValueError("the tables do not have a row for every quality of every tune")
            if files.folder.parent != WEIGHTS:
                base_prior, prior = BasePrior(arrays, self.codebook, plain), RefinementPrior(arrays, plain)
                for tune in range(len(files.tunes)):
                    _try_out(base_prior, prior, self.tables, Setting(DEFAULT_QUALITY, tune))
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ModelError(f"the tables of the model {files.id} are malformed ({one_line(error)})") from None

    def walk_base(self, shape: tuple[int, int], choose: BaseChooser) -> Ints:
        """Go through the passes of the base layer: indices [h, w] int64 (walk.py)."""
        return walk_base(self.base_prior, shape, choose)

    def setting(self, quality: int, tune: str | None = None) -> Setting:
        """The rows of the model's tables for a quality of a tune; see `tune`."""
        return Setting(quality, self.files.tunes.index(self.tune(tune)))

    def tune(self, wanted: str | None) -> str:
        """The tune that is wanted; None: "eye", or the model's first where it has no such tune.

        Raises:
            UsageError: the model lacks this tune.
        """
        return chosen_tune(self.files.tunes, wanted)

    def walk_refinement(self, base: Base, setting: Setting, choose: Chooser) -> tuple[Floats, Ints]:
        """Go through the steps of a tile's refinement: latents and indices [h, w, M] (walk.py)."""
        return walk_refinement(self.prior, self.tables, base.indices, setting, choose, base.tile)

    def base_features(self, base: Base) -> tuple[Bytes, Floats]:
        """What the prior makes of a tile's base layer: features [h, w, F] and latents [h, w, M] (2**-LATENT_BITS)."""
        features, latents = self.prior.base(base.indices)
        return features[base.tile.slices], latents[base.tile.slices]

    def base_latents(self, base: Base) -> Floats:
        """What a tile's base layer alone stands for: latents [h, w, M] (2**-LATENT_BITS)."""
        return self.base_features(base)[1]

    def prepare(self, *graphs: Graph) -> None:
        """Load these graphs now: before several threads ask for them, and before any work is done.

        Raises:
            ModelError: the model came without one of them, or its file is damaged.
        """
        for name in graphs:
            self._graph(name)

    def prepare_aside(self, *graphs: Graph) -> None:
        """Begin to load the priors' graphs and then these in a thread of its own, while the caller goes on.

        What goes wrong there is raised where the graph is asked for, which tries again. A process that ends waits for
        the thread: one that died inside ONNX Runtime would bring the process down.
        """
        if self._how[0] == 1:  # the caller wants no more than one thread
            return

        def load() -> None:
            with suppress(VqcError, ImportError, MemoryError):
                self._engine.load_all()
                self.prepare(*graphs)

        threading.Thread(target=load).start()

    def _load_graph(self, name: Graph) -> Any:
        def data(file: str, lacks: str = "") -> bytes:
            if lacks and file not in self.files.card["files"]:
                raise ModelError(f"the model {self.files.id} has no {lacks}")
            return self.files.verified(file)

        match name:
            case "analysis":
                return Analysis(data("analysis.onnx"), *self._how)
            case "synthesis":
                return Synthesis(data("synthesis.onnx"), *self._how)
            case "realistic":
                graph = data(REALISTIC, "realistic decoder, only the faithful one")
                return RealisticSynthesis(graph, self.synthesis, *self._how)
            case "aim":
                return Aim(data(AIM, f"{AIM}: export it again, or take an effort of 1 to 3"), *self._how)
            case "denoiser":
                graph = data(DENOISER, "denoiser: train one with vqcodec train --phase denoiser")
                return Denoiser(graph, self._how[0])

    @property
    def analysis(self) -> Analysis:
        """The analysis transform."""
        found: Analysis = self._graph("analysis")
        return found

    @property
    def synthesis(self) -> Synthesis:
        """The synthesis transform of the faithful decoder."""
        found: Synthesis = self._graph("synthesis")
        return found

    @property
    def realistic(self) -> RealisticSynthesis:
        """The synthesis of the realistic decoder.

        Raises:
            ModelError: the model came without it.
        """
        found: RealisticSynthesis = self._graph("realistic")
        return found

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser.

        Raises:
            ModelError: the model came without it.
        """
        found: Denoiser = self._graph("denoiser")
        return found

    @property
    def has_denoiser(self) -> bool:
        """Whether the model came with one."""
        return DENOISER in self.files.card["files"]

    @property
    def denoiser_halo(self) -> int:
        """How far, in pixels, an estimate looks beyond its own pixel."""
        return int(self.files.card[DENOISER_HALO])

    @property
    def aim(self) -> Aim:
        """The graph that tells the encoder what to aim at (efforts of 4 and more).

        Raises:
            ModelError: the model came without it.
        """
        found: Aim = self._graph("aim")
        return found

    @property
    def analysis_halo(self) -> int:
        """How far, in latents, the analysis looks beyond a latent's own block."""
        return int(self.files.card["analysis_halo"])

    @property
    def synthesis_halo(self) -> int:
        """How far, in latents, the synthesis looks beyond a block's own latent."""
        return int(self.files.card["synthesis_halo"])

    @property
    def realistic_halo(self) -> int:
        """The same for the realistic decoder."""
        return int(self.files.card[REALISTIC_HALO])

    def anchor_weights(self, setting: Setting) -> Floats:
        """Weights of the anchors of every tune, [R]: zero on those of other tunes."""
        anchors = int(self.files.card["anchors"])
        weights = np.zeros((len(self.files.tunes), anchors))
        weights[setting.tune] = anchor_weights(quality_level(setting.quality), anchors)
        return weights.ravel()

    def synthesis_weights(self, setting: Setting, *, base_only: bool) -> Floats:
        """The same for the synthesis, [R + 1]: the last stands for the base layer alone."""
        weights = np.append(self.anchor_weights(setting), 0.0)
        if base_only:
            weights[:] = 0
            weights[-1] = 1
        return weights

    def lagrangian(self, quality: int) -> float:
        """Bits per pixel that one unit of mean squared error (on [0, 1] samples) is worth at a quality."""
        low, high = float(self.files.card["lambda_min"]), float(self.files.card["lambda_max"])
        return float(low * (high / low) ** quality_level(quality))


_loading = threading.Lock()  # `lru_cache` alone lets threads that ask for a model at once load it once each


@lru_cache(maxsize=4)
def _load(folder: Path, card: str, threads: int, execution: str) -> Model:
    return Model(ModelFiles(folder, json.loads(card)), threads, execution)


@span("model's tables")
def load(files: ModelFiles, threads: int = 0, execution: str = "cpu") -> Model:
    """The loaded model; kept, so that the next picture does not load it again, as long as its card says the same."""
    with _loading:
        return _load(files.folder, json.dumps(files.card, sort_keys=True), threads, execution)
