"""Models with If, Loop and Scan: a small network inside each body."""

from __future__ import annotations

import models
import numpy as np
from onnx import TensorProto, helper

ROWS, WIDTH = 4, 64
_KIND = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "bool": TensorProto.BOOL}


def value(name, kind="float", shape=None):
    return helper.make_tensor_value_info(name, _KIND[kind], shape)


def dense(source, result, seed, *, inside=()):
    """Two dense layers; their weights are constants of the body, but for those named in ``inside``."""
    names = [f"w{seed}a", f"w{seed}b"]
    made = [models.initializer(n, models.weight(WIDTH, WIDTH, seed=seed + i, spread=0.1)) for i, n in enumerate(names)]
    nodes = [
        helper.make_node("MatMul", [source, names[0]], [f"{result}_h"], name=f"{result}_first"),
        helper.make_node("Relu", [f"{result}_h"], [f"{result}_r"], name=f"{result}_relu"),
        helper.make_node("MatMul", [f"{result}_r", names[1]], [result], name=f"{result}_second"),
    ]
    return nodes, [t for t in made if t.name not in inside]


def branches(*, outer=False):
    """If on an input ``c``: two networks; with ``outer`` both read the first weight of the main graph."""
    bodies = []
    for name, result, seed in (("yes", "p", 1), ("no", "q", 1 if outer else 5)):
        nodes, constants = dense("x", result, seed, inside=("w1a",) if outer else ())
        bodies.append(helper.make_graph(nodes, name, [], [value(result, shape=(ROWS, WIDTH))], constants))
    node = helper.make_node("If", ["c"], ["y"], name="flow", then_branch=bodies[0], else_branch=bodies[1])
    shared = {"w1a": models.weight(WIDTH, WIDTH, seed=1, spread=0.1)} if outer else {}
    return models.graph([node], {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((ROWS, WIDTH))}, ["y"], shared)


def loop(turns=3):
    """Loop: the state goes through the network at each turn, and every state is collected."""
    nodes, constants = dense("v", "z", 1)
    nodes += [helper.make_node("Identity", ["more"], ["on"]), helper.make_node("Tanh", ["z"], ["next"])]
    nodes.append(helper.make_node("Identity", ["next"], ["seen"]))
    inputs = [value("i", "int", ()), value("more", "bool", ()), value("v", shape=(ROWS, WIDTH))]
    state = [value(n, shape=(ROWS, WIDTH)) for n in ("next", "seen")]
    body = helper.make_graph(nodes, "body", inputs, [value("on", "bool", ()), state[0], state[1]], constants)
    node = helper.make_node("Loop", ["n", "", "x"], ["y", "all"], name="flow", body=body)
    model = models.graph([node], {"x": models.Fed((ROWS, WIDTH))}, ["y", "all"], {"n": np.asarray(turns, np.int64)})
    for output, shape in zip(model.graph.output, ((ROWS, WIDTH), ("turns", ROWS, WIDTH)), strict=True):
        output.CopyFrom(value(output.name, shape=shape))
    return model


def scan(*, backwards=0):
    """Scan: a recurrent network over the first axis of x."""
    nodes, constants = dense("both", "z", 1)
    nodes = [helper.make_node("Add", ["s", "part"], ["both"]), *nodes, helper.make_node("Tanh", ["z"], ["next"])]
    nodes.append(helper.make_node("Identity", ["next"], ["seen"]))
    body = helper.make_graph(
        nodes, "body", [value("s", shape=(ROWS, WIDTH)), value("part", shape=(ROWS, WIDTH))],
        [value("next", shape=(ROWS, WIDTH)), value("seen", shape=(ROWS, WIDTH))], constants,
    )  # fmt: skip
    node = helper.make_node(
        "Scan", ["start", "x"], ["y", "all"], name="flow", body=body, num_scan_inputs=1,
        scan_input_directions=[backwards],
    )  # fmt: skip
    start = np.zeros((ROWS, WIDTH), np.float32)
    return models.graph([node], {"x": models.Fed((5, ROWS, WIDTH))}, ["y", "all"], {"start": start})


MODELS = {"If": branches, "Loop": loop, "Scan": scan}


def both_ways(model, count=6):
    """Samples that take both branches of an If in turn."""
    feeds = models.samples(model, count=count)
    for index, feed in enumerate(feeds):
        if "c" in feed:
            feed["c"] = np.asarray(index % 2 == 0)
    return feeds


def inner(model):
    """Return every body of the model by the name of its graph."""
    found = {}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found[attribute.g.name] = attribute.g
    return found
