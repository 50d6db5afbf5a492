# SPDX-License-Identifier: MIT
"""Writes small pictures to train on, from data sets that scikit-learn's package holds: nothing is downloaded.

    python docs/recipes/pictures.py digits FOLDER   1,797 handwritten digits, gray, enlarged from 8 x 8 to 28 x 28
    python docs/recipes/pictures.py pieces FOLDER   520 pieces of 32 x 32 of two photographs, in colour

Every tenth goes to FOLDER/judged, the others to FOLDER/train.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

DIGIT_SIDE, PIECE_SIDE = 28, 32  # [pixels]


def digits() -> Iterator[Image.Image]:
    """The digits of Alpaydin and Kaynak (1998): 8 x 8, levels 0 to 16."""
    from sklearn.datasets import load_digits

    for levels in load_digits().images:
        small = Image.fromarray(np.rint(levels * (255 / 16)).astype(np.uint8))
        yield small.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)


def pieces() -> Iterator[Image.Image]:
    """Pieces of the two photographs of scikit-learn (CC BY 2.0: a temple, a flower), beside each other."""
    from sklearn.datasets import load_sample_images

    for photograph in load_sample_images().images:
        for y in range(0, photograph.shape[0] - PIECE_SIDE + 1, PIECE_SIDE):
            for x in range(0, photograph.shape[1] - PIECE_SIDE + 1, PIECE_SIDE):
                yield Image.fromarray(photograph[y : y + PIECE_SIDE, x : x + PIECE_SIDE])


def main(kind: str, folder: str) -> None:
    """Writes one of the sets."""
    for number, picture in enumerate({"digits": digits, "pieces": pieces}[kind]()):
        path = Path(folder) / ("train" if number % 10 else "judged") / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("digits", "pieces"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
