# SPDX-License-Identifier: MIT
"""Pillow brought to reason: its settings belong to the process, and concurrent loads share them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image, ImageFile

_settings_lock = threading.Lock()
_settings_users: list[int] = []  # the pixel limit of each load under way
_settings_undo = ExitStack()


@contextmanager
def strict_pillow(max_pixels: int) -> Iterator[None]:
    """Silences warnings, sets Pillow's own pixel limit to ours, and refuses truncated pictures.

    These settings belong to the process, so concurrent loads share them: the first sets, the last restores.
    """
    with _settings_lock:
        if not _settings_users:
            _settings_undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _settings_undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _settings_undo.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _settings_users.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = max(_settings_users)
    try:
        yield
    finally:
        with _settings_lock:
            _settings_users.remove(max_pixels)
            if not _settings_users:
                _settings_undo.close()
