# SPDX-License-Identifier: MIT
"""Metrics of other people's packages: SSIMULACRA2, and CVVDP, GMSD and HaarPSI, which need torch. Imported when used.

Each takes two [H, W, 3] uint8 pictures, the original first. The metrics run in several threads at once, so torch keeps
to one thread each.
"""

from __future__ import annotations

import importlib
import io
import logging
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import MissingError

Rgb = NDArray[np.uint8]
DISPLAY = "standard_4k"  # CVVDP's display: 30 inches at 0.75 m, 200 cd/m², 75 pixels per degree
MODULES = {"cvvdp": "pycvvdp"}  # what packages are imported as, where it is not their name
_local = threading.local()


def check(package: str) -> None:
    """Import a package that needs torch.

    Raises:
        MissingError: it cannot be imported, as with a torchvision that was built for another torch.
    """
    try:
        importlib.import_module(MODULES.get(package, package))
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error).splitlines() or [type(error).__name__]
        raise MissingError(f"{package} cannot be imported ({why[0]}): install torch and torchvision together") from None


def ssimulacra2(a: Rgb, b: Rgb) -> float:
    """SSIMULACRA2 (Sneyers 2022) by the package of that name: 90 is visually lossless, 50 medium, below 0 very bad."""
    from ssimulacra2 import compute_ssimulacra2

    files = []
    for pixels in (a, b):
        files.append(io.BytesIO())
        Image.fromarray(pixels).save(files[-1], "BMP")
        files[-1].seek(0)
    return float(compute_ssimulacra2(*files))


def _torch() -> Any:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def cvvdp(a: Rgb, b: Rgb) -> float:
    """ColorVideoVDP (Mantiuk et al. 2024), in just-objectionable differences: 10 is identical, less is worse."""
    torch = _torch()
    if not hasattr(_local, "cvvdp"):
        logging.getLogger("torch").setLevel(logging.ERROR)  # it looks for a CUDA compiler, and says so
        package: Any = importlib.import_module(MODULES["cvvdp"])
        _local.cvvdp = package.cvvdp(display_name=DISPLAY, device=torch.device("cpu"), heatmap=None)
    with torch.inference_mode():
        quality, _ = _local.cvvdp.predict(b, a, dim_order="HWC")
    return float(quality)


def _piq(name: str, a: Rgb, b: Rgb) -> float:
    torch = _torch()
    x, y = (torch.from_numpy(p.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous() for p in (a, b))
    with torch.inference_mode():
        return float(getattr(importlib.import_module("piq"), name)(x, y, data_range=1.0))


def gmsd(a: Rgb, b: Rgb) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014): 0 is identical, more is worse."""
    return _piq("gmsd", a, b)


def haarpsi(a: Rgb, b: Rgb) -> float:
    """Haar perceptual similarity index (Reisenhofer et al. 2018): 1 is identical, less is worse."""
    return _piq("haarpsi", a, b)
