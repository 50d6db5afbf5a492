# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing with Atheris: `python -m tests.fuzz [libFuzzer options] CORPUS_FOLDER` (pip install atheris).

    python -m tests.fuzz -max_total_time=1800 -max_len=4096 /tmp/corpus

Files are mutated as bytes, or in their pieces with checksums made right again (`tests/mutate.py`). A file that ends in
anything but a picture or one `VqcError` is a finding: libFuzzer writes it to a file named crash-..., and the same
command with that file's name in place of the folder repeats it. Files that take longer than two seconds are findings
as well (`-timeout=2`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris
import numpy as np

with atheris.instrument_imports(include=["vqcodec"]):
    import vqcodec
    import vqcodec.api  # what is to be instrumented
    from vqcodec.bitstream import container
    from vqcodec.model import transforms

from tests.golden.make import FOLDER
from tests.mutate import broken, hostile

MAX_PIXELS = 40_000


def one(data: bytes) -> None:
    """One file in every way that there is to read it."""
    for partial in (False, True):
        try:
            restored = vqcodec.decode(data, threads=1, max_pixels=MAX_PIXELS, allow_partial=partial)
        except vqcodec.VqcError as error:
            message = str(error)
            assert message.isprintable(), message
        else:
            header = container.read_header(data).header
            assert restored.size == (header.width, header.height)
    try:
        vqcodec.indices(data, threads=1, max_pixels=MAX_PIXELS)
        vqcodec.info(data)
    except vqcodec.VqcError:
        pass


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation, or ours of a file whose header can be read."""
    random = Random(seed)
    try:
        container.read_header(data)
    except vqcodec.VqcError:
        return bytes(atheris.Mutate(data, max_size))
    match random.randrange(4):
        case 0:
            return bytes(atheris.Mutate(data, max_size))
        case 1:
            return broken([data], random)[:max_size]
        case _:
            return hostile([data], random)[:max_size]


def main() -> None:
    """Fills an empty corpus with small good files, and runs."""
    folder = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if folder is not None and folder.is_dir() and not any(folder.iterdir()):
        from tests.test_fuzz import small_files

        for number, data in enumerate(small_files()):
            (folder / f"good-{number}.vqc").write_bytes(data)

    def synthesis(_: object, latents: np.ndarray, *more: object) -> np.ndarray:
        assert np.isfinite(latents).all()
        return np.zeros((16 * latents.shape[0], 16 * latents.shape[1], 3), np.uint8)

    transforms.Synthesis.__call__ = synthesis  # type: ignore[assignment, method-assign]
    vqcodec.indices((FOLDER / "one.vqc").read_bytes())  # loads the model before the clock runs
    atheris.Setup([sys.argv[0], "-timeout=2", *sys.argv[1:]], one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
