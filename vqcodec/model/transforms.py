# SPDX-License-Identifier: MIT
"""Analysis and synthesis transforms at run time: ONNX Runtime on float32. Nothing here touches the entropy coder.

Floats may differ in their last bits from machine to machine: the encoder's indices may then differ, never the
decoder's, which come from the file alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec import memory
from vqcodec.bitstream.corrections import NONE, Corrections
from vqcodec.bitstream.tiles import Rect
from vqcodec.errors import LimitError, ModelError, UsageError
from vqcodec.messages import one_line
from vqcodec.model.noise import noise
from vqcodec.spans import span

LARGE_BYTES = 12 << 20  # of the pixels of a tile of 1,024 x 1,024
SHARED = b"\n\x08location\x12\ntables.npz"  # how a graph says that a weight stands in the model's tables
CUDA = "CUDAExecutionProvider"
# No TF32: its products have 10 bits, which would move indices. A search for the fastest kernel pays for one size only.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_NO_MEMORY = re.compile(r"bad_alloc|allocate memory|memory of \d+ is smaller")  # in what ONNX Runtime says


@span("networks loaded")
def session(
    graph: bytes,
    threads: int,
    *,
    optimise: bool = True,
    weights: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    execution: str = "cpu",
) -> Any:
    """An ONNX Runtime session of a graph that reads no further files.

    Args:
        weights: by name, those that the graph leaves to the model's tables (`SHARED`).
        optimise: let ONNX Runtime rewrite the graph: faster at run time, slower to load.
        execution: "cpu" or "cuda".

    Raises:
        LimitError: there is not enough memory.
        ModelError: not a graph that can be loaded, or one that would read further files.
        UsageError: ONNX Runtime cannot execute graphs so.
    """
    # The key of ONNX's "external data" is a path, anywhere on this machine
    if graph.count(b"location") != (graph.count(SHARED) if weights else 0):
        raise ModelError("the model's graph keeps weights in further files, which is not allowed")
    import onnxruntime  # here, because it takes a quarter of a second, and `vqcodec info` can do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the processor
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # give memory back between tiles of different sizes
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
        options.add_external_initializers(list(weights), values)
    providers: list[Any] = ["CPUExecutionProvider"]
    if execution == "cuda":
        if CUDA not in onnxruntime.get_available_providers():
            raise UsageError(
                "execution 'cuda' needs an ONNX Runtime with CUDA, and this one has none: pip uninstall onnxruntime, "
                "then pip install onnxruntime-gpu"
            )
        providers.insert(0, (CUDA, CUDA_OPTIONS))
    try:
        loaded = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        _check_memory(error)
        raise ModelError(f"the model's graph cannot be loaded ({one_line(error)})") from None
    if execution == "cuda" and CUDA not in loaded.get_providers():  # it falls back without an error
        raise UsageError("execution 'cuda': ONNX Runtime found no NVIDIA GPU that it can use, or no CUDA libraries")
    return loaded


def _check_memory(error: Exception) -> None:
    """Raises LimitError where ONNX Runtime, which has no exception of its own for it, ran out of memory."""
    if _NO_MEMORY.search(str(error)):
        raise LimitError("not enough memory to run the model: reduce the picture, or take fewer threads") from None


def ask(session: Any, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs of a graph.

    Raises:
        LimitError: there is not enough memory.
        ModelError: it cannot be run.
    """
    try:
        outputs: list[NDArray[Any]] = session.run(None, inputs)
    except MemoryError:
        raise
    except Exception as error:
        _check_memory(error)
        raise ModelError(f"the model's graph cannot be run ({one_line(error)})") from None
    return outputs


@span("transform")
def run(session: Any, height: int, width: int, /, **inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Runs a graph whose outputs are [1, C, height, width] float32.

    Raises:
        LimitError: there is not enough memory.
        ModelError: they are not, or it cannot be run: a model of somebody's own that does not fit.
    """
    outputs = ask(session, inputs)
    if max(array.nbytes for array in (*inputs.values(), *outputs)) >= LARGE_BYTES:
        memory.trim()
    for output in outputs:
        if output.dtype != np.float32 or output.ndim != 4 or output.shape[2:] != (height, width):
            raise ModelError(
                f"the model's graph gives an array of {output.dtype} {list(output.shape)}, which is no use"
            )
    return outputs


class Analysis:
    """Picture -> latents and base vectors."""

    def __init__(self, graph: bytes, threads: int = 0, execution: str = "cpu") -> None:
        self._session = session(graph, threads, execution=execution)

    def __call__(
        self, rgb: NDArray[np.uint8], weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Analyse.

        Args:
            rgb: [H, W, 3] uint8, H and W multiples of 16.
            weights: [A] weights of the quality's anchors.

        Returns:
            latents [H/16, W/16, M] and base vectors [H/16, W/16, D], float32.
        """
        x = np.ascontiguousarray(rgb.transpose(2, 0, 1))[None].astype(np.float32)
        x *= np.float32(1 / 255)
        y, z = run(self._session, rgb.shape[0] // 16, rgb.shape[1] // 16, x=x, hat=weights[None].astype(np.float32))
        return y[0].transpose(1, 2, 0), z[0].transpose(1, 2, 0)


class Synthesis:
    """Latents -> picture."""

    def __init__(self, graph: bytes, threads: int = 0, execution: str = "cpu") -> None:
        self._session = session(graph, threads, execution=execution)

    def __call__(
        self,
        latents: NDArray[np.float32],
        weights: NDArray[np.float64],
        window: Rect,
        corrections: Corrections = NONE,
    ) -> NDArray[np.uint8]:
        """Synthesise.

        Args:
            latents: [h, w, M] float32.
            weights: [A + 1] weights of the quality's anchors; the last stands for the base layer alone.
            window: where these latents lie in the picture, in pixels, [16 h] x [16 w].
            corrections: what is added to the restored picture.

        Returns:
            [16 h, 16 w, 3] uint8.
        """
        picture = self.unrounded(latents, weights)
        corrections.apply(picture, window)
        return _samples(picture)

    def unrounded(self, latents: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
        """The same before it becomes samples: [1, 3, 16 h, 16 w] float32, nominally in [0, 1]."""
        y = np.ascontiguousarray(latents.transpose(2, 0, 1))[None]
        height, width = 16 * latents.shape[0], 16 * latents.shape[1]
        return run(self._session, height, width, y=y, hat=weights[None].astype(np.float32))[0]


def _samples(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[1, 3, H, W] float32, which is overwritten -> [H, W, 3] uint8."""
    x *= 255
    np.rint(x, out=x)
    np.clip(x, 0, 255, out=x)
    picture: NDArray[np.uint8] = x[0].astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0))


class RealisticSynthesis:
    """Latents -> picture with texture where the faithful picture is smooth for want of bits."""

    def __init__(self, graph: bytes, faithful: Synthesis, threads: int = 0, execution: str = "cpu") -> None:
        self._session = session(graph, threads, execution=execution)
        self._faithful = faithful

    def __call__(
        self,
        latents: NDArray[np.float32],
        weights: NDArray[np.float64],
        realism: float,
        window: Rect,
        corrections: Corrections = NONE,
    ) -> NDArray[np.uint8]:
        """Synthesise.

        Args:
            latents, weights, corrections: as `Synthesis` takes them.
            realism: 0 (the faithful picture) to 1.
            window: where these latents lie in the picture, in pixels, [16 h] x [16 w]: it decides the noise.

        Returns:
            [16 h, 16 w, 3] uint8.
        """
        picture = self._faithful.unrounded(latents, weights)
        corrections.apply(picture, window)
        y = np.ascontiguousarray(latents.transpose(2, 0, 1))[None]
        both = np.concatenate([weights, realism * weights])[None].astype(np.float32)
        strength = np.full((1, 1, 1, 1), realism, np.float32)
        grain = noise(window)[None, None]
        height, width = picture.shape[2:]
        inputs: dict[str, Any] = {"y": y, "picture": picture, "hat": both, "realism": strength, "noise": grain}
        return _samples(run(self._session, height, width, **inputs)[0])
