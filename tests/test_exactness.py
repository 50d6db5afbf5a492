# SPDX-License-Identifier: MIT
"""Every machine decodes the same indices: golden files under other BLAS kernels, thread counts and dispatch, and with
every float of the transforms moved by one unit in the last place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from tests.golden.make import FOLDER, digest
from vqcodec import zoo

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
CHILD = """
import json, sys
from pathlib import Path
import vqcodec
from tests.golden.make import digest
out = {}
for path in map(Path, sys.argv[2:]):
    found = vqcodec.indices(path.read_bytes(), threads=int(sys.argv[1]))
    out[path.stem] = [digest(found.base), None if found.refinement is None else digest(found.refinement)]
try:
    import ctypes, glob, os, numpy
    library = glob.glob(os.path.join(os.path.dirname(numpy.__file__), "..", "numpy.libs", "libscipy_openblas64*"))[0]
    name = ctypes.CDLL(library).scipy_openblas_get_corename64_
    name.restype = ctypes.c_char_p
    kernel = name().decode()
except Exception:
    kernel = "?"
print(json.dumps([kernel, out]))
"""


def in_a_process(threads: int, **environment: str) -> tuple[str, dict[str, list[str | None]]]:
    """Decode all golden files in a process of its own; the BLAS kernel that it ran with, and the digests."""
    files = [str(FOLDER / f"{name}.vqc") for name in EXPECTED]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), **environment}
    env["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent.parent), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", CHILD, str(threads), *files], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    kernel, found = json.loads(done.stdout)
    return kernel, found


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file(name: str) -> None:
    data = (FOLDER / f"{name}.vqc").read_bytes()
    expected = EXPECTED[name]
    assert len(data) == expected["bytes"]
    found = vqcodec.indices(data)
    assert list(found.base.shape) == expected["base_shape"]
    assert digest(found.base) == expected["base"]
    assert (None if found.refinement is None else digest(found.refinement)) == expected["refinement"]


def check(found: dict[str, list[str | None]], where: str) -> None:
    for name, expected in EXPECTED.items():
        assert found[name] == [expected["base"], expected["refinement"]], f"{name} {where}"


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_golden_files_with_other_thread_counts(threads: int) -> None:
    check(in_a_process(threads)[1], f"with {threads} threads")


def test_golden_files_under_other_blas_kernels() -> None:
    kernels = set()
    for threads, core in [(1, "Prescott"), (2, "Nehalem"), (1, "Sandybridge"), (2, "Haswell")]:
        kernel, found = in_a_process(threads, OPENBLAS_CORETYPE=core)
        check(found, f"under the BLAS kernel {kernel}")
        kernels.add(kernel)
    assert "?" in kernels or len(kernels) >= 3, f"only {kernels} ran: the test tested too little"


def test_golden_files_without_simd_dispatch() -> None:
    check(in_a_process(1, NPY_DISABLE_CPU_FEATURES="AVX2 FMA3 AVX512F AVX512CD AVX512_SKX")[1], "without AVX2")


def _perturbed(folder: Path, target: Path) -> None:
    """A copy of a model in which every float of both transforms is moved by one unit in the last place."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(folder, target)
    card = json.loads((target / "model.json").read_text(encoding="utf-8"))
    for name in ("analysis.onnx", "synthesis.onnx"):
        model = onnx.load(target / name)
        for tensor in model.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor)
            if value.dtype.kind == "f":
                moved = np.nextafter(value, np.array(np.inf, value.dtype))
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        data = model.SerializeToString()
        (target / name).write_bytes(data)
        card["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (target / "model.json").write_text(json.dumps(card), encoding="utf-8")


def test_no_float_of_the_transforms_reaches_the_indices(tmp_path: Path) -> None:
    other = tmp_path / "model"
    _perturbed(zoo.find().folder, other)
    moved = 0.0
    for name, expected in EXPECTED.items():
        data = (FOLDER / f"{name}.vqc").read_bytes()
        found = vqcodec.indices(data, model=other)
        assert digest(found.base) == expected["base"]
        assert (None if found.refinement is None else digest(found.refinement)) == expected["refinement"]
        a, b = (np.asarray(vqcodec.decode(data, model=m)).astype(float) for m in (None, other))
        moved = max(moved, float(np.abs(a - b).max()))
    assert moved > 0, "the perturbation did nothing: the test tested nothing"


def test_floats_given_by_a_broken_synthesis_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With transforms that give nothing but noise the indices of a file stay what they are."""
    from vqcodec.transform import Synthesis

    def noise(self: Synthesis, latents: NDArray[np.float32], hat: NDArray[np.float64]) -> NDArray[np.uint8]:
        return np.random.default_rng().integers(0, 256, (16 * latents.shape[0], 16 * latents.shape[1], 3), np.uint8)

    monkeypatch.setattr(Synthesis, "__call__", noise)
    data = (FOLDER / "tiled.vqc").read_bytes()
    first, second = vqcodec.decode(data), vqcodec.decode(data)
    assert np.any(np.asarray(first) != np.asarray(second))
    assert digest(vqcodec.indices(data).base) == EXPECTED["tiled"]["base"]
