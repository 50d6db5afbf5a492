# SPDX-License-Identifier: MIT
"""Analysis and synthesis transforms at run time: ONNX Runtime on float32. Nothing here touches the entropy coder.

Floats may differ in their last bits from machine to machine: the encoder's indices may then differ, never the
decoder's, which come from the file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.errors import ModelError


def session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session.

    Raises:
        ModelError: not a graph that can be loaded.
    """
    import onnxruntime  # here, because it takes a quarter of a second, and `vqcodec info` can do without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # give memory back between tiles of different sizes
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ModelError(f"{path.name} cannot be loaded: {str(error).splitlines()[0]}") from None


class Analysis:
    """Picture -> latents and base vectors."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._run = session(path, threads).run

    def __call__(
        self, rgb: NDArray[np.uint8], hat: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Analyse.

        Args:
            rgb: [H, W, 3] uint8, H and W multiples of 16.
            hat: [A] weights of the quality's anchors.

        Returns:
            latents [H/16, W/16, M] and base vectors [H/16, W/16, D], float32.
        """
        x = np.ascontiguousarray(rgb.transpose(2, 0, 1))[None].astype(np.float32)
        x *= np.float32(1 / 255)
        y, z = self._run(None, {"x": x, "hat": hat[None].astype(np.float32)})
        return y[0].transpose(1, 2, 0), z[0].transpose(1, 2, 0)


class Synthesis:
    """Latents -> picture."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._run = session(path, threads).run

    def __call__(self, latents: NDArray[np.float32], hat: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Synthesise.

        Args:
            latents: [h, w, M] float32.
            hat: [A + 1] weights of the quality's anchors; the last stands for the base layer alone.

        Returns:
            [16 h, 16 w, 3] uint8.
        """
        y = np.ascontiguousarray(latents.transpose(2, 0, 1))[None]
        (x,) = self._run(None, {"y": y, "hat": hat[None].astype(np.float32)})
        x *= 255
        np.rint(x, out=x)
        np.clip(x, 0, 255, out=x)
        picture: NDArray[np.uint8] = x[0].astype(np.uint8)
        return np.ascontiguousarray(picture.transpose(1, 2, 0))
