# SPDX-License-Identifier: MIT
"""`vqcodec view` without a browser: what its server answers, to whom, and the folder that --html writes."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.make import FOLDER
from vqcodec.cli import gallery, view
from vqcodec.cli.main import main
from vqcodec.codec import decode
from vqcodec.errors import UsageError
from vqcodec.model import zoo
from vqcodec.options import DecodeOptions
from vqcodec.pictures import read


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files, one of them damaged, and a third in a folder below; names that need quoting."""
    folder = tmp_path_factory.mktemp("pictures & more")
    (folder / "below").mkdir()
    data = (FOLDER / "srgb.vqc").read_bytes()
    (folder / "a #1 ü.vqc").write_bytes(data)
    (folder / "b.vqc").write_bytes(b"no picture")
    (folder / "below" / "c.vqc").write_bytes((FOLDER / "high.vqc").read_bytes())
    (folder / "below" / "notes.txt").write_bytes(b"")
    return folder


def plain(path: Path) -> gallery.Gallery:
    """What shows a folder where there is no onnxruntime-web."""
    found = gallery.Gallery.of(str(path), None, DecodeOptions())[0]
    return gallery.Gallery(found.title, found.pictures, None, found.options)


@pytest.fixture(scope="module")
def port(pictures: Path) -> Iterator[int]:
    """Of a server that decodes with Python."""
    server = view.make_server(plain(pictures))
    assert server.server_address[0] == "127.0.0.1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port: int, address: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET" if body is None else "POST", address, body, headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_its_scripts_and_the_model(port: int) -> None:
    for address, kind in (
        ("/", "text/html"),
        ("/vqcodec/view.js", "text/javascript"),
        ("/vqcodec/worker.js", "text/java"),
    ):
        status, headers, body = ask(port, address)
        assert status == 200
        assert headers["Content-Type"].startswith(kind)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert b"SPDX" in body
    files = zoo.find()
    for name in ("model.json", "tables.npz", "synthesis.onnx", "prior-base.onnx", "prior-step-0.onnx"):
        status, _, body = ask(port, f"/vqcodec/models/{files.checksum.hex()}/{name}")
        assert (status, body) == (200, (files.folder / name).read_bytes())
    for address in (
        "/nothing",
        "/../pyproject.toml",
        "/vqcodec/../../errors.py",
        "/files/0/../1/b.vqc",
        "/files/9/x.vqc",
    ):
        assert ask(port, address)[0] == 404, address


def test_the_list_and_its_pictures(port: int, pictures: Path) -> None:
    facts = json.loads(ask(port, "/list.json")[2])
    assert facts["decoder"] == "server"
    first, bad, third = facts["pictures"]
    assert [entry["name"] for entry in (first, bad, third)] == ["a #1 ü.vqc", "b.vqc", "below/c.vqc"]
    assert bad["error"] == "This is not a .vqc file."
    size = (pictures / "a #1 ü.vqc").stat().st_size
    assert (first["width"], first["height"], first["bytes"]) == (80, 60, size)
    status, headers, body = ask(port, "/" + first["file"])
    assert (status, headers["Content-Type"]) == (200, "image/x-vqc")
    assert body == (pictures / "a #1 ü.vqc").read_bytes()
    status, headers, body = ask(port, "/" + third["png"])
    assert (status, headers["Content-Type"]) == (200, "image/png")
    expected = decode.decode((FOLDER / "high.vqc").read_bytes()).rgb
    assert np.array_equal(read.load(body).rgb, expected)
    assert read.load(ask(port, f"/{third['png']}?most=40")[2]).rgb.shape == (30, 40, 3)
    status, _, body = ask(port, "/" + bad["file"].replace("files", "pictures").replace(".vqc", ".png"))
    assert (status, body) == (422, b"This is not a .vqc file.")


def test_only_the_page_itself_is_answered(port: int) -> None:
    data = (FOLDER / "gray.vqc").read_bytes()
    own = f"http://127.0.0.1:{port}"
    status, headers, body = ask(port, "/decode", data, Origin=own)
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert read.load(body).gray
    assert ask(port, "/decode", data)[0] == 403
    assert ask(port, "/decode", data, Origin="http://example.org")[0] == 403
    assert ask(port, "/other", data, Origin=own)[0] == 404
    assert ask(port, "/", Host=f"example.org:{port}")[0] == 403
    assert ask(port, "/", Host=f"localhost:{port}")[0] == 200
    status, _, body = ask(port, "/decode", data[:-3], Origin=own)
    assert status == 422
    assert b"cut off" in body
    status, _, body = ask(port, "/decode", b"", Origin=own, **{"Content-Length": str(10**18)})
    assert status == 422
    assert b"--max-pixels" in body


def test_a_folder_for_any_server(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(pictures).runtime is None
    target = tmp_path / "gallery"
    view.write_folder(plain(pictures), str(target), force=False)
    out, err = capsys.readouterr()
    assert "3 pictures, as PNG" in out
    assert "b.vqc: This is not a .vqc file." in err
    facts: dict[str, Any] = json.loads((target / "list.json").read_bytes())
    assert facts["decoder"] == "files"
    assert (target / "index.html").is_file()
    assert (target / "pictures" / "2" / "c.png").is_file()
    assert main(["view", str(pictures), "--html", str(target)]) == 6
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in gallery.RUNTIME_FILES:
        (runtime / name).write_bytes(b"of onnxruntime-web")
    other = tmp_path / "other"
    assert main(["view", str(pictures), "--html", str(other), "--runtime", str(runtime)]) == 0
    assert json.loads((other / "list.json").read_bytes())["decoder"] == "browser"
    assert (other / gallery.RUNTIME / gallery.RUNTIME_FILES[0]).read_bytes() == b"of onnxruntime-web"
    assert not (other / "pictures").exists()


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.vqc").write_bytes(b"no picture")
    assert main(["view", str(tmp_path / "nowhere.vqc")]) == 3
    assert main(["view", str(tmp_path / "bad.vqc")]) == 4
    assert main(["view", str(FOLDER), "--runtime", str(tmp_path)]) == 2
    assert main(["view", str(FOLDER), "--html", str(tmp_path / "x"), "--port", "80"]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["view", str(tmp_path / "empty")]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("vqcodec: ") for line in lines)
    with pytest.raises(UsageError, match="no onnxruntime-web in"):
        gallery.find_runtime(str(tmp_path))
