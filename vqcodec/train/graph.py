# SPDX-License-Identifier: MIT
"""ONNX graphs written node by node, and their gradients: reverse-mode differentiation as further nodes of the graph.

The same weights give the same bytes, and no tracing is involved. Weights are float16 on disk, or 8 bits where that will
do, and become floats in the first node that uses them. Everything differentiable here is [1, C, h, w] float32; only the
operators that our networks use have a rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.train.layers import SLOPE, Block, Gain


class _Made(NamedTuple):
    """How a value came about."""

    kind: str
    inputs: list[str]
    attributes: dict[str, Any]


def array(x: Tensor) -> NDArray[np.float64]:
    """A tensor's values in float64."""
    return x.detach().cpu().double().numpy()


class Graph:
    """A growing ONNX graph. Each method adds nodes and returns the name of the output."""

    def __init__(self) -> None:
        self.eight_bits = False  # for the matrices of what is added while it is true
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._made: dict[str, _Made] = {}
        self._order: list[str] = []
        self._values: dict[str, NDArray[Any]] = {}
        self.depths: dict[str, int] = {}  # output of DepthToSpace -> its channels

    def constant(self, value: NDArray[Any], half: bool = True) -> str:
        """A constant; float16 on disk, or with `half` False as it is."""
        from onnx import TensorProto, numpy_helper

        name = f"c{len(self.initialisers)}"
        if not half:
            self.initialisers.append(numpy_helper.from_array(value, name))
            return name
        self.initialisers.append(numpy_helper.from_array(value.astype(np.float16), name))
        cast = self.node("Cast", [name], to=TensorProto.FLOAT)
        self._values[cast] = value
        return cast

    def weight(self, value: NDArray[Any]) -> str:
        """The weight [O, I, k, k] of a convolution."""
        if not self.eight_bits or value.shape[1] == 1:
            return self.constant(value)
        scale = np.maximum(np.abs(value).max((1, 2, 3)), 1e-12) / 127
        codes = np.rint(value / scale[:, None, None, None]).astype(np.int8)
        names = [self.constant(x, half=False) for x in (codes, scale.astype(np.float32))]
        return self.node("DequantizeLinear", names, axis=0)

    def scalar(self, value: float) -> str:
        """A constant of one float32."""
        return self.constant(np.array(value, np.float32), half=False)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """One operator with one output."""
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self._made[name] = _Made(kind, inputs, attributes)
        self._order.append(name)
        return name

    def add(self, a: str, b: str) -> str:
        """a + b."""
        return self.node("Add", [a, b])

    def sub(self, a: str, b: str) -> str:
        """a - b."""
        return self.node("Sub", [a, b])

    def mul(self, a: str, b: str) -> str:
        """a b."""
        return self.node("Mul", [a, b])

    def channels(self, x: str, start: int, stop: int) -> str:
        """x[:, start:stop]."""
        limits = [self.constant(np.array([n], np.int64), half=False) for n in (start, stop, 1)]
        return self.node("Slice", [x, *limits])

    def convolve(
        self, x: str, weight: NDArray[Any], bias: NDArray[Any] | None, stride: int = 1, pad: int | None = None
    ) -> str:
        """Convolution by [O, I, k, k], unpadded if strided, else padded by (k - 1) / 2, unless `pad` is given.

        Depthwise if I is 1 and O > 1, as long as `pad` is not given.
        """
        size = weight.shape[2]
        depthwise = pad is None and weight.shape[1] == 1 and weight.shape[0] > 1
        if pad is None:
            pad = (size - 1) // 2 if stride == 1 else 0
        inputs = [x, self.weight(weight)] + ([] if bias is None else [self.constant(bias)])
        return self.node(
            "Conv",
            inputs,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=weight.shape[0] if depthwise else 1,
        )

    def conv(self, x: str, conv: nn.Conv2d, scale_out: Tensor | None = None, scale_in: Tensor | None = None) -> str:
        """A torch convolution, its inputs and outputs scaled by constants per channel."""
        weight, bias = conv.weight.detach(), conv.bias.detach() if conv.bias is not None else None
        if scale_in is not None:
            weight = weight * scale_in[None, :, None, None]
        if scale_out is not None:
            weight = weight * scale_out[:, None, None, None]
            bias = bias * scale_out if bias is not None else None
        return self.convolve(x, array(weight), None if bias is None else array(bias), int(conv.stride[0]))

    def block(self, x: str, block: Block) -> str:
        """A residual block."""
        h = self.node("LeakyRelu", [self.conv(x, block.enter)], alpha=SLOPE)
        x = self.add(x, self.conv(self.conv(h, block.depthwise), block.leave))
        if block.ffn:
            h = self.node("LeakyRelu", [self.conv(x, block.expand)], alpha=SLOPE)
            x = self.add(x, self.conv(h, block.reduce))
        return x

    def gain(self, x: str, gain: Gain, hat: str = "hat") -> str:
        """x times a quality's gains. The weights of `hat` sum to one, so the 1 of (1 + gain) can go into the table."""
        vector = self.node("MatMul", [hat, self.constant(array(gain.table) + 1)])
        return self.mul(x, self.as_channels(vector))

    def depth_to_space(self, x: str, side: int, channels: int) -> str:
        """[1, channels * side**2, h, w] -> [1, channels, side h, side w], torch's pixel_shuffle."""
        name = self.node("DepthToSpace", [x], blocksize=side, mode="CRD")
        self.depths[name] = channels
        return name

    def as_channels(self, vector: str) -> str:
        """[1, C] -> [1, C, 1, 1]."""
        return self.node("Reshape", [vector, self.constant(np.array([1, -1, 1, 1], np.int64), half=False)])

    def rename(self, old: str, new: str) -> None:
        """Give a value its outside name; only when the graph is complete."""
        for node in self.nodes:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]

    def gradient(self, seeds: dict[str, str], leaves: list[str]) -> list[str]:
        """Nodes for the gradient of sum over outputs of (seed * output), with respect to `leaves`.

        Args:
            seeds: output -> the value that its gradient starts with, of the output's shape.
            leaves: values to differentiate by; what they were computed from is taken as constant.

        Returns:
            the gradients' names, in the order of `leaves`.
        """
        needed = set(leaves)
        order = list(self._order)
        for name in order:
            if name not in needed and self._made[name].kind not in _FLAT and needed & set(self._made[name].inputs):
                needed.add(name)
        grads = dict(seeds)
        for name in reversed(order):
            if name not in grads or name in leaves:
                continue
            made = self._made[name]
            for place, source in enumerate(made.inputs):
                if source in needed:
                    part = _RULES[made.kind](self, made, name, grads[name], place)
                    grads[source] = self.add(grads[source], part) if source in grads else part
        return [grads[leaf] for leaf in leaves]

    def serialise(self, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> bytes:
        """The model's bytes; inputs and outputs by name and shape, float32."""
        from onnx import TensorProto, checker, helper

        def values(shapes: dict[str, list[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

        graph = helper.make_graph(self.nodes, "vqcodec", values(inputs), values(outputs), self.initialisers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="vqcodec")
        model.ir_version = 8
        checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


_FLAT = ("Floor", "Greater")  # whose derivative is zero or none

# Vector-Jacobian products: (graph, how it was made, its name, gradient of it, which input) -> gradient of that input.
_Rule = Callable[[Graph, _Made, str, str, int], str]


def _conv(g: Graph, made: _Made, _: str, grad: str, place: int) -> str:
    assert place == 0
    assert made.attributes["strides"] == [1, 1]
    weight = made.inputs[1]
    size = made.attributes["kernel_shape"][0]
    if made.attributes["group"] > 1:
        flipped = g.constant(np.ascontiguousarray(g._values[weight][:, :, ::-1, ::-1]))
        return g.node("Conv", [grad, flipped], **made.attributes)
    assert size == 1
    return g.node("Conv", [grad, g.node("Transpose", [weight], perm=[1, 0, 2, 3])], **made.attributes)


def _where(g: Graph, made: _Made, _: str, grad: str, place: int) -> str:
    zero = g.scalar(0.0)
    return g.node("Where", [made.inputs[0], grad, zero] if place == 1 else [made.inputs[0], zero, grad])


def _leaky(g: Graph, made: _Made, _: str, grad: str, _place: int) -> str:
    positive = g.node("Greater", [made.inputs[0], g.scalar(0.0)])
    return g.node("Where", [positive, grad, g.mul(grad, g.scalar(made.attributes["alpha"]))])


def _clip(g: Graph, made: _Made, name: str, grad: str, _place: int) -> str:
    return g.node("Where", [g.node("Equal", [made.inputs[0], name]), grad, g.scalar(0.0)])


def _max(g: Graph, made: _Made, _: str, grad: str, place: int) -> str:
    return g.node("Where", [g.node("Greater", [made.inputs[place], made.inputs[1 - place]]), grad, g.scalar(0.0)])


def _erf(g: Graph, made: _Made, _: str, grad: str, _place: int) -> str:
    bell = g.node("Exp", [g.node("Neg", [g.mul(made.inputs[0], made.inputs[0])])])
    return g.mul(grad, g.mul(bell, g.scalar(2 / math.sqrt(math.pi))))


def _depth_to_space(g: Graph, made: _Made, name: str, grad: str, _place: int) -> str:
    b, count = made.attributes["blocksize"], g.depths[name]
    packed = g.node("SpaceToDepth", [grad], blocksize=b)  # channels in the order (row, column, channel)
    order = np.arange(b * b * count).reshape(b * b, count).T.reshape(-1).astype(np.int64)
    return g.node("Gather", [packed, g.constant(order, half=False)], axis=1)


_RULES: dict[str, _Rule] = {
    "Conv": _conv,
    "Where": _where,
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "Max": _max,
    "Erf": _erf,
    "DepthToSpace": _depth_to_space,
    "Add": lambda g, made, name, grad, place: grad,
    "Sub": lambda g, made, name, grad, place: g.node("Neg", [grad]) if place else grad,
    "Mul": lambda g, made, name, grad, place: g.mul(grad, made.inputs[1 - place]),
    "Exp": lambda g, made, name, grad, place: g.mul(grad, name),
    "Log": lambda g, made, name, grad, place: g.node("Div", [grad, made.inputs[0]]),
}
