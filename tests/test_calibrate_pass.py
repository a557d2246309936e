"""Calibration: one streaming pass that sees every sample once, in any order, and only the tensors of the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import graph, modes
from quantcli.data import InputSpec, from_arrays
from quantcli.passes.calibrate import Calibrate
from quantcli.passes.make_plan import MakePlan
from quantcli.state import State

TWO_LAYERS = """(float[N, 3] x) => (float[N, 3] y) {
  a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v)
}"""


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def planned(source: str = TWO_LAYERS, mode: str = "int8-only", **arrays: np.ndarray) -> State:
    arrays = arrays or {"w": models.weight(3, 3), "v": models.weight(3, 3, seed=1)}
    model = ir.from_proto(models.text(source, **arrays))
    graph.name_everything(model)
    return MakePlan()(State(original=model, model=model, recipe=modes.resolve(mode)), quiet)


def specs(state: State) -> list[InputSpec]:
    shapes = {v.name: tuple(d if isinstance(d, int) else d.value for d in v.shape) for v in state.model.graph.inputs}
    return [InputSpec(v.name, np.dtype(v.dtype.numpy()), shapes[v.name]) for v in state.model.graph.inputs]


def with_data(state: State, *feeds: object) -> State:
    arrays = [f if isinstance(f, dict) else {"x": np.asarray(f, np.float32)} for f in feeds]
    return replace(state, data=from_arrays(arrays, specs(state)))


def calibrated(*feeds: object, source: str = TWO_LAYERS, **arrays: np.ndarray) -> State:
    return Calibrate()(with_data(planned(source, **arrays), *feeds), quiet)


def random_feeds(count: int = 6, batch: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, 3)).astype(np.float32) for _ in range(count)]


def test_every_activation_of_the_plan_is_seen_and_nothing_else():
    state = calibrated(*random_feeds())
    assert set(state.stats) == set(state.plan.activations) == {"x", "b", "y"}


def test_the_range_of_an_input_is_that_of_all_samples():
    state = calibrated([[1, 2, 3]], [[-4, 0, 0]], [[0, 9, 0]])
    assert (state.stats["x"].min, state.stats["x"].max) == (-4, 9)


def test_an_extreme_in_the_first_sample_is_not_forgotten():
    state = calibrated([[100, -100, 0]], *[[[0.5, 0.5, 0.5]]] * 5)
    assert (state.stats["x"].min, state.stats["x"].max) == (-100, 100)


def test_the_range_of_a_computed_tensor_is_what_the_float_model_computes():
    feeds = random_feeds()
    state = calibrated(*feeds)
    w = models.weight(3, 3)
    seen = [np.maximum(f @ w, 0) for f in feeds]
    assert state.stats["b"].max == pytest.approx(max(s.max() for s in seen), rel=1e-6)
    assert state.stats["b"].count == sum(s.size for s in seen)


def test_the_order_of_the_samples_does_not_matter():
    feeds = random_feeds(8)
    assert calibrated(*feeds).stats == calibrated(*feeds[::-1]).stats


def test_the_batch_of_the_samples_does_not_matter():
    feeds = random_feeds(8, batch=1)
    assert calibrated(*feeds).stats == calibrated(np.concatenate(feeds[:3]), np.concatenate(feeds[3:])).stats


def test_samples_may_have_different_lengths():
    source = """(float[N, 2, length] x) => (float[N, 2, length] y) {
      y = Conv<kernel_shape = [1]>(x, w)
    }"""
    feeds = [models.weight(1, 2, n) for n in (7, 33, 128)]
    state = calibrated(*feeds, source=source, w=models.weight(2, 2, 1))
    assert state.stats["y"].count == 2 * (7 + 33 + 128)
    assert state.stats["x"].max == max(f.max() for f in feeds)


def test_a_constant_is_not_calibrated():
    source = "(float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w)  y = Sub(c, a) }"
    state = calibrated(*random_feeds(), source=source, w=models.weight(3, 3), c=models.weight(2, 3))
    assert "c" in state.plan.activations
    assert "c" not in state.stats


def test_an_output_that_is_an_input_keeps_the_range_of_each_sample():
    """onnxruntime returns the buffer of the input itself; the next sample must not change what was seen."""
    source = "(float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = MatMul(x, w)  z = Identity(x) }"
    state = calibrated([[5, 0, 0]], [[0, 0, -7]], source=source, w=models.weight(3, 3))
    assert (state.stats["x"].min, state.stats["x"].max) == (-7, 5)


def test_values_that_are_not_finite_are_counted_and_left_out():
    source = "(float[N, 3] x) => (float[N, 3] y) { l = Log(x)  a = MatMul(l, w)  y = Relu(a) }"
    state = calibrated([[0, 1, 2.7182817]], source=source, w=models.weight(3, 3))
    assert (state.stats["l"].min, state.stats["l"].not_finite) == (0, 1)
    assert state.stats["l"].max == pytest.approx(1)


def test_the_passage_is_told_sample_by_sample():
    told: list[tuple[int, int]] = []
    Calibrate()(with_data(planned(), *random_feeds(4)), lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_only_one_sample_is_read_ahead():
    """A sample is observed before the next one is asked for."""
    events: list[str] = []

    @dataclass(frozen=True)
    class Watched:
        source: object

        def __getattr__(self, name):
            return getattr(self.source, name)

        def read(self, indices):
            for i, feed in enumerate(self.source.read(indices)):
                events.append(f"read {i}")
                yield feed

    state = with_data(planned(), *random_feeds(4))
    state = replace(state, data=replace(state.data, source=Watched(state.data.source)))
    Calibrate()(state, lambda done, _total: events.append(f"done {done - 1}"))
    count = len(state.data)
    assert events == [f"{what} {i}" for i in range(count) for what in ("read", "done")]
    assert count >= 4


def test_the_model_runs_once_per_sample(monkeypatch):
    from quantcli import runtime  # noqa: PLC0415 - to be watched

    runs: list[int] = []
    real = runtime.Session.run
    monkeypatch.setattr(runtime.Session, "run", lambda self, feed: runs.append(1) or real(self, feed))
    Calibrate()(with_data(planned(), *random_feeds(5)), quiet)
    assert len(runs) == 5


def test_the_report_has_mean_and_deviation_of_what_was_fed():
    feeds = random_feeds()
    found = calibrated(*feeds).report.feeds["x"]
    every = np.concatenate(feeds).astype(np.float64)
    assert found.count == every.size
    assert (found.min, found.max) == (every.min(), every.max())
    assert (found.mean, found.std) == pytest.approx((every.mean(), every.std()))


def test_a_large_mean_does_not_drown_the_deviation():
    feeds = [np.full((1, 3), 1e4, np.float32) + f for f in random_feeds(20, batch=1)]
    every = np.concatenate(feeds).astype(np.float64)
    assert calibrated(*feeds).report.feeds["x"].std == pytest.approx(every.std(), rel=1e-3)


PIXELS = [[[0, 128, 255]]]


def test_raw_pixels_are_warned_of():
    (warning,) = calibrated(*PIXELS).report.warnings
    assert warning.startswith("input 'x' ranges over 0..255: raw pixels?")


@pytest.mark.parametrize("feeds", [[[[0, 0.5, 1]]], [[[-128, 0, 255]]], [[[0, 100, 1000]]]], ids=str)
def test_other_ranges_are_not_taken_for_raw_pixels(feeds):
    assert calibrated(*feeds).report.warnings == ()


def test_integers_of_0_to_255_are_what_an_integer_input_expects():
    source = "(uint8[N, 3] x) => (float[N, 3] y) { f = Cast<to = 1>(x)  y = MatMul(f, w) }"
    feeds = {"x": np.array([[0, 128, 255]], np.uint8)}
    state = calibrated(feeds, source=source, w=models.weight(3, 3))
    assert state.report.warnings == ()
    assert (state.report.feeds["x"].min, state.report.feeds["x"].max) == (0, 255)


def test_without_data_nothing_happens():
    state = planned()
    assert Calibrate()(state, quiet) is state


def test_the_state_before_stays_as_it_was():
    before = with_data(planned(), *random_feeds())
    Calibrate()(before, quiet)
    assert (before.stats, before.report.feeds) == ({}, {})
