# SPDX-License-Identifier: MIT
"""How long a warm browser takes to decode a picture of 768 x 512 at quality 75: python -m tests.web.times [PICTURE]

In Chromium, on one thread and on two, medians of nine, on an otherwise idle machine; under a minute there. Needs what
tests/test_web.py needs. Exits with 1 where a time is over its mark.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

import vqcodec
from tests import test_web
from vqcodec.cli import gallery
from vqcodec.options import DecodeOptions

MARKS_MS = {1: {"whole": 600}, 2: {"whole": 350, "look": 150}}  # look: the base layer, shown before the rest
COUNT, SIZE = 9, (768, 512)
PHOTOGRAPH = next((Path(vqcodec.__file__).parent / "photographs").glob("*.png"))


def main(path: str | Path) -> int:
    """Prints the times; 0 where all are within their marks."""
    picture = ImageOps.fit(Image.open(path).convert("RGB"), SIZE)
    data = vqcodec.encode(picture, quality=75)
    chromium = test_web.installed(test_web.CHROMIUM)
    shown = gallery.Gallery.of(str(test_web.FOLDER), str(test_web.RUNTIME), DecodeOptions())[0]
    print(f"{len(data)} bytes; load average {os.getloadavg()[0]:.1f}")
    server = test_web.serving(shown)
    address, late = next(server), 0
    with sync_playwright() as playwright:
        for threads, marks in MARKS_MS.items():
            browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=["--no-sandbox"])
            page = test_web.asking_page(browser, address)
            test_web.answers(page, f"{address}picture.vqc", body=data)
            found = page.ask("times", "picture.vqc", COUNT, threads)
            browser.close()
            for name, what in (("whole", "whole picture"), ("look", "first look"), ("both", "both")):
                times = sorted(time[name] for time in found)
                mark = marks.get(name)
                middle = statistics.median(times)
                late += mark is not None and middle > mark
                wanted = "" if mark is None else f", wanted: {mark} ms at most"
                print(f"{threads} thread(s), {what}: median {middle:.0f} ms, least {times[0]:.0f} ms{wanted}")
    server.close()
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else PHOTOGRAPH))
