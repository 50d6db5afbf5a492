# SPDX-License-Identifier: MIT
"""Both engines of the priors give the same integers, whatever the shape, threads and numbers; and the fallback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.errors import ModelError, UsageError
from vqcodec.model import engines, zoo
from vqcodec.model.engines import BASE, ENVIRONMENT, INDICES, STEP, Engine, Onnx, Plain, Trusted, weights_of
from vqcodec.model.layers import FRACTION
from vqcodec.model.transforms import SHARED, session

Tables = dict[str, NDArray[Any]]
CHUNKS, HALVES = (8, 24), (2, 1)


@pytest.fixture(scope="module")
def shipped() -> tuple[Tables, zoo.ModelFiles]:
    files = zoo.find()
    return zoo.read_tables(files.verified("tables.npz")), files


def random_tables(width: int, *, pairs: bool, extreme: bool, seed: int = 0) -> Tables:
    """Tables of a model of a small shape; with `extreme` all weights are at their limits."""
    rng = np.random.default_rng(seed)
    out: Tables = {}
    latents, codes, words = sum(CHUNKS), 10, 70

    def linear(name: str, outputs: int, inputs: int) -> None:
        weight = rng.integers(-64, 64, (outputs, inputs)) if not extreme else rng.choice([-64, 63], (outputs, inputs))
        out[f"{name}.weight"] = weight.astype(np.int8)
        out[f"{name}.bias"] = rng.integers(-(2**14), 2**14, outputs).astype(np.int32)
        out[f"{name}.shift"] = rng.integers(9, 11, outputs).astype(np.int8)

    def depthwise(name: str, channels: int) -> None:
        out[f"{name}.weight"] = rng.integers(-64, 64, (channels, 3, 3)).astype(np.int8)
        out[f"{name}.bias"] = rng.integers(-(2**12), 2**12, channels).astype(np.int32)
        out[f"{name}.shift"] = rng.integers(4, 9, channels).astype(np.int8)

    def block(name: str, channels: int, *, wide: bool = True, twice: int = 1) -> None:
        linear(f"{name}.enter", channels, channels * twice)
        depthwise(f"{name}.depthwise", channels)
        linear(f"{name}.leave", channels, channels)
        if wide:
            linear(f"{name}.expand", 2 * channels, channels * twice)
            linear(f"{name}.reduce", channels, 2 * channels * (2 if pairs else 1))

    twice = 2 if pairs else 1
    linear("prior.enter", width, codes)
    block("prior.blocks.0", width, twice=twice)
    linear("prior.base_mean", latents, width * twice)
    start = number = 0
    for chunk, halves in zip(CHUNKS, HALVES, strict=True):
        for half in range(halves):
            name = f"prior.steps.{number}"
            seen = 2 * (start + half * chunk)
            linear(f"{name}.join", width, width * twice + seen + (width if number else 0))
            out[f"{name}.quality"] = rng.integers(-(2**15), 2**15, (100, width)).astype(np.int32)
            block(f"{name}.block1", width)
            block(f"{name}.block2", width, wide=False)
            linear(f"{name}.out", 2 * chunk, width)
            out[f"{name}.mean_scale"] = rng.integers(1, 2**20, chunk).astype(np.int32)
            number += 1
        start += chunk
    out["prior.base_scale"] = rng.integers(1, 2**20, latents).astype(np.int32)
    out["prior.chunks"], out["prior.halves"] = np.array(CHUNKS, np.int32), np.array(HALVES, np.int32)
    linear("base_prior.enter", 32, codes)
    out["base_prior.passes"] = rng.integers(-(2**14), 2**14, (4, 32)).astype(np.int32)
    depthwise("base_prior.spread", 32)
    block("base_prior.blocks.0", 32)
    block("base_prior.blocks.1", 32)
    linear("base_prior.out", words, 32)
    return out


def answers(
    engine: Engine, tables: Mapping[str, NDArray[Any]], shape: tuple[int, int], seed: int
) -> list[NDArray[Any]]:
    """All that an engine gives, on random codes of which every fourth is an extreme."""
    rng = np.random.default_rng(seed)

    def codes(channels: int) -> NDArray[np.uint8]:
        values = rng.integers(0, 256, (*shape, channels))
        return np.where(rng.random(values.shape) < 0.25, 255 * (values & 1), values).astype(np.uint8)

    def streams(table: NDArray[Any]) -> NDArray[np.float32]:
        return (table * 2.0**-FRACTION).astype(np.float32)

    found = [*engine.base(codes(tables["prior.enter.weight"].shape[1]))]
    features, before = found[0], None
    known = codes(2 * len(tables["prior.base_scale"]))
    board = np.indices(shape).sum(0) % 2
    start = number = 0
    for chunk, halves in zip(tables["prior.chunks"].tolist(), tables["prior.halves"].tolist(), strict=True):
        for half in range(halves):
            quality = streams(tables[f"prior.steps.{number}.quality"][rng.integers(100)])
            ratio = streams(rng.integers(-(2**14), 2**17, (1, chunk)))
            where = board == half if halves == 2 else None
            means, classes, before = engine.step(number, features, known, before, quality, ratio, where)
            found += [means, classes, before]
            number += 1
        start += chunk
    where = rng.random(shape) < 0.3
    if halves == 1:  # steps by place: another ratio in every place
        ratio = streams(rng.integers(-(2**14), 2**17, (shape[0] * shape[1], chunk)))
        found.append(engine.step(number - 1, features, known, codes(before.shape[-1]), quality, ratio, None)[1])
    found.append(
        engine.indices(
            codes(tables["base_prior.enter.weight"].shape[1]), streams(tables["base_prior.passes"][1]), where
        )
    )
    return found


def check(engine: Engine, plain: Plain, tables: Mapping[str, NDArray[Any]], shape: tuple[int, int], seed: int) -> None:
    for got, expected in zip(answers(engine, tables, shape, seed), answers(plain, tables, shape, seed), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        assert expected.size < 100 or len(np.unique(expected)) > 8, "the test tests nothing"


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_both_engines_agree_on_the_shipped_model(shipped: tuple[Tables, zoo.ModelFiles], threads: int) -> None:
    tables, files = shipped
    plain = Plain(tables)
    onnx = Onnx(files.verified, threads, plain)
    for seed, shape in enumerate([(1, 1), (1, 7), (5, 2), (16, 13)]):
        check(onnx, plain, tables, shape, seed)


@pytest.mark.parametrize("width", [32, 40, 96])
@pytest.mark.parametrize(("pairs", "extreme"), [(False, False), (True, False), (False, True)])
def test_both_engines_agree_on_other_models(width: int, pairs: bool, extreme: bool) -> None:
    pytest.importorskip("torch")
    from vqcodec.train.prior_graph import prior_graphs

    tables = random_tables(width, pairs=pairs, extreme=extreme, seed=width)
    plain = Plain(tables)
    check(Onnx(prior_graphs(tables).__getitem__, 2, plain), plain, tables, (6, 9), 1)


def _wrong(files: zoo.ModelFiles, name: str) -> Callable[[str], bytes]:
    """The model's graphs, of which one has a single bias changed by one."""
    onnx = pytest.importorskip("onnx")

    def read(asked: str) -> bytes:
        data = files.verified(asked)
        if asked != name:
            return data
        model = onnx.load_from_string(data)
        layer = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"][-1]
        tensor = next(t for t in model.graph.initializer if t.name == layer.input[-1])
        value = onnx.numpy_helper.to_array(tensor).copy()
        value[0] += 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return bytes(model.SerializeToString())

    return read


def test_the_graphs_hold_no_weights_and_read_no_other_file(shipped: tuple[Tables, zoo.ModelFiles]) -> None:
    """Weights stand once, in the tables; a graph that names another place for them is refused unread."""
    tables, files = shipped
    data = files.verified(STEP.format(5))
    assert len(data) < 40_000
    weights = weights_of(tables, STEP.format(5))
    assert len(weights) == data.count(SHARED) == 10
    with pytest.raises(ModelError, match="in further files"):
        session(data, 1, optimise=False)
    elsewhere = data.replace(SHARED, SHARED.replace(b"tables.npz", b"/etc/hosts"), 1)
    with pytest.raises(ModelError, match="in further files"):
        session(elsewhere, 1, optimise=False, weights=weights)
    weights.popitem()
    with pytest.raises(ModelError, match="cannot be loaded"):
        session(data, 1, optimise=False, weights=weights)


@pytest.mark.parametrize("name", [BASE, INDICES, STEP.format(5)])
def test_a_graph_that_differs_gives_way_to_the_reference(
    shipped: tuple[Tables, zoo.ModelFiles], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, files = shipped
    plain = Plain(tables)
    onnx = Onnx(_wrong(files, name), 1, plain)
    with pytest.raises(ModelError, match=name):
        answers(onnx, tables, (4, 4), 0)
    engine = Trusted(Onnx(_wrong(files, name), 1, plain), plain)
    for seed in (0, 1):
        check(engine, plain, tables, (4, 4), seed)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert name in said[0]


def test_the_environment_forces_an_engine(
    shipped: tuple[Tables, zoo.ModelFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, files = shipped
    plain = Plain(tables)
    for wanted, kind in (("", Trusted), ("plain", Plain), ("onnx", Onnx)):
        monkeypatch.setenv(ENVIRONMENT, wanted)
        assert type(engines.choose(plain, files.verified, 1)) is kind
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(UsageError, match="plain or onnx"):
        engines.choose(plain, files.verified, 1)
    monkeypatch.delenv(ENVIRONMENT)
    assert type(engines.choose(plain, None, 1)) is Plain


def test_without_onnx_runtime_the_reference_computes(
    shipped: tuple[Tables, zoo.ModelFiles], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, files = shipped
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    plain = Plain(tables)
    check(Trusted(Onnx(files.verified, 1, plain), plain), plain, tables, (2, 3), 0)
    assert capsys.readouterr().err == ""


def test_the_card_holds_the_answers_of_the_reference(shipped: tuple[Tables, zoo.ModelFiles]) -> None:
    tables, files = shipped
    asked = Onnx(files.verified, 1, Plain(tables))
    asked.load_all()
    assert asked.answers == files.card[zoo.ANSWERS]
    name = STEP.format(3)
    wrong = Onnx(files.verified, 1, Plain(tables), {**asked.answers, name: asked.answers[BASE]})
    with pytest.raises(ModelError, match=name):
        wrong.load_all()
