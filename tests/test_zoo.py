# SPDX-License-Identifier: MIT
"""Models of strangers: nothing is used before its checksum is right, nothing is executed, and whatever a folder given
with `--model` holds, it is loaded within limits or refused with a `ModelError`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import time
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from tests.conftest import few_or
from tests.mutate import scrambled
from vqcodec.bitstream import tiles
from vqcodec.cli import main as cli
from vqcodec.codec import decode, encode
from vqcodec.codec.tradeoff import Tradeoff
from vqcodec.model import zoo
from vqcodec.model.walk import Base
from vqcodec.pictures import read

Tables = dict[str, NDArray[Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(zoo.find().folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def tables() -> Tables:
    return dict(np.load(zoo.find().folder / "tables.npz", allow_pickle=False))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replaces a file of a model, and makes the card say that it is right."""
    (folder / name).write_bytes(data)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    card["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")


def npz(tables: Tables, **changed: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{**tables, **changed})
    return stream.getvalue()


@pytest.mark.parametrize("name", ["tables.npz", "analysis.onnx", "synthesis.onnx", "aim.onnx"])
def test_a_changed_file_is_found_out_before_it_is_used(
    folder: Path, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if not (folder / name).exists():
        pytest.skip("the model came without it")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    monkeypatch.setattr(zoo, "read_tables", None if name == "tables.npz" else zoo.read_tables)
    load = {"tables.npz": lambda: zoo.Model(zoo.find(folder))}
    if name not in load:
        model = zoo.Model(zoo.find(folder))
        load[name] = lambda: getattr(model, name.removesuffix(".onnx"))
    with pytest.raises(vqcodec.ModelError, match=f"{name} is damaged"):
        load[name]()


def test_a_pickle_is_not_opened(folder: Path, tables: Tables, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    trap = np.empty(1, object)
    trap[0] = Trap()
    stream = io.BytesIO()
    np.savez(stream, **{**tables, "codebook": trap})
    put(folder, "tables.npz", stream.getvalue())
    with pytest.raises(vqcodec.ModelError, match="object"):
        zoo.load(zoo.find(folder))
    assert not (tmp_path / "executed").exists()
    with np.load(folder / "tables.npz", allow_pickle=True) as archive:
        _ = archive["codebook"]
    assert (tmp_path / "executed").exists(), "the trap does not work: the test tested nothing"


CHANGES: dict[str, Any] = {
    "a shift of 11 bits": lambda t: {"prior.enter.shift": np.full_like(t["prior.enter.shift"], 11)},
    "a negative shift": lambda t: {"prior.steps.0.out.shift": -t["prior.steps.0.out.shift"] - 1},
    "a weight of 65": lambda t: {"prior.steps.3.join.weight": np.maximum(t["prior.steps.3.join.weight"], 65)},
    "weights that are too large": lambda t: {"prior.enter.weight": t["prior.enter.weight"].astype(np.int64) << 2},
    "a bias that is too large": lambda t: {"base_prior.out.bias": t["base_prior.out.bias"] + 2**24},
    "a row of weights too few": lambda t: {"prior.base_mean.weight": t["prior.base_mean.weight"][1:]},
    "a column of weights too few": lambda t: {"prior.steps.1.join.weight": t["prior.steps.1.join.weight"][:, 1:]},
    "weights of floats": lambda t: {"prior.enter.weight": t["prior.enter.weight"].astype(np.float32)},
    "no codebook to speak of": lambda t: {"codebook": t["codebook"][:1]},
    "codewords that are too large": lambda t: {"codebook": t["codebook"] * 2**10},
    "a huge codebook": lambda t: {
        name: np.zeros((2**17, *t[name].shape[1:]), np.int8)
        for name in ("codebook", "base_prior.out.weight", "base_prior.out.bias")
    },
    "weights of nothing": lambda t: {"base_prior.exp2": t["base_prior.exp2"] * 0},
    "a mean that is too large": lambda t: {"prior.base_scale": t["prior.base_scale"].astype(np.int64) << 20},
    "a context that is too large": lambda t: {"prior.context_scale": np.full_like(t["prior.context_scale"], 2**23)},
    "a step of nothing": lambda t: {"prior.step_size": t["prior.step_size"] * 0},
    "qualities that are missing": lambda t: {"prior.step_size": t["prior.step_size"][:99]},
    "a chunk of no channels": lambda t: {"prior.chunks": t["prior.chunks"] * 0},
    "chunks that do not fit": lambda t: {"prior.chunks": t["prior.chunks"][:-1]},
    "halves that do not fit": lambda t: {"prior.halves": np.ones(2, np.int32)},
    "three halves": lambda t: {"prior.halves": np.full_like(t["prior.chunks"], 3)},
    "steps of other chunks": lambda t: {"prior.halves": np.ones_like(t["prior.chunks"])},
    "codes of another size": lambda t: {"codes": t["codes"][:, 1:]},
    "codes of other words": lambda t: {"codes": t["codes"][1:]},
    "counts that do not add up": lambda t: {"tables.counts": t["tables.counts"] + 1},
    "counts below nothing": lambda t: {"tables.counts": -t["tables.counts"]},
    "limits that do not fit": lambda t: {"tables.limits": t["tables.limits"] + 1},
    "offsets of more than half a step": lambda t: {"tables.shrink": t["tables.shrink"] + 128},
}


def modelled(monkeypatch: pytest.MonkeyPatch, tables: Tables) -> zoo.Model:
    """The model of these tables, as one that was given with `--model`."""
    with monkeypatch.context() as patch:
        files = zoo.find()
        patch.setattr(zoo, "WEIGHTS", Path("elsewhere"))
        patch.setattr(zoo, "read_tables", lambda _: tables)
        return zoo.Model(files)


@pytest.mark.parametrize("what", CHANGES)
def test_tables_from_which_exactness_would_not_follow(
    monkeypatch: pytest.MonkeyPatch, tables: Tables, what: str
) -> None:
    modelled(monkeypatch, tables)
    with pytest.raises(vqcodec.ModelError, match=r"safe to use|no use|fit|malformed|integer array|coder needs"):
        modelled(monkeypatch, {**tables, **CHANGES[what](tables)})


def _changed(array: NDArray[Any], random: Random) -> NDArray[Any]:
    """An array of a model with something done to its values, its shape or its kind."""
    match random.randrange(6):
        case 0:
            out = array.astype(np.int64).ravel()
            out[random.randrange(out.size)] = random.choice((0, 1, -1, 2**15, -(2**23), 2**31, 2**62, -(2**63)))
            return out.reshape(array.shape)
        case 1:
            return array[: random.randrange(len(array))] if array.ndim else array[None]
        case 2:
            return array.T if array.ndim > 1 else np.repeat(array, 2)
        case 3:
            return array.astype(random.choice((np.uint8, np.int8, np.uint64, np.float64, np.bool_)))
        case 4:
            return array[..., None] if random.random() < 0.5 else array.ravel()
        case _:
            return np.full_like(array, random.choice((0, 1, -1, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min)))


@few_or(40, 12)
def test_scrambled_tables(monkeypatch: pytest.MonkeyPatch, tables: Tables, count: int) -> None:
    """A model or one `ModelError`; with a model, a file of its own goes there and back to the same indices."""
    found: Counter[str] = Counter()
    for seed in range(count):
        random = Random(seed)
        name = random.choice(sorted(tables))
        changed = {**tables, name: _changed(tables[name], random)}
        if random.random() < 0.1:
            del changed[name]
        try:
            model = modelled(monkeypatch, changed)
        except vqcodec.ModelError:
            found["ModelError"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, {name}: {error!r}") from error
        latents = np.zeros((2, 3, model.prior.latents), np.float32)
        vectors = np.zeros((2, 3, model.codebook.vectors.shape[1]), np.float32)
        base = encode.nearest(model, vectors)
        fine, indices, _ = encode.encode_refinement(model, latents, Base.alone(base), Tradeoff(50, 1))
        coarse = decode.decode_base(model, tiles.Grid(48, 32, 1024).tile(0), encode.encode_base(model, base))
        assert np.array_equal(coarse, base), (seed, name)
        restored = decode.decode_refinement(model, Base.alone(coarse), model.setting(50), fine)[1]
        assert np.array_equal(restored, indices), (seed, name)
        found["model"] += 1
    assert min(found["model"], found["ModelError"]) > 0.2 * count, found


@few_or(500, 120)
def test_scrambled_archives(tables: Tables, count: int) -> None:
    """The archive's own bytes: arrays, or one `ModelError`, and no more memory than the file justifies."""
    small = {name: tables[name] for name in ("prior.chunks", "tables.limits", "prior.unit", "prior.enter.shift")}
    plain, packed = npz(small), io.BytesIO()
    np.savez_compressed(packed, **small)
    errors: list[str] = []
    for seed in range(count):
        data = scrambled((plain, packed.getvalue())[seed % 2], Random(seed))
        tracemalloc.start()
        try:
            zoo.read_tables(data)
        except vqcodec.ModelError as error:
            errors.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2_000_000, seed
    assert all(error.isprintable() for error in errors)
    assert count / 2 < len(errors) < count


def test_an_array_that_promises_more_than_its_file_holds() -> None:
    for shape in ((2**40,), (2**31, 2**31), (-1, 5), (2**62, 4)):
        header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        entry = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("codebook.npy", entry)
        tracemalloc.start()
        with pytest.raises(vqcodec.ModelError, match="larger than its file"):
            zoo.read_tables(stream.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_an_archive_that_unpacks_to_more_than_a_model_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "MAX_FILE_BYTES", 10_000_000)
    bomb = io.BytesIO()
    np.savez_compressed(bomb, codebook=np.zeros(zoo.MAX_FILE_BYTES + 1, np.int8))
    assert len(bomb.getvalue()) < 20_000
    tracemalloc.start()
    with pytest.raises(vqcodec.ModelError, match="more than a model may"):
        zoo.read_tables(bomb.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def _graph_with_weights_elsewhere(data: bytes) -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: b"no graph", "cannot be loaded"),
        (lambda data: b"", "cannot be loaded"),
        (lambda data: data[: len(data) // 2], "cannot be loaded"),
        (_graph_with_weights_elsewhere, "in further files"),
    ],
)
@pytest.mark.parametrize("name", ["analysis", "synthesis"])
def test_graphs_that_are_none(folder: Path, name: str, change: Any, sentence: str) -> None:
    put(folder, f"{name}.onnx", change((folder / f"{name}.onnx").read_bytes()))
    with pytest.raises(vqcodec.ModelError, match=sentence):
        getattr(zoo.Model(zoo.find(folder)), name)


def test_a_graph_that_does_something_else(folder: Path, photo: NDArray[np.uint8]) -> None:
    """Analysis and synthesis exchanged."""
    graphs = [(folder / f"{name}.onnx").read_bytes() for name in ("analysis", "synthesis")]
    put(folder, "synthesis.onnx", graphs[0])
    put(folder, "analysis.onnx", graphs[1])
    with pytest.raises(vqcodec.ModelError, match="cannot be run"):
        vqcodec.encode(photo[:32, :32], model=folder)
    data = encode.encode(read.load(photo[:32, :32]), 50)
    zoo._load.cache_clear()
    with pytest.raises(vqcodec.ModelError, match="cannot be run"):
        vqcodec.decode(data, model=folder)
    zoo._load.cache_clear()


CARDS = {
    "nothing": b"",
    "not text": b"\xff\xfe",
    "no object": b"[1, 2]",
    "a number": b"17",
    "too deep": b"[" * 100_000,
    "infinite": b"Infinity",
    "too large": b" " * (2**20 + 1),
}
FIELDS = {
    "anchors": [10**12, float("inf"), float("nan"), -3, 0, "eight", "7.5", None, [8]],
    "lambda_min": [0, -1.0, float("inf"), float("nan"), 10**400],
    "synthesis_halo": [-1, 10**9, 1e400],
    "files": [None, [], 3, {}, {"tables.npz": 5}],
}


@pytest.mark.parametrize("what", CARDS)
def test_cards_that_are_none(folder: Path, what: str) -> None:
    (folder / "model.json").write_bytes(CARDS[what])
    with pytest.raises(vqcodec.ModelError, match=r"model card|is larger"):
        zoo.find(folder)


def test_cards_with_a_field_that_makes_no_sense(folder: Path) -> None:
    good = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    entry = good["files"]["tables.npz"]
    cards = [{**good, field: value} for field, values in FIELDS.items() for value in values]
    cards += [{key: value for key, value in good.items() if key != field} for field in FIELDS]
    cards += [{**good, "files": {**good["files"], "tables.npz": value}} for value in (None, {}, {"sha256": "no"})]
    cards += [{**good, "files": {**good["files"], name: entry}} for name in ("../x", "/dev/zero")]
    for card in cards:
        (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
        with pytest.raises(vqcodec.ModelError, match="model card"):
            zoo.find(folder)
    (folder / "model.json").write_text(json.dumps(good), encoding="utf-8")
    assert zoo.find(folder).checksum == zoo.find().checksum


@pytest.mark.parametrize("name", ["model.json", "tables.npz", "CARD.md"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_no_ordinary_one_is_not_read(
    folder: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    assert cli.main(["info", "--model", str(folder)]) == 5
    assert capsys.readouterr().err == f"vqcodec: {folder / name} is not an ordinary file\n"


def changed_since_tags(root: Path) -> list[str]:
    """Models that are not as a tag v* of the repository shipped them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout

    changed = []
    for tag in git("tag", "--list", "v*").split():
        for path in git("ls-tree", "-r", "--name-only", tag, "--", "vqcodec/weights").split():
            if path.endswith("model.json"):
                here = root / path
                if not here.exists() or json.loads(here.read_text()) != json.loads(git("show", f"{tag}:{path}")):
                    changed.append(f"{tag} {path}")
    return changed


def test_a_model_that_has_shipped_never_changes(tmp_path: Path) -> None:
    root = Path(vqcodec.__file__).parents[1]
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("no checkout")
    assert changed_since_tags(root) == []
    card = tmp_path / "vqcodec/weights/a/model.json"
    card.parent.mkdir(parents=True)
    card.write_text('{"id": "a"}')
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"], ["tag", "v1"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    assert changed_since_tags(tmp_path) == []
    card.write_text('{"id": "b"}')
    assert changed_since_tags(tmp_path) == ["v1 vqcodec/weights/a/model.json"]


def test_a_card_for_people_has_a_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "CARD.md").write_bytes(b"x" * (zoo.MAX_CARD_BYTES + 1))
    assert cli.main(["info", "--model", str(folder)]) == 5
    assert "CARD.md is larger" in capsys.readouterr().err


def test_a_model_that_cannot_be_read_is_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = folder.with_name("a.ppm")
    picture.write_bytes(b"P6 16 16 255\n" + bytes(768))
    put(folder, "tables.npz", b"PK\3\4 no archive")
    started = time.process_time()
    assert cli.main(["compress", str(picture), str(picture.with_suffix(".vqc")), "--model", str(folder)]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vqcodec: ")
    assert not picture.with_suffix(".vqc").exists()
    assert time.process_time() - started < 5


def test_a_card_for_people_cannot_steer_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "CARD.md").write_bytes(b"# mine\n\x1b[2J \xff")
    assert cli.main(["info", "--model", str(folder)]) == 0
    assert "\n# mine\n?[2J \ufffd\n" in capsys.readouterr().out
