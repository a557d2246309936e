"""One range for samples that differ much drowns most of them: such inputs of products are quantized at run time."""

from __future__ import annotations

import conversion
import models
import numpy as np
import pytest

from quantcli import metrics

WIDTH = 256


def net(tail="y = Tanh(a)"):
    return models.text(
        f"(float[8,{WIDTH}] x) => (float y) {{ n = Neg(x) a = MatMul(n, w) {tail} }}",
        w=models.weight(WIDTH, WIDTH, spread=0.02),
    )


def feeds(loudness):
    rng = np.random.default_rng(0)
    return [{"x": (rng.standard_normal((8, WIDTH)) * k).astype(np.float32)} for k in loudness]


VARYING, STEADY = [10.0, *[0.1] * 15], [1.0] * 16


def form(made):
    (entry,) = [e for e in made.ledger.values() if e.op_type == "MatMul"]
    assert entry.fate == "integer"
    return "dynamic" if "run time" in entry.kernel else "static"


@pytest.mark.parametrize(("loudness", "expected"), [(VARYING, "dynamic"), (STEADY, "static")])
def test_the_samples_decide(bench, loudness, expected):
    made = bench.convert(net(), "full-integer", feeds=feeds(loudness))
    assert form(made) == expected


def test_quiet_samples_are_heard(bench):
    made = bench.convert(net("y = Identity(a)"), "full-integer", feeds=feeds(VARYING))
    quiet = made.feeds[-1]
    assert form(made) == "dynamic"
    assert metrics.sqnr_db(conversion.run(made.float_model, quiet)["y"], made.run(quiet)["y"]) > 30
    off = bench.convert(net("y = Identity(a)"), "full-integer", "passes.choose_dynamic=off", feeds=feeds(VARYING))
    assert form(off) == "static"
    assert metrics.sqnr_db(conversion.run(made.float_model, quiet)["y"], off.run(quiet)["y"]) < 15


def test_between_integer_operators_ranges_stay_static(bench):
    model = models.text(
        f"(float[8,{WIDTH}] x) => (float y) {{ a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }}",
        w=models.weight(WIDTH, WIDTH, spread=0.02),
    )
    made = bench.convert(model, "full-integer", feeds=feeds(STEADY))
    assert not any("run time" in e.kernel for e in made.ledger.values())


def test_an_integer_boundary_stays_static(bench):
    model = models.text(
        f"(float[8,{WIDTH}] x) => (float y) {{ a = MatMul(x, w) y = Tanh(a) }}",
        w=models.weight(WIDTH, WIDTH, spread=0.02),
    )
    made = bench.convert(model, "full-integer", feeds=feeds(VARYING), input_type="int8")
    assert form(made) == "static"


def test_where_no_float_is_allowed_ranges_stay_static(bench):
    model = models.text(f"(float[8,{WIDTH}] x) => (float y) {{ y = MatMul(x, w) }}", w=models.weight(WIDTH, WIDTH))
    made = bench.convert(model, "int8-only", feeds=feeds(VARYING), input_type="float32", output_type="float32")
    assert form(made) == "static"


def test_the_order_of_the_samples_does_not_matter(bench):
    given = feeds(VARYING)
    one = bench.convert(net(), "full-integer", feeds=given).model.SerializeToString()
    assert bench.convert(net(), "full-integer", feeds=given[::-1]).model.SerializeToString() == one
