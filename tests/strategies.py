"""Hypothesis strategies: random small graphs that load, of operators from every role of the op table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import models
import numpy as np
from hypothesis import strategies as st
from models import Fed, weight
from onnx import NodeProto, helper, parser

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPE = (1, 4, 4, 4)  # of every tensor, so that any operator may follow any other

UNARY = {
    "Conv": {"kernel_shape": [1, 1]},
    "Relu": {},
    "Sigmoid": {},
    "Tanh": {},
    "LeakyRelu": {},
    "Erf": {},
    "Clip": {},
    "MaxPool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "AveragePool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "Transpose": {"perm": [0, 1, 3, 2]},
    "Softmax": {},
    "LogSoftmax": {},
    "Identity": {},
    "InstanceNormalization": {},
}
CONSTANTS = {
    "Conv": [weight(4, 4, 1, 1), weight(4)],
    "Clip": [np.asarray(0.0, np.float32), np.asarray(1.0, np.float32)],
    "InstanceNormalization": [np.ones(4, np.float32), np.zeros(4, np.float32)],
}
BINARY = ["Add", "Sub", "Mul", "Max", "Min", "MatMul", "Div"]
SEVERAL = {  # short for several operators, from tensors {0} and {1} to {2}; inner tensors are {2}a, {2}b
    "join": ["{2}a = Concat<axis = 1>({0}, {1})", "{2} = Conv({2}a, Wide)"],
    "join-split": ["{2}a = Concat<axis = 1>({0}, {1})", "{2}, {2}b = Split<axis = 1, num_outputs = 2>({2}a)"],
    "gate": ["{2}a = GlobalAveragePool({0})", "{2}b = Sigmoid({2}a)", "{2} = Mul({1}, {2}b)"],
    "mean": ["{2}a = ReduceMean({0}, Spatial)", "{2} = Add({1}, {2}a)"],
    "dense": ["{2}a = MatMul({0}, Square)", "{2}b = Add({2}a, Row)", "{2} = Relu({2}b)"],
    "rows": ["{2}a = Reshape({0}, Rows)", "{2}b = Gemm({2}a, Square, Row)", "{2} = Reshape({2}b, Image)"],
    "down-up": [
        "{2}a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>({0})",
        '{2} = Resize<mode = "nearest">({2}a, "", Twice)',
    ],
    "padded": ["{2}a = Pad({0}, Pads)", "{2} = Conv({2}a, Kernel)"],
    "silu": ["{2}a = Sigmoid({0})", "{2} = Mul({0}, {2}a)"],
    "select": ["{2} = Where(Mask, {0}, {1})"],
}
SHARED = {
    "Wide": weight(4, 8, 1, 1),
    "Square": weight(4, 4),
    "Row": weight(4),
    "Spatial": models.ints(2, 3),
    "Rows": models.ints(-1, 4),
    "Image": models.ints(*SHAPE),
    "Twice": np.asarray([1, 1, 2, 2], np.float32),
    "Pads": models.ints(0, 0, 1, 1, 0, 0, 1, 1),
    "Kernel": weight(4, 4, 3, 3, spread=0.2),
    "Mask": weight(*SHAPE) > 0,
    "constant": weight(*SHAPE),
    "scalar": np.asarray(0.5, np.float32),
}


EVERY = [*UNARY, *BINARY, *SEVERAL, "Conv", "Conv", "MatMul"]
MAGNIFYING = ("Div", "LogSoftmax", "InstanceNormalization")  # a step of their input may be many of their output
TAME = [k for k in EVERY if k not in MAGNIFYING]


@st.composite
def graphs(draw: st.DrawFn, most: int = 9, kinds: Sequence[str] = EVERY):
    """Draw a model of up to ``most`` steps; one to three of its tensors are outputs, the last always."""
    tensors, nodes = ["x0", "x1"], []
    for index in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(kinds))
        first, second = (draw(st.sampled_from(tensors)) for _ in range(2))
        nodes += _step(draw, kind, first, second, f"t{index}")
        tensors.append(f"t{index}")
    for index, node in enumerate(nodes):
        node.name = f"n{index}"
    made = [o for n in nodes for o in n.output]
    outputs = dict.fromkeys([tensors[-1], *draw(st.lists(st.sampled_from(made), max_size=2))])
    used = {i for n in nodes for i in n.input}
    arrays = SHARED | {f"{op}_{i}": a for op, constants in CONSTANTS.items() for i, a in enumerate(constants)}
    kept = {n: a for n, a in arrays.items() if n in used}
    return models.graph(nodes, {"x0": Fed(SHAPE), "x1": Fed(SHAPE)}, list(outputs), kept)


def _step(draw: st.DrawFn, kind: str, first: str, second: str, result: str) -> list[NodeProto]:
    if kind in SEVERAL:
        return [parser.parse_node(line.format(first, second, result)) for line in SEVERAL[kind]]
    inputs = [first, *(f"{kind}_{i}" for i in range(len(CONSTANTS.get(kind, ()))))]
    if kind in BINARY:
        constants = ["constant"] if kind == "MatMul" else ["constant", "scalar"]
        inputs = draw(st.permutations([first, draw(st.sampled_from([second, *constants]))]))
    return [helper.make_node(kind, inputs, [result], **UNARY.get(kind, {}))]


# ---- networks whose weights are worth storing ------------------------------------------------------------------------

WIDTH = 128  # of every tensor (4, 128), enough for every kernel that takes stored weights
BRANCH = (
    "{2} = If(flag) <then_branch = yes () => (float[4,128] {2}y) {{ {2}y = MatMul({0}, {W}) }},"
    " else_branch = no () => (float[4,128] {2}n) {{ {2}n = Gemm({1}, {V}, Bias) }}>"
)
LAYERS = {  # from tensors {0} and {1} to {2}; inner tensors are {2}a, {2}b ...; {W} and {V} are square weights
    "matmul": ["{2} = MatMul({0}, {W})"],
    "dense": ["{2}a = MatMul({0}, {W})", "{2}b = Add({2}a, Bias)", "{2} = Relu({2}b)"],
    "gemm": ["{2} = Gemm<transB = 1>({0}, {W}, Bias)"],
    "gemm-scaled": ["{2} = Gemm<alpha = 0.5, beta = 2.0>({0}, {W}, Bias)"],
    "gemm-computed-bias": ["{2} = Gemm({0}, {W}, {1})"],
    "twice": ["{2}a = MatMul({0}, {W})", "{2}b = Gemm<transB = 1>({0}, {W})", "{2} = Sub({2}a, {2}b)"],
    "narrow": ["{2}a = MatMul({0}, Down)", "{2}b = Tanh({2}a)", "{2} = MatMul({2}b, Up)"],
    "left": ["{2} = MatMul(Left, {0})"],
    "attention": [
        "{2}a = Transpose({1})", "{2}b = MatMul({0}, {2}a)", "{2}c = Softmax({2}b)", "{2} = MatMul({2}c, {1})",
    ],
    "norm": ["{2}a = LayerNormalization({0}, Gain)", "{2} = Mul({2}a, half)"],
    "residual": ["{2} = Add({0}, {1})"],
    "gate": ["{2}a = Sigmoid({0})", "{2} = Mul({2}a, {1})"],
    "embedding": ["{2}a = Gather(Table, i)", "{2} = Add({0}, {2}a)"],
    "tied": ["{2}a = Gemm<transB = 1>({0}, Table)", "{2} = MatMul({2}a, Table)"],
    "conv": [
        "{2}a = Reshape({0}, Image)", "{2}b = Conv<pads = [1, 1, 1, 1]>({2}a, Kernel)", "{2} = Reshape({2}b, Rows)",
    ],
    "depthwise": [
        "{2}a = Reshape({0}, Image)", "{2}b = Conv<group = 32, pads = [2, 2, 2, 2]>({2}a, Depthwise)",
        "{2} = Reshape({2}b, Rows)",
    ],
    "lstm": [
        "{2}a = Reshape({0}, Steps)", "{2}b = LSTM<hidden_size = 128>({2}a, Input, State)", "{2} = Reshape({2}b, Rows)",
    ],
    "gru": [
        "{2}a = Reshape({0}, Steps)", "{2}b = GRU<hidden_size = 32>({2}a, InputGru, StateGru)",
        "{2}c = Tile({2}b, Four)", "{2} = Reshape({2}c, Rows)",
    ],
    "branch": [BRANCH],
}  # fmt: skip
NETWORK_INPUTS = {
    "x0": Fed((4, WIDTH)), "x1": Fed((4, WIDTH), -1, 3), "i": Fed((4,), 0, 49, "int64"), "flag": Fed((), dtype="bool"),
}  # fmt: skip


def _small(*shape, seed=0):
    return weight(*shape, seed=seed, spread=0.1)


NETWORK_CONSTANTS = {
    "W": _small(WIDTH, WIDTH), "V": _small(WIDTH, WIDTH, seed=1), "Bias": weight(WIDTH), "Down": _small(WIDTH, 50),
    "Up": _small(50, WIDTH), "Left": weight(4, 4), "Gain": weight(WIDTH) + 1, "half": np.asarray(0.5, np.float32),
    "Table": _small(50, WIDTH), "Image": models.ints(1, 32, 4, 4), "Rows": models.ints(4, WIDTH),
    "Steps": models.ints(4, 1, WIDTH), "Four": models.ints(1, 1, 1, 4), "Kernel": _small(32, 32, 3, 3),
    "Depthwise": weight(32, 1, 5, 5, spread=0.2), "Input": _small(1, 512, WIDTH),
    "State": _small(1, 512, WIDTH, seed=1), "InputGru": _small(1, 96, WIDTH), "StateGru": _small(1, 96, 32),
}  # fmt: skip


@st.composite
def networks(draw: st.DrawFn, most: int = 5, kinds: Sequence[str] = tuple(LAYERS)):
    """Draw a model of up to ``most`` layers with weights of a useful size, some shared; the last is an output."""
    tensors, nodes = ["x0", "x1"], []
    for index in range(draw(st.integers(1, most))):
        first, second = (draw(st.sampled_from(tensors)) for _ in range(2))
        chosen = dict(zip("WV", draw(st.permutations("WV")), strict=True))
        lines = LAYERS[draw(st.sampled_from(kinds))]
        nodes += [parser.parse_node(line.format(first, second, f"t{index}", **chosen)) for line in lines]
        tensors.append(f"t{index}")
    for index, node in enumerate(nodes):
        node.name = f"n{index}"
    outputs = dict.fromkeys([tensors[-1], *draw(st.lists(st.sampled_from(tensors[2:]), max_size=1))])
    used = {i for n in nodes for i in _reads(n)}
    inputs = {n: f for n, f in NETWORK_INPUTS.items() if n in used}
    kept = {n: a for n, a in NETWORK_CONSTANTS.items() if n in used}
    return models.graph(nodes, inputs, list(outputs), kept)


def _reads(node: NodeProto) -> list[str]:
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return [*node.input, *(i for body in bodies for inner in body.node for i in _reads(inner))]
