# SPDX-License-Identifier: MIT
"""The graph that the encoder's highest efforts follow, at run time: ONNX Runtime on float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqcodec.errors import ModelError
from vqcodec.model.engines import CLASSES
from vqcodec.model.transforms import run, session

Array = NDArray[np.float32]
INPUTS = ("levels", "nudge", "features", "base_mean", "x", "hat", "step", "first", "coded", "shrink", "weight")


class Gradient:
    """Indices, and what they are to restore -> scale classes, error of every latent's pixels, slopes of the cost."""

    def __init__(self, graph: bytes, threads: int = 0, execution: str = "cpu") -> None:
        loaded = session(graph, threads, execution=execution)
        if {x.name for x in loaded.get_inputs()} != set(INPUTS):
            raise ModelError("the model's graph for high efforts is of another version of vqcodec: export it again")
        self._session = loaded

    def __call__(self, **values: Array) -> tuple[Array, Array, Array]:
        """Inputs and outputs as `vqcodec.train.refinement.refinement_graph` has them.

        Raises:
            ModelError: it gives something else, or cannot be run.
        """
        shape = values["levels"].shape
        outputs = run(self._session, shape[2], shape[3], **values)
        if [x.shape[1] for x in outputs] != [shape[1], 1, shape[1]]:
            raise ModelError("the model's graph for high efforts does not fit the model")
        classes, error, slopes = outputs
        if not (classes.min() >= 0 and classes.max() < CLASSES and np.isfinite(slopes).all()):
            raise ModelError("the model's graph for high efforts gives numbers that are no use")
        return classes, error, slopes
