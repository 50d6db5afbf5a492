# SPDX-License-Identifier: MIT
"""The decoder in JavaScript: in Node (`node`), and in the browsers that are installed (playwright, extra `web-test`).

Skipped where these are not there, and where there is no onnxruntime-web: `npm install --prefix vqcodec/web`, or
VQCODEC_ORT names its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.make import FOLDER
from vqcodec.cli import gallery, view
from vqcodec.codec import decode
from vqcodec.errors import VqcError
from vqcodec.model import zoo
from vqcodec.options import DecodeOptions

WEB = gallery.WEB
RUNTIME = gallery.find_runtime(os.environ.get("VQCODEC_ORT"))
BROWSERS = {"chromium": ("chromium", "google-chrome", "chromium-browser"), "firefox": ("firefox-esr", "firefox")}
SMALL = ("one", "gray", "alpha", "metadata", "srgb")  # what plain JavaScript reads in a second each
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
DIGESTS = ("base_shape", "base", "refinement", "colour", "drift")

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
needs_runtime = pytest.mark.skipif(
    RUNTIME is None, reason="there is no onnxruntime-web (npm install --prefix vqcodec/web)"
)


def node(files: list[Path], runtime: str, out: Path | None = None) -> list[dict[str, Any]]:
    """What tests/web/check.mjs says of .vqc files; without a warning, unless it runs without ONNX Runtime."""
    script = Path(__file__).parent / "web" / "check.mjs"
    folder = zoo.find().folder
    asked = json.dumps({"files": [str(file) for file in files], "out": None if out is None else str(out)})
    command = ["node", str(script), str(WEB), str(folder), runtime]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=280, check=True)
    found = json.loads(done.stdout)
    assert found["warnings"] == []
    answers: list[dict[str, Any]] = found["answers"]
    return answers


def python_rgba(data: bytes) -> np.ndarray:
    """A file decoded by Python, [H, W, 4] uint8."""
    picture = decode.decode(data)
    alpha = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return np.dstack([np.broadcast_to(picture.rgb, (*picture.rgb.shape[:2], 3)), alpha])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal shapes, and samples within one level."""
    assert found.shape == expected.shape
    assert int(np.abs(found.astype(int) - expected).max()) <= 1


@needs_node
def test_plain_javascript_reads_the_expected_indices() -> None:
    for name, answer in zip(SMALL, node([FOLDER / f"{name}.vqc" for name in SMALL], "plain"), strict=True):
        assert answer == {key: EXPECTED[name][key] for key in DIGESTS}, name


@needs_node
@needs_runtime
def test_onnx_runtime_reads_the_expected_indices_and_pixels(tmp_path: Path) -> None:
    answers = node([FOLDER / f"{name}.vqc" for name in EXPECTED], str(RUNTIME), tmp_path)
    for number, (name, answer) in enumerate(zip(EXPECTED, answers, strict=True)):
        assert {key: answer.get(key) for key in DIGESTS} == {key: EXPECTED[name][key] for key in DIGESTS}, name
        expected = python_rgba((FOLDER / f"{name}.vqc").read_bytes())
        found = np.frombuffer((tmp_path / f"{number}.rgba").read_bytes(), np.uint8)
        assert_close(found.reshape(answer["height"], answer["width"], 4), expected)


@needs_node
def test_damaged_files_give_pythons_error(tmp_path: Path) -> None:
    data = (FOLDER / "alpha.vqc").read_bytes()
    rng = np.random.default_rng(3)
    damaged = [data[:n] for n in (0, 3, 4, 5, 9, 15, 21, len(data) // 2, len(data) - 1)] + [
        data + b"\0",
        b"P" + data[1:],
    ]
    damaged += [data[:4] + bytes([n]) + data[5:] for n in (0, 2)]
    for place in [*range(5, 28), *rng.integers(28, len(data), 40)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for text in ("metadata", "tiled"):
        whole = (FOLDER / f"{text}.vqc").read_bytes()
        damaged += [whole[: len(whole) // 2], whole[:-60] + bytes([whole[-60] ^ 4]) + whole[-59:]]
    files = []
    for number, file in enumerate(damaged):
        files.append(tmp_path / f"{number}.vqc")
        files[-1].write_bytes(file)
    for file, answer in zip(damaged, node(files, "plain"), strict=True):
        with pytest.raises(VqcError) as caught:
            decode.decode(file)
        sentence = str(caught.value).split(" (and ")[0]  # JavaScript stops at the first damage
        if answer["code"] == 5:  # the header's checksum is right: no such case among these
            raise AssertionError(answer)
        assert (answer.get("error"), answer["code"]) == (sentence, caught.value.exit_code)


# ---- browsers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(BROWSERS))
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A headless browser of this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="there is no playwright (pip install '.[web-test]')")
    path = next((path for name in BROWSERS[request.param] if (path := shutil.which(name))), None)
    if path is None or RUNTIME is None:
        pytest.skip(f"there is no {request.param if path is None else 'onnxruntime-web'}")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if request.param == "chromium" else []
        running = getattr(playwright, request.param).launch(executable_path=path, headless=True, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The page of `vqcodec view` on the golden files, decoded by the browser: its address."""
    yield from serving(gallery.Gallery.of(str(FOLDER), None if RUNTIME is None else str(RUNTIME), DecodeOptions())[0])


def serving(pictures: gallery.Gallery) -> Iterator[str]:
    server = view.make_server(pictures)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


DECODE = """async ([file, options]) => {
  const { decode, info } = await import(new URL("vqcodec/vqcodec.js", document.baseURI).href);
  const parts = [];
  try {
    const bytes = await (await fetch(file)).arrayBuffer();
    const onPart = ({ stage, x, y, width, height }) => parts.push([stage, x, y, width, height]);
    const image = await decode(bytes, { ...options, onPart });
    let text = "";
    const { data } = image;
    for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
    return { width: image.width, height: image.height, rgba: btoa(text), parts, info: await info(bytes) };
  } catch (error) {
    return { error: error.message, code: error.code };
  }
}"""
