"""Smoothing moves the unevenness of activations into weights, where that pays, and keeps the float function."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import onnx
import pytest

from quantcli import api, runtime
from quantcli.metrics import Comparison
from quantcli.passes.smooth import Smooth

LOUD = np.where(np.arange(32) % 8 == 0, 20.0, 1.0).astype(np.float32)
BLOCK = """(float[N,32] x) => (float[N,16] y, float[N,16] z) {
  n = LayerNormalization(x, g, b) y = MatMul(n, w) z = MatMul(n, v)
}"""
GATED = """(float[N,32] x) => (float[N,16] y) {
  p = MatMul(x, w) u = MatMul(x, k) s = Sigmoid(p) a = Mul(s, u) y = MatMul(a, v)
}"""
PLAIN = ("passes.gptq=off", "passes.bias_correction=off", "passes.choose_dynamic=off")


def block(gain=LOUD):
    return models.text(
        BLOCK, g=gain, b=models.weight(32) * gain, w=models.weight(32, 16), v=models.weight(32, 16, seed=1)
    )


def gated():
    return models.text(
        GATED, w=models.weight(32, 32), k=models.weight(32, 32, seed=1) * LOUD, v=models.weight(32, 16, seed=2)
    )


@pytest.fixture(scope="module")
def feeds():
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(16, 32)).astype(np.float32)} for _ in range(12)]


@pytest.fixture
def state_of(bench, feeds):
    return lambda model: bench.convert(model, "full-integer", "passes.smooth=off", *PLAIN, feeds=feeds).result.state


def smoothed(state, **options):
    return Smooth(**options)(state, lambda _done, _total: None)


@pytest.mark.parametrize("make", [block, gated])
def test_the_float_function_stays(make, state_of):
    state = state_of(make())
    after = smoothed(state)
    assert after.model is not state.model
    for feed in state.data:
        expected, found = (runtime.load(m).run(feed) for m in (state.model, after.model))
        assert all(Comparison().add(expected[n], found[n]).sqnr_db > 100 for n in expected)


def test_the_channels_come_closer(state_of):
    state = state_of(block())

    def unevenness(model):
        session = runtime.load(model, outputs=["n"])
        high = np.max([np.abs(session.run(f)["n"]).max(axis=0) for f in state.data], axis=0)
        return high.max() / high.min()

    assert unevenness(smoothed(state).model) < 0.5 * unevenness(state.model)


def test_what_was_smoothed_is_said(state_of):
    after = smoothed(state_of(block()))
    assert "n" in after.report.equalized
    assert "smoothing kept on 1 of 1 activations" in after.report.notes


@pytest.mark.parametrize("make", [block, gated])
def test_it_pays(make, bench, feeds):
    off, on = (
        bench.convert(make(), "full-integer", f"passes.smooth={switch}", *PLAIN, feeds=feeds).result.state.report
        for switch in ("off", "on")
    )
    worst = [min(o.sqnr_db for o in r.verification.outputs.values()) for r in (off, on)]
    assert worst[1] > worst[0] + 3


def test_even_channels_are_left_alone(state_of):
    state = state_of(block(np.ones(32, np.float32)))
    after = smoothed(state, gain=0.3)
    assert after.model is state.model
    assert "smoothing kept on 0 of 1 activations" in after.report.notes


def test_what_equalize_looks_after_is_left_to_it(bench, feeds):
    model = models.text(
        "(float[N,32] x) => (float[N,16] y) { p = MatMul(x, w) r = Relu(p) y = MatMul(r, v) }",
        w=models.weight(32, 32) * LOUD, v=models.weight(32, 16),
    )  # fmt: skip
    notes = {
        switch: bench.convert(
            model, "full-integer", f"passes.equalize={switch}", *PLAIN, feeds=feeds
        ).result.state.report
        for switch in ("on", "off")
    }
    assert not any("smoothing" in n for n in notes["on"].notes)
    assert any("smoothing kept on 1 of 1" in n for n in notes["off"].notes)


def test_a_change_of_the_outputs_for_the_worse_is_taken_back(state_of, monkeypatch):
    state = state_of(block())
    assert smoothed(state).model is not state.model
    scores = iter([20.0, 19.0])
    monkeypatch.setattr("quantcli.smoothing_trial._Outputs.sqnr", lambda _self, _model: next(scores))
    assert smoothed(state).model is state.model


def test_where_all_together_do_harm_each_half_is_tried(bench, feeds, monkeypatch):
    source = BLOCK.replace("z = MatMul(n, v)", "m = LayerNormalization(x, h) z = MatMul(m, v)")
    arrays = {"g": LOUD, "b": models.weight(32), "h": LOUD, "w": models.weight(32, 16), "v": models.weight(32, 16)}
    made = bench.convert(models.text(source, **arrays), "full-integer", "passes.smooth=off", *PLAIN, feeds=feeds)
    scores = iter([20.0, 19.0, 21.0, 20.5])  # nothing, both, the first, the second on top
    monkeypatch.setattr("quantcli.smoothing_trial._Outputs.sqnr", lambda _self, _model: next(scores))
    assert "smoothing kept on 1 of 2 activations" in smoothed(made.result.state).report.notes


def test_a_model_without_products_is_left_alone(bench):
    model = models.text("(float[2,3,8,8] x) => (float[2,4,8,8] y) { y = Conv(x, w) }", w=models.weight(4, 3, 1, 1))
    state = bench.convert(model, "full-integer", "passes.smooth=off").result.state
    assert smoothed(state) is state


def test_where_activations_stay_float_it_is_left_out_and_said(bench, feeds):
    state = bench.convert(block(), "weight-only-int8", "passes.plan_weights.smallest=1", feeds=feeds).result.state
    after = smoothed(state)
    assert after.model is state.model
    assert any(n.startswith("smoothing was left out") for n in after.report.notes)


def test_saved_statistics_bring_the_same_factors(tmp_path, feeds):
    onnx.save(block(), tmp_path / "m.onnx")
    data = tmp_path / "data.npz"
    np.savez(data, x=np.concatenate([f["x"] for f in feeds]))
    asked = api.Options(threads=1, cache=False)
    api.calibrate(
        tmp_path / "m.onnx",
        modes=("full-integer",),
        representative_dataset=data,
        output=tmp_path / "s.json",
        options=asked,
    )
    grids = []
    for source, options in ((data, asked), (None, replace(asked, stats=tmp_path / "s.json"))):
        made = api.convert(
            tmp_path / "m.onnx",
            mode="full-integer",
            representative_dataset=source,
            output=tmp_path / "o.onnx",
            options=options,
        )
        assert "n" in made.state.report.equalized
        grids.append({e["name"]: e["y_scale"] for e in made.encodings["encodings"]})
    assert grids[0] == grids[1]


def test_a_body_is_smoothed_like_a_model(bench, feeds):
    model = models.text(
        """(bool c, float[16,32] x) => (float[16,16] y) {
          y = If (c) <then_branch = t () => (float[16,16] a) { n = LayerNormalization(x, g) a = MatMul(n, w) },
                      else_branch = e () => (float[16,16] b) { b = MatMul(x, v) }>
        }""",
        g=LOUD, w=models.weight(32, 16), v=models.weight(32, 16, seed=1),
    )  # fmt: skip
    fed = [{"c": np.asarray(i % 2 == 0), **f} for i, f in enumerate(feeds)]
    off, on = (
        bench.convert(model, "full-integer", f"passes.smooth={s}", *PLAIN, feeds=fed).result.state.report
        for s in ("off", "on")
    )
    worst = [r.verification.outputs["y"].sqnr_db for r in (off, on)]
    assert worst[1] > worst[0] + 1


def test_the_same_twice(state_of):
    state = state_of(block())
    first, second = (smoothed(state).model.graph.initializers["g"].const_value.numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
