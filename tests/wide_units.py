"""What a whole 16x8 model in the integer form computes: its plan, unit by unit, in the arithmetic of `wide_reference`.

The numbers are those of the written file: scales of the encodings, integers of weights and biases. Functions of one
variable are onnx's own reference in float64, data movement is the float operator on integers; nothing is a lowering's.
"""

from __future__ import annotations

from typing import NamedTuple

import models
import numpy as np
import wide_reference as reference
from conversion import run
from integer_reference import quantize_linear
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from wide_reference import Tensor, Window


class Erf(OpRun):
    """The error function in float64, which onnx's own reference rounds to float32."""

    op_domain = ""

    def _run(self, x):
        return (reference.erf(x),)


class Place(NamedTuple):
    """A unit, its node, and the integers of every tensor before it."""

    unit: object
    node: object
    found: dict


class WideUnits:
    """A converted model; what a float operator makes is not known, nor is what depends on it."""

    def __init__(self, converted):
        state = converted.result.state
        self.plan, self.quantized = state.plan, state.quantized
        self.grids, self.written = converted.grids, converted.constants
        prepared = converted.prepared
        self.nodes = {n.name: n for n in prepared.graph.node}
        self.constants = {t.name: numpy_helper.to_array(t) for t in prepared.graph.initializer}
        self.computed = {o for n in prepared.graph.node for o in n.output}
        self.opset = prepared.opset_import[0].version

    def integers(self, feed):
        """Return the int16 of every tensor, and the users' own integers as they are."""
        found = {n: x for n, x in feed.items() if x.dtype != np.float32}
        found |= {n: self._on_grid(n, x) for n, x in feed.items() if x.dtype == np.float32 and n in self.grids}
        for unit in self.plan.units:
            node = self.nodes[unit.node]
            at = Place(unit, node, found)
            if unit.lowering == "read" or not self._is_known(at):
                continue
            made = getattr(self, f"_{unit.lowering}")(at)
            several = isinstance(made, list)
            names = [o for o in node.output if o] if several else [unit.output]
            for name, integers in zip(names, made if several else [made], strict=True):
                low, high = self._limits(unit, name)
                found[name] = np.clip(integers, low, high).astype(np.int16)
        return found

    def _is_known(self, at):
        others = at.node.input if at.unit.lowering in ("where", "move", "source") else ()
        return all(t in at.found for t in {*(t for _, t in at.unit.inputs), *others} & self.computed)

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def _scale(self, name):
        return self.grids[name].scale

    def _on_grid(self, name, real):
        return np.asarray(quantize_linear(np.asarray(real, np.float32), self.grids[name]))

    def _tensor(self, name, found):
        if name not in found:
            found[name] = self._on_grid(name, self.constants[name])
        return Tensor(found[name], self._scale(name))

    def _limits(self, unit, name):
        if unit.clamp is None:
            return reference.LIMITS
        return np.clip(np.rint(np.asarray(unit.clamp) / np.float64(self._scale(name))), *reference.LIMITS)

    def _operands(self, at):
        return [self._tensor(t, at.found) for _, t in at.unit.inputs]

    def _attributes(self, node):
        return {a.name: helper.get_attribute_value(a) for a in node.attribute}

    # ---- linear ------------------------------------------------------------------------------------------------------

    def _linear(self, at):
        """Return weight, bias, and the factor of each output channel."""
        w, bias = (self.written.get(of.get(at.unit.node)) for of in (self.quantized.weights, self.quantized.biases))
        scales = (self._scale(at.unit.inputs[0][1]), self._scale(at.unit.weight), self._scale(at.unit.output))
        return w, np.zeros(1, np.int64) if bias is None else bias.astype(np.int64), reference.factor(*scales)

    def _conv(self, at):
        (x,) = self._operands(at)
        w, bias, factors = self._linear(at)
        attributes = self._attributes(at.node)
        automatic = attributes.get("auto_pad", b"NOTSET").decode()
        if automatic.startswith("SAME"):
            attributes["pads"] = _same_pads(automatic, x.q.shape[2:], w.shape[2:], attributes.get("strides"))
        sums = reference.conv_sums(x.q, w, Window.of(x.q.ndim - 2, attributes), attributes.get("group", 1))
        along = [-1, *[1] * (x.q.ndim - 2)]
        return reference.requantize(sums + bias.reshape(along), np.reshape(factors, along))

    def _gemm(self, at):
        (x,) = self._operands(at)
        w, bias, factors = self._linear(at)
        turned = self._attributes(at.node)
        a = x.q.T if turned.get("transA") else x.q
        b = w.T if turned.get("transB") else w
        return reference.requantize(a.astype(np.int64) @ b.astype(np.int64) + bias, factors)

    def _matmul(self, at):
        (x,) = self._operands(at)
        w, bias, factors = self._linear(at)
        return reference.requantize(x.q.astype(np.int64) @ w.astype(np.int64) + bias, factors)

    def _product(self, at):
        return reference.matmul(*self._operands(at), self._scale(at.unit.output))

    # ---- arithmetic --------------------------------------------------------------------------------------------------

    def _add(self, at):
        return reference.add(*self._operands(at), self._scale(at.unit.output))

    def _sub(self, at):
        return reference.add(*self._operands(at), self._scale(at.unit.output), -1)

    def _mul(self, at):
        return reference.mul(*self._operands(at), self._scale(at.unit.output))

    def _regridded(self, at):
        return [reference.regrid(x, self._scale(at.unit.output)) for x in self._operands(at)]

    def _extremum(self, at):
        first, *others = self._regridded(at)
        for other in others:
            first = (np.maximum if at.node.op_type == "Max" else np.minimum)(first, other)
        return first

    def _where(self, at):
        chosen = at.found[at.node.input[0]] if at.node.input[0] in at.found else self.constants[at.node.input[0]]
        return np.where(chosen, *self._regridded(at))

    def _concat(self, at):
        return np.concatenate(self._regridded(at), axis=self._attributes(at.node)["axis"])

    # ---- means -------------------------------------------------------------------------------------------------------

    def _mean(self, at, sums, count):
        return reference.mean(sums, count, self._scale(at.unit.inputs[0][1]), self._scale(at.unit.output))

    def _global_average_pool(self, at):
        (x,) = self._operands(at)
        sums = x.q.astype(np.int64).sum(tuple(range(2, x.q.ndim)), keepdims=True)
        return self._mean(at, sums, int(np.prod(x.q.shape[2:])))

    def _average_pool(self, at):
        (x,) = self._operands(at)
        attributes = self._attributes(at.node)
        kernel = attributes["kernel_shape"]
        sums = reference.windows(x.q.astype(np.int64), kernel, Window.of(len(kernel), attributes)).sum(-1)
        return self._mean(at, sums, int(np.prod(kernel)))

    def _reduce_mean(self, at):
        (x,) = self._operands(at)
        attributes = self._attributes(at.node)
        given = (
            self.constants[at.node.input[1]] if len(at.node.input) > 1 and at.node.input[1] else attributes.get("axes")
        )
        axes = tuple(range(x.q.ndim) if given is None else (int(a) for a in given))
        sums = x.q.astype(np.int64).sum(axes, keepdims=bool(attributes.get("keepdims", 1)))
        count = x.q.size // max(sums.size, 1) if at.node.op_type == "ReduceMean" else 1
        return self._mean(at, sums, count)

    _reduce_sum = _reduce_mean

    def _softmax(self, at):
        (x,) = self._operands(at)
        return reference.softmax(x, self._scale(at.unit.output), self._attributes(at.node).get("axis", -1))

    # ---- movement and functions --------------------------------------------------------------------------------------

    def _move(self, at):
        """Run the float operator on integers, which float32 holds."""
        fed = {t: self._tensor(t, at.found).q.astype(np.float32) for _, t in at.unit.inputs}
        others = [i for i in at.node.input if i and i not in fed]
        own = {i: at.found[i] for i in others if i in at.found}
        arrays = {i: self.constants[i] for i in others if i not in own}
        return self._run(at.node, fed | own, arrays)

    _global_max_pool = _move

    def _pad(self, at):
        (x,) = self._operands(at)
        arrays = {i: self.constants[i] for i in at.node.input[1:] if i}
        if len(at.node.input) > 2 and at.node.input[2]:
            filler = quantize_linear(arrays[at.node.input[2]].reshape(1), self.grids[at.unit.inputs[0][1]])
            arrays[at.node.input[2]] = filler.astype(np.float32).reshape(())
        return self._run(at.node, {at.node.input[0]: x.q.astype(np.float32)}, arrays)

    def _run(self, node, fed, arrays):
        inputs = {n: models.Fed(x.shape, dtype=x.dtype.name) for n, x in fed.items()}
        outputs = [o for o in node.output if o]
        results = run(models.graph([node], inputs, outputs, arrays, opset=self.opset), fed, optimize=False)
        return [results[o] for o in outputs] if len(outputs) > 1 else results[outputs[0]]

    def _source(self, at):
        return at.found[at.node.input[0]]

    def _table(self, at):
        """Apply the members in float64 to the real numbers."""
        (x,) = self._operands(at)
        source = at.unit.inputs[0][1]
        members = [self.nodes[m] for m in at.unit.members]
        names = {i for m in members for i in m.input if i in self.constants}
        made = helper.make_graph(
            members, "members", [helper.make_tensor_value_info(source, 11, None)],
            [helper.make_tensor_value_info(members[-1].output[0], 11, None)],
            [numpy_helper.from_array(self.constants[n].astype(np.float64), n) for n in sorted(names - {source})],
        )  # fmt: skip
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        evaluator = ReferenceEvaluator(model, new_ops=[Erf])

        def f(real):
            with np.errstate(all="ignore"):
                return evaluator.run(None, {source: real})[0].astype(np.float64)

        return reference.function(f, x, self._scale(at.unit.output))


def _same_pads(kind, sizes, kernel, strides):
    begins, ends = [], []
    for size, k, s in zip(sizes, kernel, strides or [1] * len(kernel), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        begins.append(total // 2 if kind == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return [*begins, *ends]
