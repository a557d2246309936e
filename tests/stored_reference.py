"""What a model with stored weights computes: the numbers of its constants, and how far run-time rounding may reach.

Numbers come from the written file and its encodings; knows nothing of how they were chosen.
"""

from __future__ import annotations

import models
import numpy as np
import onnx
from conversion import run
from onnx import AttributeProto, numpy_helper


def graphs_of(part):
    """Return a graph and those in its nodes."""
    bodies = [a.g for n in part.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    return [part, *(inner for body in bodies for inner in graphs_of(body))]


def entries(converted):
    return {e["name"]: e for e in converted.result.encodings["encodings"]}


def constants(model):
    """Return every constant of the model by name, those of bodies too."""
    return {t.name: numpy_helper.to_array(t) for part in graphs_of(model.graph) for t in part.initializer}


def steps(entry, shape):
    """Return scale and zero point of every element of a tensor with this encoding."""
    scale, zero = np.asarray(entry["y_scale"], np.float32), np.asarray(entry["y_zero_point"], np.int32)
    if "block_size" in entry:
        index = np.arange(shape[entry["axis"]]) // entry["block_size"]
        return np.take(scale, index, entry["axis"]), np.take(zero, index, entry["axis"])
    if scale.ndim:
        along = [-1 if a == entry["axis"] else 1 for a in range(len(shape))]
        return scale.reshape(along), zero.reshape(along)
    return scale, zero


def stored_numbers(converted):
    """Return, by the user's name, the real numbers of every constant that is stored smaller, and its half steps."""
    written, found = constants(converted.model), {}
    for name, entry in entries(converted).items():
        if name in written:
            scale, zero = steps(entry, written[name].shape)
            found[name] = ((written[name].astype(np.int32) - zero).astype(np.float32) * scale, scale / 2)
    for weight in converted.result.state.plan.stored:
        if weight.twin:
            found[weight.name] = tuple(np.swapaxes(a, -1, -2) if np.ndim(a) else a for a in found[weight.twin])
    for part in graphs_of(converted.model.graph):
        for node in part.node:
            source = written.get(node.input[0]) if node.op_type == "Cast" else None
            if source is not None and source.dtype == np.float16:
                real = source.astype(np.float32)
                found[node.output[0]] = real, np.maximum(np.spacing(np.abs(source)).astype(np.float32), 2.0**-24)
    return found


def with_stored_numbers(converted):
    """Return the prepared float model with the numbers that are stored."""
    model, numbers = onnx.ModelProto(), stored_numbers(converted)
    model.CopyFrom(converted.prepared)
    for part in graphs_of(model.graph):
        for tensor in part.initializer:
            if tensor.name in numbers:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers[tensor.name][0]), tensor.name))
    return model


def products(converted):
    """Return node, weight name and form of every product with a kernel that rounds its activations."""
    nodes = {n.name: n for n in converted.prepared.graph.node}
    uses = [(w.name, u) for w in converted.result.state.plan.stored for u in w.uses]
    return [(nodes[u.node], name, u.form) for name, u in uses if u.form in ("dynamic", "blocked")]


def check_products(converted, feed, *, optimize):
    """Every product is that of the stored numbers, within what rounding its activations at run time may cost."""
    numbers = stored_numbers(converted)
    for node, weight, form in products(converted):
        computed = [t for t in (*node.input, node.output[0]) if any(t in n.output for n in converted.model.graph.node)]
        known = constants(converted.prepared) | dict(feed)
        known |= run(converted.model, feed, outputs=list(dict.fromkeys(computed)), optimize=optimize)
        x, w = known[node.input[0]].astype(np.float64), numbers[weight][0].astype(np.float64)
        w = w.T if any(a.name == "transB" and a.i for a in node.attribute) else w
        bias = known[node.input[2]] if len(node.input) > 2 and node.input[2] else 0.0
        expected = x @ w + bias
        step = 0.0
        if form == "dynamic":  # one grid for all of x, with a rounded zero point
            step = (max(x.max(), 0) - min(x.min(), 0)) / 255 * 1.01
        elif optimize:  # int8 per row and block
            step = np.abs(x).max(axis=-1, keepdims=True) / 127 * 0.51
        limit = step * np.abs(w).sum(axis=0) + 1e-5 * (np.abs(x) @ np.abs(w) + np.abs(bias) + 1)
        assert np.all(np.abs(known[node.output[0]] - expected) <= limit), (node.name, form)


def samples(model, count=3):
    """Return feeds for a network of `strategies.networks`."""
    from strategies import NETWORK_INPUTS  # noqa: PLC0415 - only here is a strategy known

    feeds = models.samples(model, count, ranges=NETWORK_INPUTS)
    return [{**f, "flag": np.asarray(i % 2 == 0)} if "flag" in f else f for i, f in enumerate(feeds)]
