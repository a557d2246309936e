"""Ranges are tried where they count: on the results of the model, and never to the harm of what was seen."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import affine, graph, modes, plugins, range_offers, range_proof, range_trials
from quantcli.data import InputSpec, from_arrays
from quantcli.dtypes import UINT8
from quantcli.passes.assign import Assign
from quantcli.passes.calibrate import Calibrate
from quantcli.passes.make_plan import MakePlan
from quantcli.quant import QuantSpec
from quantcli.recipe import Recipe, Step
from quantcli.state import State

F32 = np.float32
CHAIN = "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
FORGIVING = "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) y = Tanh(a) }"


def quiet(_done, _total):
    """Take no note of the progress."""


def auto():
    (step,) = plugins.passes_of(Recipe("r", passes=(Step("calibrate", {"calibrator": "auto", "heedless": True}),)))
    return step.run


def calibrated(source, feeds, *, calibrate=None, mode="int8-only", **arrays):
    model = ir.from_proto(models.text(source, **arrays))
    graph.name_everything(model)
    specs = [
        InputSpec(v.name, np.dtype(F32), tuple(d if isinstance(d, int) else d.value for d in v.shape))
        for v in model.graph.inputs
    ]
    state = State(model, model, modes.resolve(mode), data=from_arrays(feeds, specs))
    return (calibrate or auto())(MakePlan()(state, quiet), quiet)


def rows(count=64, outlier=0.0):
    array = np.random.default_rng(0).normal(size=(count, 6)).astype(F32)
    array[0, 0] = outlier or array[0, 0]
    return [{"x": array[i : i + 1]} for i in range(count)]


def weights(gain=1.0):
    return {"w": models.weight(6, 6) * F32(gain), "v": models.weight(6, 6, seed=1)}


def noise_of(state, name, ends):
    """The noise of the result over its signal, by numpy, when one tensor is on the grid of a range."""
    w, v = (graph.constant(state.model.graph.initializers[n]) for n in ("w", "v"))
    x = np.concatenate([f["x"] for f in state.data])
    grid = affine.choose_params(*ends, state.plan.activations[name])

    def run(*, rounded):
        r = affine.fake_quantize(x, grid) if rounded and name == "x" else x
        r = np.maximum(r @ w, 0)
        r = affine.fake_quantize(r, grid) if rounded and name == "r" else r
        return r @ v

    real = run(rounded=False)
    return float(np.square(run(rounded=True) - real).sum() / np.square(real).sum())


@pytest.mark.parametrize("name", ["x", "r"])
def test_the_noise_is_that_of_the_results(monkeypatch, name):
    monkeypatch.setattr(range_trials, "SAMPLES", (64, 64))
    state = calibrated(CHAIN, rows(outlier=30), **weights())
    (trial,) = [t for t in range_offers.offered(state, 100) if t.name == name]
    (found,) = range_trials._harms(state, [trial], state.data, quiet)
    expected = [noise_of(state, name, ends) for ends in trial.ranges.values()]
    np.testing.assert_allclose([h.noise for h in found], expected, rtol=1e-3)


def test_another_range_is_taken_only_where_it_disturbs_less(monkeypatch):
    monkeypatch.setattr(range_trials, "SAMPLES", (64, 64))
    for outlier in (0.0, 8.0, 300.0):
        state = calibrated(CHAIN, rows(outlier=outlier), **weights())
        picked = range_trials.picked(state, quiet)
        for name in picked.ranges:
            seen = (state.stats[name].min, state.stats[name].max)
            noise, least = (noise_of(state, name, ends) for ends in (picked.ranges[name], seen))
            assert noise <= (range_trials.GAIN * 1.001 if name in picked.methods else 1.001) * least


def test_an_outlier_that_no_result_shows_is_cut_off():
    state = calibrated(FORGIVING, rows(outlier=300), w=np.eye(6, dtype=F32))
    picked = range_trials.picked(state, quiet)
    assert picked.ranges["x"][1] < 60
    assert "x" in picked.methods


def test_an_outlier_that_the_result_is_made_of_stays():
    feeds = [{"x": np.full((1, 6), 300 if i < 8 else 0.5, F32)} for i in range(64)]
    state = calibrated(CHAIN, feeds, w=np.eye(6, dtype=F32), v=np.eye(6, dtype=F32))
    picked = range_trials.picked(state, quiet)
    assert "x" not in picked.methods
    assert Assign()(state, quiet).encodings.tensors["x"].high == pytest.approx(300, rel=1e-3)


def test_ranges_that_are_near_each_other_are_not_tried():
    feeds = [{"x": np.linspace(-1, 1, 6, dtype=F32)[None]} for _ in range(8)]
    assert range_offers.offered(calibrated(CHAIN, feeds, **weights()), 100) == []


def test_tensors_that_share_a_grid_are_tried_together():
    source = ("(float[N,2,8,8] x) => (float[N,3,4,4] y) "
              "{ p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv(p, w) }")  # fmt: skip
    array = np.random.default_rng(0).standard_t(2, (32, 2, 8, 8)).astype(F32)
    state = calibrated(source, [{"x": a[None]} for a in array], w=models.weight(3, 2, 1, 1))
    (trial,) = [t for t in range_offers.offered(state, 100) if "x" in t.group]
    assert trial.group == {"x", "p"}
    assert range_trials._Behind(state.model, trial).sources == ["x"]
    tensors = Assign()(state, quiet).encodings.tensors
    assert tensors["x"].same_as(tensors["p"])


def test_a_constant_beside_what_is_made_of_it_is_not_computed():
    """A table shares the grid of what is taken from it."""
    source = "(float[N,6] x) => (float[N,6] y) { e = Mul(x, t) y = MatMul(e, w) }"
    state = calibrated(source, rows(), t=models.weight(6, seed=3), w=models.weight(6, 6))
    trial = range_offers.Trial("e", frozenset({"e", "t"}), {"minmax": (0.0, 8.0), "mse": (0.0, 4.0)}, grids(8.0, 4.0))
    assert range_trials._Behind(state.model, trial).sources == ["e"]
    (found,) = range_trials._harms(state, [trial], state.data, quiet)
    assert len(found) == 2


def test_only_tensors_whose_calibrator_offers_several_are_tried():
    state = calibrated(CHAIN, rows(outlier=300), calibrate=Calibrate(), **weights())
    assert range_trials.picked(state, quiet) == range_trials.Picked()


def test_without_samples_the_error_of_the_tensor_decides():
    state = calibrated(CHAIN, rows(outlier=300), **weights())
    for alone in (replace(state, data=None), replace(state, stand_in=True)):
        count = len(range_offers.offered(state, 100))
        assert range_trials.picked(alone, quiet) == range_trials.Picked(untried=count)
        done = Assign()(alone, quiet)
        assert done.encodings.tensors["x"].high <= state.stats["x"].max * 1.001
        assert f"ranges of {count} tensors are of least error by themselves" in "".join(done.report.notes)


def test_the_low_end_of_scores_stays():
    source = "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) y = Softmax(a) }"
    (calibrate,) = plugins.passes_of(
        Recipe("r", passes=(Step("calibrate", {"calibrator": "percentile", "percentile": 80}),))
    )
    state = calibrated(source, rows(), calibrate=calibrate.run, w=np.eye(6, dtype=F32))
    low, high = Assign()(state, quiet).report.ranges["a"]
    assert low == state.stats["a"].min
    assert high < state.stats["a"].max / 1.5


def test_a_tensor_is_tried_in_its_own_grid():
    state = calibrated(CHAIN, rows(outlier=300), mode="16x8", **weights())
    picked = range_trials.picked(state, quiet)
    assert all(t.grids[0].spec.dtype.name == "int16" for t in range_offers.offered(state, 100))
    assert "x" not in picked.methods


def test_methods_are_told():
    state = Assign()(calibrated(FORGIVING, rows(outlier=300), w=np.eye(6, dtype=F32)), quiet)
    (note,) = [n for n in state.report.notes if n.startswith("ranges that serve better than min-max: ")]
    assert "'x' " in note


def test_the_number_of_samples_is_bounded(monkeypatch):
    asked = []

    def noises(_state, trials, samples, _tick):
        asked.append(len(samples))
        return [None] * len(trials)

    monkeypatch.setattr(range_trials, "_harms", noises)
    state = calibrated(CHAIN, rows(outlier=300), **weights())
    range_trials.picked(state, quiet)
    monkeypatch.setattr(range_trials, "RUNS", 1)
    monkeypatch.setattr(range_trials, "ACTIVATIONS", 1)
    range_trials.picked(state, quiet)
    assert asked == [32, 32, 1, 1]  # two halves each time


def test_ranges_that_serve_alone_and_not_together_are_not_taken():
    """Cutting off any one of them is hidden by the noise of the others; all together are far off."""
    sites = [(["x"], grids(8.0, 4.0)), (["r"], grids(8.0, 4.0))]
    model = ir.from_proto(models.text("(float[N,6] x) => (float[N,6] y) { r = Relu(x) y = Add(r, x) }"))
    graph.name_everything(model)
    feeds = [{"x": np.full((1, 6), value, F32)} for value in (1.0, 2.0, 8.0)]
    assert range_proof.together(model, sites, [{0: 1, 1: 1}], feeds, 1) == {}
    calm = [{"x": np.linspace(0, 4, 6, dtype=F32)[None]}]
    assert range_proof.together(model, sites, [{0: 1, 1: 1}], calm, 1) == {0: 1, 1: 1}


def test_less_noise_of_fewer_and_larger_errors_is_no_gain():
    """What is cut off of one value in a thousand is less, squared, than what a finer step saves on all the others."""
    model = ir.from_proto(models.text("(float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }"))
    graph.name_everything(model)
    sites = [(["a"], grids(8.0, 4.0)), (["b"], grids(8.0, 4.0))]
    calm = np.linspace(0, 3.9, 1000, dtype=F32)
    rare = np.append(calm[:-1], F32(4.2))
    cut, kept = (np.minimum(rare, end) for end in (4.0, 8.0))
    assert np.square(rare - cut).sum() < np.square(rare - affine.fake_quantize(kept, sites[0][1][0])).sum()
    both, harmless = {0: 1, 1: 1}, {1: 1}
    assert range_proof.together(model, sites, [both, harmless], [{"a": rare, "b": calm}], 1) == harmless
    assert range_proof.together(model, sites, [both, harmless], [{"a": calm, "b": calm}], 1) == both
    assert range_proof.together(model, sites, [both], [{"a": rare, "b": calm}], 1) == {}


def test_no_result_pays_for_another():
    model = ir.from_proto(models.text("(float[N] a, float[N] b) => (float[N] y, float[N] z) { y = Neg(a) z = Neg(b) }"))
    graph.name_everything(model)
    coarse, fine = grids(8.0, 3.0)
    sites = [(["a"], (coarse, fine)), (["b"], (coarse, fine))]
    b = np.linspace(0, 2.9, 1000, dtype=F32)
    exact = affine.fake_quantize(b, coarse)  # with the finer grid it is off by a little
    assert range_proof.together(model, sites, [{0: 1, 1: 1}, {1: 1}], [{"a": exact, "b": b}], 1) == {1: 1}


@pytest.mark.parametrize(("better", "taken"), [(5, True), (4, True), (3, False)])
def test_nearly_every_sample_must_gain(better, taken):
    """One sample of large errors outweighs four others in the sum."""
    model = ir.from_proto(models.text("(float[N] a) => (float[N] y) { y = Neg(a) }"))
    graph.name_everything(model)
    coarse, fine = grids(8.0, 3.0)
    gains = np.linspace(0, 2.9, 1000, dtype=F32)
    loses = affine.fake_quantize(gains[:50], coarse)
    feeds = [{"a": gains}] * better + [{"a": loses}] * (5 - better)
    assert range_proof.together(model, [(["a"], (coarse, fine))], [{0: 1}], feeds, 1) == ({0: 1} if taken else {})


def grids(*ends):
    """Grids of uint8 from 0 to each end."""
    spec = QuantSpec(UINT8, symmetric=False)
    return tuple(affine.choose_params(0.0, end, spec) for end in ends)


def test_what_no_later_product_reads_is_not_cut_off():
    state = calibrated(CHAIN, rows(outlier=300), **weights())
    names = {t.name for t in range_offers.offered(state, 100)}
    assert "x" in names
    assert "y" not in names


@pytest.mark.parametrize(("share", "taken"), [(0.94, False), (1e-9, True)])
def test_a_finer_range_has_to_leave_as_much_less_noise(monkeypatch, share, taken):
    """An outlier of 300 is cut to a hundredth: 0.94 of the noise is no proof of that."""

    def noises(_state, trials, _samples, _tick):
        return [[range_trials.Harm(n, n) for n in (1.0, *[share] * (len(t.grids) - 1))] for t in trials]

    monkeypatch.setattr(range_trials, "_harms", noises)
    monkeypatch.setattr(range_trials, "together", lambda _model, _sites, choices, _samples, _threads: choices[0])
    state = calibrated(CHAIN, rows(outlier=300), **weights())
    assert bool(range_trials.picked(state, quiet).methods) is taken
