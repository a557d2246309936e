"""Cross-layer equalization levels weights and leaves the float function alone; it stays where results gain by it."""

from __future__ import annotations

import dataclasses

import models
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli import graph, modes, runtime
from quantcli.chain_trial import ChainTrials, Verdict
from quantcli.chains import find_chains
from quantcli.layer_sets import layer_sets
from quantcli.metrics import Comparison
from quantcli.passes.cross_layer_equalization import CrossLayerEqualization
from quantcli.state import State

PER_TENSOR = "scheme.weights.granularity=per-tensor"
SPREAD = np.array([1, 0.05, 30, 3, 0.2, 8], np.float32)
TRIPLET = """(float[1,4,8,8] x) => (float[1,3,8,8] y) {{
  a = Conv(x, w, b) r = {first} d = Conv<group = 6, pads = [1, 1, 1, 1]>(r, k, e) c = {second} y = Conv(c, v, u)
}}"""


def triplet(first="Relu(a)", second="Relu(d)", spread=SPREAD, **arrays):
    """Two layers around a depthwise convolution, whose channels differ by ``spread`` and its inverse."""
    column = np.asarray(spread, np.float32).reshape(6, 1, 1, 1)
    return models.text(
        TRIPLET.format(first=first, second=second), w=models.weight(6, 4, 1, 1) * column,
        b=models.weight(6) * np.asarray(spread, np.float32), k=models.weight(6, 1, 3, 3) / column, e=models.weight(6),
        v=models.weight(3, 6, 1, 1), u=models.weight(3), **arrays,
    )  # fmt: skip


PAIRS = {
    "Conv": models.text(
        "(float[1,4,8,8] x) => (float[1,3,6,6] y) { a = Conv(x, w) r = LeakyRelu(a) y = Conv(r, v) }",
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), v=models.weight(3, 6, 3, 3),
    ),
    "PRelu": models.text(
        "(float[1,4,8,8] x) => (float[1,3,8,8] y) { a = Conv(x, w) r = PRelu(a, s) y = Conv(r, v) }",
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), v=models.weight(3, 6, 1, 1),
        s=np.full((6, 1, 1), -0.25, np.float32),
    ),
    "Gemm": models.text(
        "(float[1,4] x) => (float[1,3] y) { a = Gemm<transB = 1>(x, w, b) r = Relu(a) y = Gemm(r, v) }",
        w=models.weight(6, 4) * SPREAD.reshape(6, 1), b=models.weight(6), v=models.weight(6, 3),
    ),
    "MatMul": models.text(
        "(float[1,4] x) => (float[1,3] y) { m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v) }",
        w=models.weight(4, 6) * SPREAD, b=models.weight(6), v=models.weight(6, 3),
    ),
    "groups": models.text(
        "(float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) r = Relu(a) y = Conv<group = 2>(r, v) }",
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), v=models.weight(4, 3, 1, 1),
    ),
    "two readers": models.text(
        "(float[1,4,8,8] x) => (float[1,3,8,8] y, float[1,2,8,8] z)"
        " { a = Conv(x, w) r = Relu(a) y = Conv(r, v) z = Conv(r, t) }",
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), v=models.weight(3, 6, 1, 1),
        t=models.weight(2, 6, 1, 1),
    ),
    "Concat": models.text(
        "(float[1,4,8,8] x) => (float[1,3,8,8] y)"
        " { a = Conv(x, w) r = Relu(a) c = Conv(x, k) s = Relu(c) t = Concat<axis = 1>(r, s) y = Conv(t, v) }",
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), k=models.weight(2, 4, 1, 1),
        v=models.weight(3, 8, 1, 1),
    ),
}  # fmt: skip


def without_data(model, mode="dynamic-range"):
    made = ir.from_proto(model)
    graph.name_everything(made)
    return State(made, made, modes.resolve(mode))


def levelled(state):
    return CrossLayerEqualization()(state, lambda _done, _total: None)


def prepared(bench, model, *settings):
    off = ("passes.equalize=off", "passes.smooth=off", *settings)
    return bench.as_format(model, "qdq", *off).result.state


def closest(before, after, feeds):
    first, second = (runtime.load(s.model) for s in (before, after))
    total: dict[str, Comparison] = {}
    for feed in feeds:
        found = second.run(feed)
        for name, array in first.run(feed).items():
            total[name] = total.get(name, Comparison()).add(array, found[name])
    return min(c.sqnr_db for c in total.values())


def sizes(model):
    """Largest magnitudes of the channels of each layer of the model's only set: made, (made and) read, read."""
    (layers,) = layer_sets(find_chains(model))
    found = [np.concatenate([graph.real_constant(m.node.inputs[1]) for m in c.makers]) for c in layers.chains]
    rows = [np.abs(w).reshape(len(w), -1).max(axis=1) for w in found]
    last = [np.abs(graph.real_constant(r.inputs[1])) for r in layers.chains[-1].readers]
    return [*rows, np.max([w.max(axis=(0, *range(2, w.ndim))) for w in last], axis=0)]


def test_the_ranges_of_a_triplet_become_one():
    before = without_data(triplet())
    made, middle, read = sizes(levelled(before).model)
    np.testing.assert_allclose(middle, made, rtol=1e-5)
    np.testing.assert_allclose(read, made, rtol=1e-5)
    np.testing.assert_allclose(made, np.cbrt(np.prod(sizes(before.model), axis=0)), rtol=1e-5)


@pytest.mark.parametrize("name", ["Conv", "two readers", "Concat"])
def test_the_ranges_of_a_pair_become_one(name):
    made, read = sizes(levelled(without_data(PAIRS[name])).model)
    np.testing.assert_allclose(made, read, rtol=1e-5)


@pytest.mark.parametrize("model", PAIRS.values(), ids=PAIRS)
def test_the_function_of_a_pair_stays(model):
    before = without_data(model)
    after = levelled(before)
    assert after.report.equalized
    assert closest(before, after, models.samples(model)) > 100


@settings(max_examples=20)
@given(st.lists(st.floats(0.02, 50.0), min_size=6, max_size=6))
def test_the_function_of_a_triplet_stays(spread):
    model = triplet(second="LeakyRelu(d)", spread=spread)
    before = without_data(model)
    assert closest(before, levelled(before), models.samples(model)) > 100


def test_it_is_the_same_every_time():
    found = [levelled(without_data(triplet())).model for _ in range(2)]
    first, second = (ir.to_proto(m).SerializeToString(deterministic=True) for m in found)
    assert first == second


CLIPPED = {"first": "Clip(a, zero, top)", "second": "Clip(d, zero, top)"}


def test_without_samples_nothing_under_a_clip_is_scaled():
    before = without_data(triplet(**CLIPPED, zero=0, top=6))
    assert levelled(before).model is before.model


@pytest.mark.parametrize("top", [0.5, 6, 500])
def test_with_samples_the_function_under_a_clip_stays(bench, top):
    state = prepared(bench, triplet(**CLIPPED, zero=0, top=top), PER_TENSOR)
    after = levelled(state)
    assert closest(state, after, state.data) > 100
    if top == 500:  # no channel comes near
        assert after.report.equalized


def test_a_channel_that_a_clip_cuts_off_keeps_its_size(bench):
    state = prepared(bench, triplet(**CLIPPED, zero=0, top=6), PER_TENSOR)
    high = np.max(
        [runtime.load(state.model, outputs=["r"]).run(f)["r"].max(axis=(0, 2, 3)) for f in state.data], axis=0
    )
    cut = high >= 6
    assert cut.any()
    assert not cut.all()
    after = levelled(state)
    before, now = (sizes(s.model)[0] for s in (state, after))
    np.testing.assert_allclose(now[cut], before[cut], rtol=1e-6)
    assert after.report.equalized


def outcome(bench, model, switch, *settings):
    off = ("passes.equalize=off", "passes.smooth=off", *settings)
    made = bench.as_format(model, "integer", *off, f"passes.cross_layer_equalization={switch}").result.state
    return made.report.verification.outputs["y"].sqnr_db, made


def test_weights_with_one_scale_gain(bench):
    off, on = (outcome(bench, triplet(), switch, PER_TENSOR)[0] for switch in ("off", "on"))
    assert on > off + 3


def test_a_set_that_loses_is_left_alone(bench):
    """Level weights would widen the range of the activation by its widest channel, which one of two results needs."""
    first, other = models.weight(6, 4, 1, 1), models.weight(2, 6, 1, 1)
    other[:, 0] = 0
    model = models.text(
        "(float[1,4,8,8] x) => (float[1,1,8,8] y, float[1,2,8,8] z)"
        " { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) z = Conv(r, t) }",
        w=first / np.abs(first).max(axis=1, keepdims=True), b=np.array([9, 0, 0, 0, 0, 0], np.float32),
        v=np.array([1e3, 0, 0, 0, 0, 0], np.float32).reshape(1, 6, 1, 1),
        t=other / np.maximum(np.abs(other).max(axis=0, keepdims=True), 1e-9),
    )  # fmt: skip
    state = prepared(bench, model)
    after = levelled(state)
    assert after.model is state.model
    assert "cross-layer equalization kept on 0 of 1 sets of layers" in after.report.notes


def test_float_weights_have_nothing_to_gain(bench):
    state = prepared(bench, triplet(), PER_TENSOR)
    scheme = dataclasses.replace(
        state.recipe.scheme,
        weights=dataclasses.replace(state.recipe.scheme.weights, dtype="float32"),
        activations=dataclasses.replace(state.recipe.scheme.activations, dtype="float32"),
    )
    state = dataclasses.replace(state, recipe=dataclasses.replace(state.recipe, scheme=scheme))
    assert levelled(state).model is state.model


@pytest.mark.parametrize(
    "source",
    [
        "a = Conv(x, w) r = Sigmoid(a) y = Conv(r, v)",
        "a = Conv(x, w) r = Relu(a) n = InstanceNormalization(r, one, nought) y = Conv(n, v)",
        "a = Conv(x, w) r = Relu(a) s = Exp(a) t = Add(r, s) y = Conv(t, v)",
    ],
)
def test_what_does_not_keep_factors_is_left_alone(source):
    used = {"one": np.ones(6, np.float32), "nought": np.zeros(6, np.float32)} if "one" in source else {}
    model = models.text(
        f"(float[1,4,8,8] x) => (float[1,3,8,8] y) {{ {source} }}", v=models.weight(3, 6, 1, 1),
        w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1), **used,
    )  # fmt: skip
    before = without_data(model)
    assert levelled(before).model is before.model


ROW = """(float[1,4,8,8] x) => (float[1,3,8,8] y) {
  a = Conv(x, w) r = Relu(a) b = Conv(r, k) s = Relu(b) y = Conv(s, v)
}"""


def test_each_set_is_tried_behind_those_before_it(bench, monkeypatch):
    model = models.text(
        ROW, w=models.weight(6, 4, 1, 1) * SPREAD.reshape(6, 1, 1, 1),
        k=models.weight(6, 6, 1, 1) / SPREAD[::-1].reshape(6, 1, 1, 1), v=models.weight(3, 6, 1, 1),
    )  # fmt: skip
    state = prepared(bench, model, PER_TENSOR)
    read = []

    def verdict(trials, _proposal):
        read.append(trials.samples[0])
        assert trials.samples[0].keys() == {"x", "r"}
        return Verdict(np.inf, 1.0, 0.5)

    monkeypatch.setattr(ChainTrials, "verdict", verdict)
    after = levelled(state)
    feed = next(iter(state.observations.part(8).samples))
    before, now = (runtime.load(s.model, outputs=["r"]).run(feed)["r"] for s in (state, after))
    assert not np.allclose(before, now, rtol=0.01)
    np.testing.assert_array_equal(read[0]["r"], before)
    np.testing.assert_allclose(read[-1]["r"], now, rtol=1e-5, atol=1e-6)


def test_samples_seen_before_are_not_seen_again(bench):
    """What was chosen is looked up in what is known, and gives the same model."""

    class Store(dict):
        def find(self, place, subjects):
            return {s: self[place, s] for s in subjects if (place, s) in self}

        def absent(self, *asked):
            assert not self.closed, asked

        def keep(self, place, seen):
            self.update({(place, s): v for s, v in seen.items()})

    store = Store()
    store.closed = False
    state = prepared(bench, triplet(), PER_TENSOR)
    seen = dataclasses.replace(state.observations, store=store, origin=("samples", "all"))
    state = dataclasses.replace(state, observed=seen)
    first = levelled(state)
    store.closed = True
    again = levelled(dataclasses.replace(state, observed=dataclasses.replace(seen, samples=None)))
    assert first.report.equalized == again.report.equalized != ()
    assert ir.to_proto(first.model) == ir.to_proto(again.model)
