"""Equalization scales channels and leaves the float function alone."""

from __future__ import annotations

import models
import numpy as np
import pytest

from quantcli import runtime
from quantcli.metrics import Comparison
from quantcli.passes.equalize import Equalize

SOURCE = """(float[1,4,8,8] x) => (float[1,3,8,8] y) {
  a = Conv(x, w, b) r = Relu(a) d = Conv<group = 6, pads = [1, 1, 1, 1]>(r, k) c = Clip(d, zero, six) y = Conv(c, v)
}"""
SPREAD = np.array([1, 2, 5, 10, 20, 40], np.float32).reshape(6, 1, 1, 1)


def network():
    return models.text(
        SOURCE, w=models.weight(6, 4, 1, 1) * SPREAD, b=models.weight(6), k=models.weight(6, 1, 3, 3) / SPREAD,
        v=models.weight(3, 6, 1, 1), zero=0, six=6,
    )  # fmt: skip


@pytest.fixture
def state(bench):
    return bench.as_format(network(), "qdq", "passes.equalize=off").result.state


def equalized(state):
    return Equalize()(state, lambda _done, _total: None)


def test_the_float_function_stays(state):
    before, after = (runtime.load(s.model) for s in (state, equalized(state)))
    for feed in state.data:
        assert Comparison().add(before.run(feed)["y"], after.run(feed)["y"]).sqnr_db > 100


def test_the_function_of_normalized_channels_stays_to_a_part_in_100000(bench):
    state = bench.convert(normalized(), "full-integer", "passes.equalize=off").result.state
    found = equalized(state)
    assert "a" in found.report.equalized
    before, after = (runtime.load(s.model) for s in (state, found))
    total = Comparison()
    for feed in state.data:
        total = total.add(before.run(feed)["y"], after.run(feed)["y"])
    assert total.sqnr_db > 100


def test_the_channels_come_closer(state):
    def spread(model):
        session = runtime.load(model, outputs=["r"])
        high = np.max([session.run(f)["r"].max(axis=(0, 2, 3)) for f in state.data], axis=0)
        return high.max() / high.min()

    assert spread(equalized(state).model) < spread(state.model)


def test_scaled_tensors_are_named(state):
    assert "r" in equalized(state).report.equalized
    assert "y" not in equalized(state).report.equalized


def test_it_pays(bench):
    model = network()
    off, on = (
        bench.as_format(model, "integer", f"passes.equalize={switch}").result.state.report.verification.outputs["y"]
        for switch in ("off", "on")
    )
    assert on.sqnr_db > off.sqnr_db


def normalized(epsilon=1e-5, scale=1.0):
    """A convolution whose channels differ much, each normalized by itself, as style transfer has it."""
    return models.text(
        f"(float[1,4,8,8] x) => (float[1,3,8,8] y) {{ a = Conv(x, w, b)"
        f" n = InstanceNormalization<epsilon = {epsilon}>(a, one, nought) r = Relu(n) y = Conv(r, v) }}",
        w=models.weight(6, 4, 1, 1) * SPREAD * np.float32(scale), b=models.weight(6), v=models.weight(3, 6, 1, 1),
        one=np.ones(6, np.float32), nought=np.zeros(6, np.float32),
    )  # fmt: skip


def test_channels_that_are_normalized_take_the_whole_range(bench):
    off, on = (
        bench.convert(normalized(), "full-integer", f"passes.equalize={switch}").result.state
        for switch in ("off", "on")
    )
    assert "a" in on.report.equalized
    found = [s.report.verification.outputs["y"].sqnr_db for s in (off, on)]
    assert found[1] > found[0] + 6


def test_a_channel_as_small_as_epsilon_is_left_alone(bench):
    made = bench.convert(normalized(epsilon=0.5, scale=0.01), "full-integer", "passes.equalize=on").result.state
    assert "a" not in made.report.equalized
    assert not any("left out" in n for n in made.report.notes)
