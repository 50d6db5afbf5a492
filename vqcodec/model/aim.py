# SPDX-License-Identifier: MIT
"""The graph that tells the encoder what to aim at, at run time: ONNX Runtime on float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqcodec.errors import ModelError
from vqcodec.model.transforms import run, session

Array = NDArray[np.float32]
INPUTS = ("y", "x", "hat", "weight")


class Aim:
    """Latents, and the picture that they are to restore -> slopes of its error along the latents."""

    def __init__(self, graph: bytes, threads: int = 0, execution: str = "cpu") -> None:
        loaded = session(graph, threads, execution=execution)
        if {x.name for x in loaded.get_inputs()} != set(INPUTS):
            raise ModelError("the model's graph for efforts of 4 and more is of another version of vqcodec")
        self._session = loaded

    def __call__(self, **values: Array) -> Array:
        """Inputs as `vqcodec.train.aim_graph` has them -> slopes [h, w, M].

        Raises:
            ModelError: it gives something else, or cannot be run.
        """
        shape = values["y"].shape
        outputs = run(self._session, shape[2], shape[3], **values)
        if [x.shape[1] for x in outputs] != [shape[1]] or not np.isfinite(outputs[0]).all():
            raise ModelError("the model's graph for efforts of 4 and more gives numbers that are no use")
        slopes: Array = outputs[0][0].transpose(1, 2, 0)
        return slopes
