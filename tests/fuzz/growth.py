"""A random graph while it grows: every step is run on its samples, so that only what the runtime computes is kept.

Knows nothing of quantcli, and of no operator but those that hide a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from onnx import AttributeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from naming import Names
    from onnx import ModelProto, NodeProto

SAMPLES = 3
LARGEST = 6000  # values of one tensor
FLOAT, INT64, BOOL = "float32", "int64", "bool"
IR = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}


class DeadEndError(Exception):
    """A step that this graph cannot take."""


@dataclass
class Growth:
    """Nodes, constants and inputs so far, and what every tensor holds on each sample.

    Attributes:
        random: Decides everything but numbers.
        rng: Draws numbers.
        opset: Of the model.
        free: Sizes of the free dimensions on each sample, by symbol.
        widths: Sizes that what linear operators make may have.
    """

    random: Random
    rng: np.random.Generator
    opset: int
    names: Names
    free: dict[str, tuple[int, ...]] = field(default_factory=dict)
    widths: tuple[int, ...] = (1, 3, 8, 40)
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    overridable: list[str] = field(default_factory=list)  # constants that are inputs too

    # ---- what there is ----

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def pick(
        self, dtype: str = FLOAT, rank: int | range | None = None, fits: Callable[[str], bool] | None = None
    ) -> str:
        """Return a tensor of a type and rank, mostly a late one.

        Raises:
            DeadEndError: There is none.
        """
        found = [n for n in (*self.inputs, *self.computed) if self.array(n).dtype == dtype]
        found = [n for n in found if self.array(n).ndim in _ranks(rank) and (fits is None or fits(n))]
        if not found:
            raise DeadEndError
        return self.random.choice(found[-3:] if self.chance(0.6) else found)

    def array(self, name: str) -> np.ndarray:
        """Return what a tensor holds on the first sample."""
        return self.constants[name] if name in self.constants else self.values[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.array(name).shape

    def fixed(self, name: str, axis: int) -> bool:
        """Tell whether the size of an axis is the same on each sample."""
        return name in self.constants or len({v.shape[axis] for v in self.values[name]}) == 1

    def all_fixed(self, name: str) -> bool:
        return all(self.fixed(name, a) for a in range(self.array(name).ndim))

    # ---- what is added ----

    def feed(self, shape: Sequence[int | str], draw: Callable[[tuple[int, ...]], np.ndarray]) -> str:
        """Add a graph input; ``draw`` gives the values of a sample of a shape."""
        name = self.names.tensor("x")
        sizes = [tuple(self.free[d][i] if isinstance(d, str) else d for d in shape) for i in range(SAMPLES)]
        self.inputs[name] = tuple(shape)
        self.values[name] = [draw(s) for s in sizes]
        return name

    def constant(self, array: np.ndarray, *, plain: bool = False) -> str:
        """Add a constant, now and then behind what an exporter may put there; or share one that is there."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # of a scalar it makes a row
        if not plain and self.chance(0.12):
            shared = [n for n, a in self.constants.items() if a.shape == array.shape and a.dtype == array.dtype]
            if shared and array.dtype == FLOAT and array.size > 1:
                return self.random.choice(shared)
        if plain or array.dtype != FLOAT or self.chance(0.75):
            return self._stored(array)
        return self._hidden(array)

    def _stored(self, array: np.ndarray) -> str:
        name = self.names.tensor("w")
        if self.chance(0.1):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            self.values[name] = [array] * SAMPLES
            return name
        self.constants[name] = array
        if self.chance(0.05):
            self.overridable.append(name)
        return name

    def _hidden(self, array: np.ndarray) -> str:
        kind = self.random.choice(["Identity", "Transpose", "Cast", "Unsqueeze"])
        if kind == "Transpose" and array.ndim >= 2:
            perm = self.random.sample(range(array.ndim), array.ndim)
            stored = self._stored(np.ascontiguousarray(np.transpose(array, np.argsort(perm))))
            return self.add("Transpose", [stored], perm=perm)
        if kind == "Cast" and np.abs(array).max(initial=0) < 6e4:
            return self.add("Cast", [self._stored(array.astype(np.float16))], to=TensorProto.FLOAT)
        return self.add("Identity", [self._stored(array)])

    def ints(self, *values: int) -> str:
        """Add a constant list of indices, axes or sizes."""
        return self.constant(np.asarray(values, np.int64))

    def number(self, value: float) -> str:
        """Add a constant scalar."""
        return self.constant(np.asarray(value, np.float32))

    def add(self, op: str, inputs: Sequence[str | None], *, infinite: bool = False, **attributes: object) -> str:
        """Append an operator with one result; see ``extend``."""
        return self.extend(op, inputs, 1, infinite=infinite, **attributes)[0]

    def extend(
        self, op: str, inputs: Sequence[str | None], outputs: int, *, infinite: bool = False, **attributes: object
    ) -> list[str]:
        """Append an operator and return its results; ``infinite`` ones may be.

        Raises:
            DeadEndError: The runtime refuses it, or a result is NaN, too large or empty.
        """
        read = list(inputs)
        while read and read[-1] is None:
            read.pop()
        results = [self.names.tensor("t") for _ in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        try:
            node = helper.make_node(op, [i or "" for i in read], results, self.names.node(results[0]), **given)
        except (TypeError, ValueError) as error:
            raise DeadEndError from error
        self.values.update(zip(results, self._run(node, infinite=infinite), strict=True))
        self.nodes.append(node)
        self.computed += results
        return results

    def _run(self, node: NodeProto, *, infinite: bool) -> list[list[np.ndarray]]:
        read = [n for n in dict.fromkeys(reads(node)) if n in self.constants or n in self.values]
        arrays = {n: [self.constants[n]] * SAMPLES if n in self.constants else self.values[n] for n in read}
        fed = {n: a for n, a in arrays.items() if n in self.values}
        inputs = [_free_info(n, a[0]) for n, a in fed.items()]
        outputs = [helper.make_empty_tensor_value_info(o) for o in node.output]
        stored = [numpy_helper.from_array(self.constants[n], n) for n in read if n in self.constants]
        graph = helper.make_graph([node], "step", inputs, outputs, stored)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        try:
            loaded = load(model, optimize=False)
            runs = [loaded.run(None, {n: a[i] for n, a in fed.items()}) for i in range(SAMPLES)]
        except Exception as error:
            raise DeadEndError from error
        found = [list(arrays) for arrays in zip(*runs, strict=True)]
        if not all(_is_fine(a, infinite=infinite) for results in found for a in results):
            raise DeadEndError
        return found


def load(model: ModelProto, *, optimize: bool) -> ort.InferenceSession:
    """Return a session of one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def reads(node: NodeProto) -> list[str]:
    """Return every tensor that a node and its bodies read."""
    bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return [*(i for i in node.input if i), *(r for body in bodies for r in body_reads(body))]


def body_reads(body: object) -> list[str]:
    """Return what a body reads, of its own or from outside."""
    return [*(r for inner in body.node for r in reads(inner)), *(o.name for o in body.output)]


def with_axes(g: Growth, op: str, x: str, axes: list[int], *, since: int, **attributes: object) -> str:
    """Append an operator that takes its axes as an attribute before opset ``since``, and as an input from then on."""
    if g.opset < since:
        return g.add(op, [x], axes=axes, **attributes)
    return g.add(op, [x, g.ints(*axes)], **attributes)


def step(growth: Growth, maker: Callable[[Growth], object]) -> bool:
    """Let a maker add what it makes, all or nothing; tell whether it did."""
    before = len(growth.nodes), len(growth.computed), set(growth.constants), set(growth.values), set(growth.inputs)
    try:
        maker(growth)
    except DeadEndError:
        del growth.nodes[before[0] :], growth.computed[before[1] :]
        for kept, table in zip(before[2:], (growth.constants, growth.values, growth.inputs), strict=True):
            _forget(table, kept)
        growth.overridable = [n for n in growth.overridable if n in growth.constants]
        return False
    return True


def _forget(table: dict[str, object], kept: set[str]) -> None:
    for name in [n for n in table if n not in kept]:
        del table[name]


def _is_fine(found: object, *, infinite: bool) -> bool:
    if not isinstance(found, np.ndarray) or not 0 < found.size <= LARGEST:
        return False
    if found.dtype.kind != "f":
        return True
    known = ~np.isnan(found) if infinite else np.isfinite(found)
    return bool(known.all() and (infinite or np.abs(found).max() < 1e6))


def _free_info(name: str, array: np.ndarray) -> object:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)


def _ranks(rank: int | range | None) -> Sequence[int] | Mapping[int, int]:
    return range(1, 6) if rank is None else range(rank, rank + 1) if isinstance(rank, int) else rank
