# SPDX-License-Identifier: MIT
"""The priors' integer tables as ONNX graphs with 8-bit kernels: the fast engine of model/engines.py.

One graph per network, built from the tables alone, so that both engines have the same numbers. Weights stay in the
tables, from where the run-time hands them over. Codes are uint8 with a zero point, products `u8 x s8` with int32 sums.
All arrays are [1, h, w, C]. ONNX Runtime is asked not to rewrite these graphs, so what stands here is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.model.engines import BASE, CLASSES, INDICES, STEP, weights_of
from vqcodec.model.layers import ACTIVE, FINER, FRACTION, LIMIT, SIGNED, Range

Tables = Mapping[str, NDArray[Any]]
MICROSOFT = "com.microsoft"  # operators of ONNX Runtime's own


class PriorGraph:
    """A growing graph. Each method adds nodes and returns the name of the output."""

    def __init__(self, tables: Tables, graph: str) -> None:
        self.tables, self.weights = tables, weights_of(tables, graph)
        self._laid = 0  # bytes of the weights named
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: dict[Any, str] = {}

    def constant(self, value: NDArray[Any]) -> str:
        """A constant; equal ones share a name."""
        from onnx import numpy_helper

        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = f"c{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(value, self._names[key]))
        return self._names[key]

    def weight(self, name: str) -> str:
        """A weight of the tables, which the graph names and does not hold; a reader lays them one after the other."""
        from onnx import StringStringEntryProto, TensorProto

        value = self.weights[f"{name}.weight"]
        tensor = TensorProto(name=f"{name}.weight", dims=value.shape, data_type=TensorProto.INT8)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "tables.npz"), ("offset", str(self._laid)), ("length", str(value.size))):
            tensor.external_data.append(StringStringEntryProto(key=key, value=text))
        self._laid += value.size
        self.constants.append(tensor)
        return tensor.name

    def number(self, value: float) -> str:
        """A constant of one float32."""
        return self.constant(np.array(value, np.float32))

    def zero(self, kind: Range) -> str:
        """The zero point of codes."""
        return self.constant(np.array(-kind.low, np.uint8))

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One operator with one output."""
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def rounded(self, x: str, kind: Range = SIGNED, step: float = 1.0) -> str:
        """The codes of a stream."""
        return self.node("QuantizeLinear", x, self.number(step), self.zero(kind))

    def take(self, x: str, channels: int, inputs: int, kind: Range = SIGNED) -> str:
        """The codes of a stream of so many channels that a layer of so many inputs wants."""
        coarse = self.rounded(x, kind)
        if inputs == channels:
            return coarse
        back = self.node("DequantizeLinear", coarse, self.number(1), self.zero(kind))
        fine = self.rounded(self.node("Sub", x, back), kind, 1 / FINER)
        return self.node("Concat", coarse, fine, axis=-1)

    def linear(self, codes: str, name: str, kind: Range = SIGNED) -> str:
        """A linear layer: codes -> stream."""
        shift, bias = (self.tables[f"{name}.{part}"] for part in ("shift", "bias"))
        return self.node(
            "MatMulIntegerToFloat",
            codes,
            self.weight(name),
            self.number(1),
            self.constant((2.0 ** -shift.astype(np.float64)).astype(np.float32)),
            self.zero(kind),
            self.constant(np.zeros(len(bias), np.int8)),
            self.constant((bias * 2.0**-FRACTION).astype(np.float32)),
            domain=MICROSOFT,
        )

    def active(self, x: str) -> str:
        """The leaky rectifier."""
        return self.node("LeakyRelu", x, alpha=0.125)

    def depthwise(self, codes: str, name: str) -> str:
        """A depthwise layer: codes -> codes."""
        shift, bias = (self.tables[f"{name}.{part}"] for part in ("shift", "bias"))
        channels = len(bias)
        return self.node(
            "QLinearConv",
            codes,
            self.number(1),
            self.zero(ACTIVE),
            self.weight(name),
            self.constant((2.0 ** -shift.astype(np.float64)).astype(np.float32)),
            self.constant(np.zeros(channels, np.int8)),
            self.number(1),
            self.zero(SIGNED),
            self.constant(bias.astype(np.int32)),
            domain=MICROSOFT,
            channels_last=1,
            group=channels,
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
        )

    def clipped(self, x: str) -> str:
        """A stream within its limits."""
        return self.node("Clip", x, self.number(-LIMIT), self.number(LIMIT))

    def gather(self, x: str, channels: int) -> str:
        """[1, h, w, C] -> [n, C] at the positions `where`."""
        flat = self.node("Reshape", x, self.constant(np.array([-1, channels], np.int64)))
        return self.node("Gather", flat, "where", axis=0)

    def block(self, x: str, name: str, *, gathered: bool = False) -> str:
        """A residual block, on a stream."""
        channels, inputs = self.tables[f"{name}.enter.weight"].shape
        wide = self.active(self.linear(self.take(x, channels, inputs), f"{name}.enter"))
        inner = self.depthwise(self.rounded(wide, ACTIVE), f"{name}.depthwise")
        if gathered:
            x, inner = self.gather(x, channels), self.gather(inner, channels)
        x = self.clipped(self.node("Add", x, self.linear(inner, f"{name}.leave")))
        if f"{name}.expand.weight" in self.tables:
            middle, inputs = self.tables[f"{name}.expand.weight"].shape
            wide = self.active(self.linear(self.take(x, channels, inputs), f"{name}.expand"))
            inputs = self.tables[f"{name}.reduce.weight"].shape[1]
            codes = self.take(wide, middle, inputs, ACTIVE)
            x = self.clipped(self.node("Add", x, self.linear(codes, f"{name}.reduce", ACTIVE)))
        return x

    def serialise(self, inputs: dict[str, tuple[Any, list[Any]]], outputs: dict[str, tuple[str, Any]]) -> bytes:
        """The graph's bytes; inputs as (dtype, shape), outputs as (value, dtype)."""
        from onnx import helper

        def kind(dtype: Any) -> int:
            return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

        made = [helper.make_node("Identity", [value], [name]) for name, (value, _) in outputs.items()]
        given = [helper.make_tensor_value_info(n, kind(dtype), shape) for n, (dtype, shape) in inputs.items()]
        wanted = [helper.make_tensor_value_info(n, kind(dtype), None) for n, (_, dtype) in outputs.items()]
        graph = helper.make_graph(self.nodes + made, "prior", given, wanted, self.constants)
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=versions, producer_name="vqcodec")
        model.ir_version = 8
        return bytes(model.SerializeToString(deterministic=True))


def _base(tables: Tables) -> bytes:
    g = PriorGraph(tables, BASE)
    channels, inputs = tables["prior.enter.weight"].shape
    x = g.clipped(g.linear("code", "prior.enter"))
    number = 0
    while f"prior.blocks.{number}.enter.weight" in tables:
        x = g.block(x, f"prior.blocks.{number}")
        number += 1
    features = g.take(x, channels, tables["prior.steps.0.join.weight"].shape[1])
    means = g.linear(g.take(x, channels, tables["prior.base_mean.weight"].shape[1]), "prior.base_mean")
    return g.serialise(
        {"code": (np.uint8, [1, "h", "w", inputs])}, {"features": (features, np.uint8), "means": (means, np.float32)}
    )


def _step(tables: Tables, number: int, half: bool) -> bytes:
    g, name = PriorGraph(tables, STEP.format(number)), f"prior.steps.{number}"
    channels, inputs = tables[f"{name}.join.weight"].shape
    features = tables["prior.steps.0.join.weight"].shape[1]
    seen = inputs - features - (channels if number else 0)
    grid = [1, "h", "w"]
    latents = len(tables["prior.base_scale"])
    shapes: dict[str, tuple[Any, list[Any]]] = {
        "features": (np.uint8, [*grid, features]),
        "known": (np.uint8, [*grid, 2 * latents]),
    }
    parts = ["features"]
    if seen:
        limits = [g.constant(np.array([n], np.int64)) for n in (0, seen, 3)]
        parts.append(g.node("Slice", "known", *limits))
    if number:
        shapes["before"] = (np.uint8, [*grid, channels])
        parts.append("before")
    count = len(tables[f"{name}.mean_scale"])
    shapes |= {"quality": (np.float32, [channels]), "ratio": (np.float32, ["m", count])}
    if half:
        shapes["where"] = (np.int64, ["n"])
    codes = g.node("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]
    x = g.clipped(g.node("Add", g.linear(codes, f"{name}.join"), "quality"))
    x = g.block(x, f"{name}.block1")
    after = g.rounded(x)
    x = g.block(x, f"{name}.block2", gathered=half)
    codes = g.take(x, channels, tables[f"{name}.out.weight"].shape[1])
    both = g.linear(codes, f"{name}.out")
    if not half:
        both = g.node("Reshape", both, g.constant(np.array([-1, 2 * count], np.int64)))
    first, middle, last = (g.constant(np.array([n], np.int64)) for n in (0, count, 2 * count))
    axis = g.constant(np.array([1], np.int64))
    means, scales = (g.node("Slice", both, *limits, axis) for limits in ((first, middle), (middle, last)))
    scales = g.node("Clip", g.node("Add", scales, "ratio"), g.number(0), g.number(CLASSES - 1))
    classes = g.node("QuantizeLinear", scales, g.number(1), g.constant(np.array(0, np.uint8)))
    return g.serialise(
        shapes, {"means": (means, np.float32), "classes": (classes, np.uint8), "after": (after, np.uint8)}
    )


def _indices(tables: Tables) -> bytes:
    g = PriorGraph(tables, INDICES)
    channels, inputs = tables["base_prior.enter.weight"].shape
    x = g.active(g.node("Add", g.linear("code", "base_prior.enter"), "offset"))
    x = g.depthwise(g.rounded(x, ACTIVE), "base_prior.spread")
    x = g.node("DequantizeLinear", x, g.number(1), g.zero(SIGNED))
    x = g.block(g.block(x, "base_prior.blocks.0"), "base_prior.blocks.1", gathered=True)
    codes = g.take(x, channels, tables["base_prior.out.weight"].shape[1])
    logits = g.linear(codes, "base_prior.out")
    shapes: dict[str, tuple[Any, list[Any]]] = {
        "code": (np.uint8, [1, "h", "w", inputs]),
        "offset": (np.float32, [channels]),
        "where": (np.int64, ["n"]),
    }
    return g.serialise(shapes, {"logits": (logits, np.float32)})


def prior_graphs(tables: Tables) -> dict[str, bytes]:
    """File name -> graph, of all networks of the priors."""
    halves = [half for count in tables["prior.halves"] for half in [count == 2] * int(count)]
    steps = {STEP.format(i): _step(tables, i, bool(half)) for i, half in enumerate(halves)}
    return {BASE: _base(tables), INDICES: _indices(tables), **steps}
