# SPDX-License-Identifier: MIT
"""What the transforms do when ONNX Runtime fails."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from vqcodec.errors import LimitError, ModelError
from vqcodec.model.transforms import run

SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
from vqcodec.errors import LimitError
from vqcodec.model import zoo
model = zoo.load(zoo.find(None), 1)
hat, synthesis = model.synthesis_weights(model.setting(50), base_only=False), model.synthesis
latents = np.zeros((64, 64, model.prior.latents), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + latents.nbytes + 40_000_000,) * 2)
try:
    synthesis.unrounded(latents, hat)
except LimitError as error:
    print(error)
    sys.exit(error.exit_code)
"""


class Failing:
    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, *_: Any) -> Any:
        raise RuntimeError(self.text)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_out_of_memory_is_a_limit_and_not_a_fault_of_the_model() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done
    assert done.stdout.startswith("not enough memory")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1",
            LimitError,
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : Available memory of 1 is smaller than requested bytes of 2", LimitError),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: y", ModelError),
    ],
)
def test_what_onnx_runtime_says_decides_the_kind_of_error(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(Failing(text), 1, 1, y=np.zeros(1, np.float32))
