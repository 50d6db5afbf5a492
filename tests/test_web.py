# SPDX-License-Identifier: MIT
"""The decoder in JavaScript: in Node (`node`), and in the browsers that are installed (playwright, extra `web-test`).

Skipped where these are not there, and where there is no onnxruntime-web: `npm install --prefix vqcodec/web`, or
VQCODEC_ORT names its folder.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.make import FOLDER
from vqcodec.bitstream import container
from vqcodec.cli import gallery, view
from vqcodec.codec import decode
from vqcodec.errors import VqcError
from vqcodec.model import zoo
from vqcodec.options import DecodeOptions
from vqcodec.pictures import read

WEB = gallery.WEB
RUNTIME = gallery.find_runtime(os.environ.get("VQCODEC_ORT"))
CHROMIUM, FIREFOX = ("chromium", "chromium-browser", "google-chrome"), ("firefox-esr", "firefox")
SMALL = ("one", "gray", "alpha", "metadata", "srgb")  # what plain JavaScript reads in a second each
SHORT = (*SMALL, "high", "patches")  # for the second browser
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
        if "width" not in answer:  # Node has no WebP for the patches
            continue
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


def installed(names: tuple[str, ...]) -> str:
    """The path of a browser."""
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None or RUNTIME is None:
        pytest.skip(f"there is no {names[0] if path is None else 'onnxruntime-web'}")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="there is no playwright (pip install '.[web-test]')")
    path = installed(CHROMIUM)
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=["--no-sandbox"])
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


@pytest.fixture(scope="module")
def page(browser: Any, served: str) -> Iterator[Any]:
    """`asking_page`, in which nothing may have gone wrong."""
    opened = asking_page(browser, served)
    yield opened
    assert opened.errors == []
    opened.close()


def asking_page(browser: Any, served: str) -> Any:
    """A page beside the decoder's modules, with tests/web/page.mjs: `page.ask(name, ...)` calls its functions."""
    opened = opened_page(browser)
    folder = Path(__file__).parent / "web"
    for name in ("page.mjs", "indices.mjs"):
        answers(opened, f"{served}{name}", path=folder / name, headers=SCRIPT)
    answers(opened, f"{served}blank.html", body="<!doctype html>", headers=ISOLATED)
    opened.goto(f"{served}blank.html")
    opened.add_script_tag(url=f"{served}page.mjs", type="module")
    opened.ask = lambda *arguments: opened.evaluate("all => window.ask(...all)", list(arguments))
    return opened


SCRIPT = {"content-type": "text/javascript", "cross-origin-resource-policy": "same-origin"}
ISOLATED = {
    "content-type": "text/html",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
}


def opened_page(browser: Any, **options: Any) -> Any:
    """A page; `errors` collects what goes wrong in it."""
    opened = browser.new_page(**options)
    opened.set_default_timeout(240_000)
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    return opened


def answers(page: Any, url: str, **content: Any) -> None:
    """Answers in the server's place."""
    page.route(url, lambda route: route.fulfill(**content))


def settled(page: Any, expression: str) -> None:
    """Waits until an expression is true on a page whose policy forbids Playwright's own way to wait."""
    end = time.monotonic() + 240
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression}: {page.inner_text('body')[:500]}"
        time.sleep(0.1)


def place(name: str) -> str:
    """The address of a golden file on the page of `served`."""
    return f"files/{sorted(EXPECTED).index(name)}/{name}.vqc"


def samples(answer: dict[str, Any]) -> np.ndarray:
    """[H, W, 4] uint8."""
    assert "error" not in answer, answer
    data = np.frombuffer(base64.b64decode(answer["rgba"]), np.uint8)
    return data.reshape(answer["height"], answer["width"], 4)


def test_browsers_read_the_expected_indices(page: Any) -> None:
    for name, expected in EXPECTED.items():
        assert page.ask("digests", place(name)) == {key: expected[key] for key in DIGESTS}, name


def test_browsers_show_pythons_pixels(page: Any) -> None:
    for name in EXPECTED:
        answer = page.ask("samples", place(name))
        assert_close(samples(answer), python_rgba((FOLDER / f"{name}.vqc").read_bytes()))
        assert {part[0] for part in answer["parts"]} == {"picture"}  # all was there: no first look
    region = {"x": 250, "y": 240, "width": 100, "height": 50}
    answer = page.ask("samples", place("tiled"), {"region": region})
    whole = python_rgba((FOLDER / "tiled.vqc").read_bytes())
    assert_close(samples(answer), whole[240:290, 250:350])
    answer = page.ask("samples", place("patches"), {"region": region})  # through blocks that are kept, and others
    assert_close(samples(answer), python_rgba((FOLDER / "patches.vqc").read_bytes())[240:290, 250:350])
    assert "does not lie inside the picture" in page.ask("samples", place("one"), {"region": region})["error"]
    assert page.ask("samples", place("tiled"), {"maxPixels": 1000})["code"] == 7


def test_the_first_look_comes_before_the_rest(page: Any) -> None:
    facts = page.ask("info", place("tiled"))
    first = sum(facts["parts"].get(kind, 0) for kind in ("header", "colour layer", "base layer")) + 4 * (
        facts["tiles"] + 1
    )
    answer = page.ask("halves", place("tiled"), first + 50)
    assert answer["before"] == ["base"] * facts["tiles"]
    assert answer["parts"][facts["tiles"] :] == ["picture"] * facts["tiles"]
    assert_close(samples(answer), python_rgba((FOLDER / "tiled.vqc").read_bytes()))


def test_the_first_look_is_near_what_the_base_layer_holds(page: Any) -> None:
    assert [name for name in ("default", "gray", "tiled") if page.ask("look", place(name)) < 24] == []


def test_png_files_keep_profile_exif_and_xmp(page: Any) -> None:
    for name in ("metadata", "alpha", "gray"):
        data = (FOLDER / f"{name}.vqc").read_bytes()
        png = base64.b64decode(page.ask("png", place(name)))
        found, expected = read.load(png), decode.decode(data)
        assert (found.icc, found.exif, found.xmp, found.gray) == (
            expected.icc,
            expected.exif,
            expected.xmp,
            expected.gray,
        )
        assert_close(found.rgb, np.broadcast_to(expected.rgb, found.rgb.shape))
        assert (found.alpha is None) == (expected.alpha is None)


def test_damage_and_unknown_models_are_named(page: Any, served: str) -> None:
    data = bytearray((FOLDER / "srgb.vqc").read_bytes())
    data[-9] ^= 1
    other = bytearray((FOLDER / "one.vqc").read_bytes())
    other[6:10] = b"\1\2\3\4"
    end = len(other) - sum(size + 4 for size in sections(bytes((FOLDER / "one.vqc").read_bytes())))
    other[end - 4 : end] = zlib.crc32(other[: end - 4]).to_bytes(4, "little")
    for name, body in (("damaged", data), ("other", other)):
        answers(page, f"{served}{name}.vqc", body=bytes(body))
    assert "checksum does not match" in page.ask("samples", "damaged.vqc")["error"]
    answer = page.ask("samples", "other.vqc")
    assert answer["code"] == 5
    assert "written with the model 01020304" in answer["error"]
    assert page.ask("aborted", place("default")) == ["AbortError", 320]


def sections(data: bytes) -> list[int]:
    """The sizes of the sections of a file."""
    return [section.size_bytes for section in container.read_header(data).sections()]


# ---- pages with <img src="photo.vqc"> --------------------------------------------------------------------------------

PICTURES = """<!doctype html><html><head><script src="vqcodec/vqc-img.js"></script></head><body>
<img id="plain" src="{high}" alt="a cup">
<img id="set" alt="" srcset="{gray} 101w, {default} 320w" sizes="(max-width: 500px) 90px, 320px" src="{gray}">
<picture><source type="image/x-vqc" srcset="{srgb}"><img id="fallback" alt=""
  src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="></picture>
<img id="broken" src="nowhere.vqc" alt="nothing">
<div style="height: 5000px"></div><img id="late" src="{alpha}" loading="lazy" alt="">
</body></html>"""
SHOWN = (
    "document.getElementById('{}').naturalWidth === {} && document.getElementById('{}').currentSrc.startsWith('blob:')"
)


def shown(name: str, width: int) -> str:
    """An expression: the picture of this id is there, and so wide."""
    return SHOWN.format(name, width, name)


def test_pages_show_vqc_pictures(browser: Any, served: str) -> None:
    page = opened_page(browser, viewport={"width": 1400, "height": 900})
    text = PICTURES.format(**{name: place(name) for name in EXPECTED})
    answers(page, f"{served}page.html", body=text, headers={"content-type": "text/html"})
    page.goto(f"{served}page.html")
    assert page.evaluate("getComputedStyle(document.getElementById('plain')).visibility") in ("hidden", "visible")
    settled(page, shown("plain", 160))
    settled(page, shown("set", 320))
    settled(page, shown("fallback", 80))
    settled(page, "document.getElementById('broken').dataset.vqc === 'failed'")
    states = "[...document.images].map(image => [image.id, image.dataset.vqc, getComputedStyle(image).visibility])"
    settled(page, f"{states}.every(([id, state]) => state !== 'wait' || id === 'late')")
    assert page.evaluate(states) == [
        ["plain", "shown", "visible"],
        ["set", "shown", "visible"],
        ["fallback", None, "visible"],
        ["broken", "failed", "visible"],
        ["late", "wait", "hidden"],  # far below: not decoded yet
    ]
    page.evaluate("scrollTo(0, 5000)")
    settled(page, shown("late", 100))
    # what scripts do later: a new picture, and another one in its place
    page.evaluate("file => document.body.append(Object.assign(new Image(), { id: 'new', src: file }))", place("one"))
    settled(page, shown("new", 1))
    page.evaluate("file => (document.getElementById('new').src = file)", place("high"))
    settled(page, shown("new", 160))
    page.set_viewport_size({"width": 450, "height": 800})  # srcset: another candidate
    settled(page, "document.getElementById('set').naturalWidth === 90 && document.images.length === 6")
    page.reload()
    settled(page, shown("plain", 160))
    assert page.errors == []
    page.close()


def test_the_service_worker_answers_with_png(browser: Any, served: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    script = '<!doctype html><html><head><script src="vqcodec/vqc-img.js" data-worker="vqc-sw.js"></script></head>'
    body = f'<body><img id="one" src="{place("high")}"></body></html>'
    worker = (WEB / "vqc-sw.js").read_text(encoding="utf-8")
    for name, kind, content in (("page.html", "text/html", script + body), ("vqc-sw.js", "text/javascript", worker)):
        context.route(f"{served}{name}", fulfilled(body=content, headers={"content-type": kind}))
    page.goto(f"{served}page.html")
    settled(page, shown("one", 160))  # the first visit: by the script
    settled(page, "navigator.serviceWorker.controller !== null")
    page.reload()
    settled(page, "document.getElementById('one').naturalWidth === 160")
    assert page.evaluate("document.getElementById('one').currentSrc").endswith("high.vqc")
    response = page.evaluate("file => fetch(file).then(answer => answer.headers.get('content-type'))", place("high"))
    assert response == "image/x-vqc"  # what is fetched stays what it is
    context.close()


def fulfilled(**content: Any) -> Any:
    """Answers in the server's place."""
    return lambda route: route.fulfill(**content)


# ---- Firefox, which reports by itself --------------------------------------------------------------------------------

REPORT = """import "./page.mjs";
const files = %s;
const tell = (step, content) => fetch("report", { method: "POST", body: JSON.stringify([step, content]) });
await tell("the page", null);
for (const [name, file] of Object.entries(files)) {
  await tell(`digests ${name}`, await ask("digests", file));
  await tell(`samples ${name}`, await ask("samples", file));
}
const frame = document.body.appendChild(document.createElement("iframe"));
frame.src = "page.html";
await new Promise(resolve => (frame.onload = resolve));
const images = () => [...frame.contentDocument.images].filter(image => image.id !== "late");
const waits = image => image.dataset.vqc === "wait" || (image.id === "fallback" && image.naturalWidth < 2);
const pause = () => new Promise(resolve => setTimeout(resolve, 100));
while (images().some(waits)) await pause();
await tell("images", images().map(image => [image.id, image.naturalWidth, image.dataset.vqc ?? null]));
"""


def reported(steps: queue.Queue[tuple[str, Any]], last: str) -> dict[str, Any]:
    """What Firefox says of each step up to the last; fails where it hangs in one."""
    found: dict[str, Any] = {}
    while last not in found:
        try:
            name, content = steps.get(timeout=30 if found else 120)  # a busy machine takes long to start it
        except queue.Empty:
            pytest.fail(f"Firefox hangs after {list(found)[-1]}" if found else "Firefox does not open the page")
        found[name] = content
    return found


@pytest.mark.timeout(240)
def test_firefox_decodes(tmp_path: Path) -> None:
    path = installed(FIREFOX)
    server = view.make_server(gallery.Gallery.of(str(FOLDER), str(RUNTIME), DecodeOptions())[0])
    folder = Path(__file__).parent / "web"
    steps: queue.Queue[tuple[str, Any]] = queue.Queue()
    pages = {name: ("text/javascript", (folder / name).read_bytes()) for name in ("page.mjs", "indices.mjs")}
    script = (
        b'<!doctype html><body><script type="module" src="report.mjs"></script>'  # none inline: the policy forbids it
    )
    pages["report.html"] = ("text/html", script)
    pages["report.mjs"] = ("text/javascript", (REPORT % json.dumps({name: place(name) for name in SHORT})).encode())
    pages["page.html"] = ("text/html", PICTURES.format(**{name: place(name) for name in EXPECTED}).encode())

    class Reported(server.RequestHandlerClass):  # type: ignore[misc, name-defined]
        def _content(self, address: str, query: str) -> tuple[str, bytes]:
            return pages[address] if address in pages else super()._content(address, query)

        def _decoded(self) -> tuple[str, bytes]:
            steps.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            return "text/plain", b""

    server.RequestHandlerClass = Reported
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/report.html"
    command = [path, "--headless", "--no-remote", "--profile", str(tmp_path), address]
    firefox = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(tmp_path)}
    )
    try:
        report = reported(steps, "images")
    finally:
        firefox.terminate()
        firefox.wait(30)
        server.shutdown()
        server.server_close()
    for name in SHORT:
        assert report[f"digests {name}"] == {key: EXPECTED[name][key] for key in DIGESTS}, name
        assert_close(samples(report[f"samples {name}"]), python_rgba((FOLDER / f"{name}.vqc").read_bytes()))
    wide = {"plain": 160, "set": 90, "fallback": 80}  # the frame is 300 pixels wide
    assert {name: width for name, width, _ in report["images"] if name in wide} == wide
    assert ["broken", 0, "failed"] in report["images"]
