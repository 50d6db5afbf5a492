# SPDX-License-Identifier: MIT
"""What browsers download, what npm packs, and what the decoder in JavaScript makes of files of later versions."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.golden.make import FOLDER
from tests.test_web import DIGESTS, EXPECTED, WEB, needs_node, node
from vqcodec.bitstream import container, varint
from vqcodec.bitstream.entropy import Decoder
from vqcodec.cli import gallery
from vqcodec.codec import decode
from vqcodec.errors import VqcError
from vqcodec.model import zoo

TSC = Path(os.environ.get("VQCODEC_TYPESCRIPT", WEB / "node_modules" / "typescript")) / "bin" / "tsc"


def test_a_model_is_at_most_8_mb_to_download() -> None:
    files = gallery.Gallery("", [], None).static()
    sizes = {name: len(gzip.compress(path.read_bytes(), 6)) for name, path in files.items() if "/models/" in name}
    assert any(name.endswith("/prior-step-0.onnx") for name in sizes)
    assert sum(sizes.values()) / len(zoo.MODELS) <= 8e6, sizes


def relabelled(data: bytes, kind: int) -> bytes:
    """A file whose one further section, XMP, is of another kind; all checksums right."""
    layout = container.read_header(data)
    parts = list(layout.sections())
    bodies = [data[part.offset : part.offset + part.size_bytes] for part in parts]
    start = data[: parts[0].offset - 4]
    table = bytes([1, container.KIND_XMP]) + varint.write_varint(len(bodies[-1]))
    assert start.endswith(table)
    out = start = start[: -len(table)] + bytes([1, kind]) + table[2:]
    out += struct.pack("<I", zlib.crc32(start))
    for number, body in enumerate(bodies):
        out += body + struct.pack("<I", zlib.crc32(struct.pack("<II", zlib.crc32(start), number) + body))
    return out


@needs_node
def test_sections_of_later_versions_are_skipped_or_refused_as_in_python(tmp_path: Path) -> None:
    data = (FOLDER / "metadata.vqc").read_bytes()
    skipped, refused = relabelled(data, 10), relabelled(data, 11)
    broken = skipped[:-6] + bytes([skipped[-6] ^ 1]) + skipped[-5:]
    files = [tmp_path / name for name in ("skipped.vqc", "refused.vqc", "broken.vqc")]
    for path, content in zip(files, (skipped, refused, broken), strict=True):
        path.write_bytes(content)
    first, *others = node(files, "plain")
    assert decode.decode(skipped).xmp is None
    assert first == {key: EXPECTED["metadata"][key] for key in DIGESTS}
    for content, answer in zip((refused, broken), others, strict=True):
        with pytest.raises(VqcError) as caught:
            decode.decode(content)
        assert answer == {"error": str(caught.value), "code": 4}


@pytest.mark.skipif(shutil.which("npm") is None or not TSC.is_file(), reason="there is no npm, or no TypeScript")
def test_the_types_are_right_and_npm_packs_all_of_it(tmp_path: Path) -> None:
    web = tmp_path / "vqcodec" / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules", "models", "types"))
    for there, name in ((WEB.parent / "weights", "vqcodec/weights"), (WEB.parents[1] / "LICENSE", "LICENSE")):
        (tmp_path / name).symlink_to(there)
    (web / "node_modules").symlink_to(TSC.parents[2])
    done = subprocess.run(["npm", "pack", "--json"], cwd=web, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr  # what tsc says stands there
    with tarfile.open(next(web.glob("*.tgz"))) as packed:
        files = {name.removeprefix("package/") for name in packed.getnames()}
    model = f"models/{zoo.find().checksum.hex()}"
    wanted = {path.name for path in WEB.glob("*.js")} | {f"types/{path.stem}.d.ts" for path in WEB.glob("*.js")}
    wanted |= {f"{model}/tables.npz", f"{model}/prior-step-0.onnx", "LICENSE", "README.md", "package.json"}
    assert wanted <= files
    assert not any(part in name for name in files for part in ("analysis", "realistic", "aim", "node_modules"))
    declared = (web / "types" / "vqcodec.d.ts").read_text(encoding="utf-8")
    assert "export function decode(source: Source, options?: Options): Promise<ImageData>;" in declared


@needs_node
def test_a_payload_too_short_for_its_symbols_is_refused() -> None:
    script = """
        const { RangeDecoder } = await import(process.argv[1]);
        const coder = new RangeDecoder(new Uint8Array(4));
        let read = 0;
        try {
          for (; read < 1000; read++) coder.uniform(1024);
        } catch (error) {
          console.log(JSON.stringify([read, error.code, error.message]));
        }"""
    command = ["node", "--input-type=module", "-e", script, (WEB / "coder.js").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    read, code, sentence = json.loads(done.stdout)
    assert 32 // 10 <= read <= 96 // 10  # one word, and at most two behind it
    assert (code, sentence) == (4, "the compressed data is too short for what it would say")


def test_python_refuses_it_with_the_same_sentence() -> None:
    frequencies = np.full((40, 1024), 2.0**14 - 1)
    with pytest.raises(VqcError, match="the compressed data is too short for what it would say"):
        Decoder(bytes(4)).get_base(frequencies)
