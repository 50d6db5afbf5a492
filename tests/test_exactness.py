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
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from tests.golden.make import FOLDER, digest
from vqcodec.codec import indices
from vqcodec.model import zoo
from vqcodec.model.engines import ENVIRONMENT

EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
CHILD = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
import numpy, threadpoolctl, vqcodec
from tests.golden.make import digest
from vqcodec.codec import indices
indices.single_blas = nullcontext  # so that BLAS uses the threads that the environment gives it
out = {}
for path in map(Path, sys.argv[2:]):
    found = vqcodec.indices(path.read_bytes(), threads=int(sys.argv[1]))
    out[path.stem] = [None if layer is None else digest(layer) for layer in found]
blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
core = numpy._core if hasattr(numpy, "_core") else numpy.core
features = core._multiarray_umath.__cpu_features__
dispatched = [name for name in core._multiarray_umath.__cpu_dispatch__ if features[name]]
print(json.dumps([blas[0]["architecture"] if blas else "?", blas[0]["num_threads"] if blas else 0, dispatched, out]))
"""
SMALL = ("one", "gray", "high")


class Ran(NamedTuple):
    """How a process of its own decoded golden files."""

    kernel: str  # of OpenBLAS
    blas_threads: int
    dispatched: list[str]  # NumPy's features beyond its baseline that were in use
    digests: dict[str, list[str | None]]


def in_a_process(threads: int, names: Iterable[str] = EXPECTED, **environment: str) -> Ran:
    """Decode golden files in a process of its own."""
    files = [str(FOLDER / f"{name}.vqc") for name in names]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), **environment}
    env["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent.parent), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", CHILD, str(threads), *files], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return Ran(*json.loads(done.stdout))


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_file(name: str) -> None:
    data = (FOLDER / f"{name}.vqc").read_bytes()
    expected = EXPECTED[name]
    assert len(data) == expected["bytes"]
    found = vqcodec.indices(data)
    assert list(found.base.shape) == expected["base_shape"]
    for layer, array in found._asdict().items():
        assert (None if array is None else digest(array)) == expected[layer], layer


def check(ran: Ran, where: str) -> None:
    assert ran.digests
    for name, found in ran.digests.items():
        assert found == [EXPECTED[name][layer] for layer in indices.Indices._fields], f"{name} {where}"


@pytest.mark.parametrize("engine", ["plain", "onnx"])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_golden_files_with_both_engines_and_other_thread_counts(threads: int, engine: str) -> None:
    ran = in_a_process(threads, EXPECTED if threads == 1 else SMALL, **{ENVIRONMENT: engine})
    assert ran.kernel == "?" or ran.blas_threads == threads or ran.blas_threads == os.cpu_count()
    check(ran, f"with {threads} threads")


def test_golden_files_under_every_blas_kernel_that_runs_here() -> None:
    """OpenBLAS sums in another order for every family of processors; one that this machine cannot run falls back."""
    kernels = set()
    for core in ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX", "NeoverseN1"):
        ran = in_a_process(1, SMALL, OPENBLAS_CORETYPE=core, **{ENVIRONMENT: "plain"})
        check(ran, f"under the BLAS kernel {ran.kernel}")
        kernels.add(ran.kernel)
    assert "?" in kernels or len(kernels) >= 3, f"only {kernels} ran: the test tested too little"


def test_golden_files_without_simd_dispatch() -> None:
    usual = in_a_process(1, SMALL)
    ran = in_a_process(1, EXPECTED, NPY_DISABLE_CPU_FEATURES=" ".join(usual.dispatched), **{ENVIRONMENT: "plain"})
    assert ran.dispatched == [] != usual.dispatched
    check(ran, "without dispatch")


def test_indices_need_no_onnx_runtime() -> None:
    """The integer part stands alone: machines for which there is no ONNX Runtime read the same indices."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import vqcodec; from pathlib import Path\n"
        f"found = vqcodec.indices(Path({str(FOLDER / 'high.vqc')!r}).read_bytes())\n"
        "from tests.golden.make import digest; print(digest(found.base), digest(found.refinement))"
    )
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [EXPECTED["high"]["base"], EXPECTED["high"]["refinement"]]


def test_the_specified_decoder_alone_reads_golden_files() -> None:
    """Without constriction and without ONNX Runtime: `python -m tests.plain`, as other machines can run it."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None; from tests import plain; sys.exit(plain.main(['one', 'gray']))"
    )
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(": 0 wrong\n")


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
    from vqcodec.model.transforms import Synthesis

    def noise(self: Synthesis, latents: NDArray[np.float32], *more: object) -> NDArray[np.uint8]:
        return np.random.default_rng().integers(0, 256, (16 * latents.shape[0], 16 * latents.shape[1], 3), np.uint8)

    monkeypatch.setattr(Synthesis, "__call__", noise)
    data = (FOLDER / "tiled.vqc").read_bytes()
    first, second = vqcodec.decode(data), vqcodec.decode(data)
    assert np.any(np.asarray(first) != np.asarray(second))
    assert digest(vqcodec.indices(data).base) == EXPECTED["tiled"]["base"]
